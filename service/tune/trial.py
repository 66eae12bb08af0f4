"""One measurement of a candidate: a server is started, asked by waiting clients for a while, and ended."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import httpx

from service.client import exchange
from service.client.exchange import Options
from service.commands.report import spell
from service.loadtest.drive import Load, Target, drive
from service.loadtest.figures import Figures
from service.loadtest.sample import Sample
from service.loadtest.sweep import holds
from service.loadtest.wire import GIVE_UP, encode
from service.tune.candidates import Candidate
from service.tune.choice import Round
from service.tune.clients import MARGIN, best_clients, next_clients
from service.tune.server import Running, TuneError, running

WARMUP = 1.0
"""Seconds before each measurement."""
SEARCHING = 2.0
"""Seconds of each step that looks for how many clients a candidate bears."""
IMAGES = 5
"""A step is as long as that many images take alone, at least."""
LOOKED_AT = 16
"""Images that are asked for by themselves before anything is measured."""
ANSWERS, LONGEST = 120, 60.0
"""A measurement goes on for about so many answers, so that there is a p99, but for that at most so many seconds."""


@dataclass
class Trials:
    """Measures candidates of one model.

    Args:
        folder: NAME in the repository.
        text: its serving.toml.
        images: to send.
        views: the plan; the model's own when None.
        latency_ms: the limit of the p99.
        seconds: of a measurement, at least.
        clients: to begin the search with.
    """

    folder: Path
    text: str
    images: Mapping[str, bytes]
    views: str | None
    latency_ms: int
    seconds: float
    clients: int
    _alone: float = 0.0
    """Seconds of an image that is asked for alone."""
    _found: dict[Candidate, Figures] = field(default_factory=dict)
    """By candidate the step that was found: so many clients ask it from then on."""

    def measure(self, candidate: Candidate) -> Round:
        """Raises TuneError: its server does not start, or does not answer."""
        with running(self.folder, self.text, candidate) as server:
            target = self._target(server)
            if candidate not in self._found:
                self._found[candidate] = self._search(target)
            found = self._found[candidate]
            clients = found.concurrency or 1
            seconds = max(self.seconds, min(ANSWERS / max(found.throughput, 0.1), LONGEST))
            figures = self._drive(target, Load(WARMUP, seconds, concurrency=clients))
        return Round(figures.goodput, figures.percentile(99), holds(figures, None), clients)

    def look(self, candidate: Candidate) -> Running:
        """What its server says of itself. Raises TuneError: it does not start, or does not answer as asked."""
        with running(self.folder, self.text, candidate) as server, _client(server) as http:
            for name, image in islice(self.images.items(), LOOKED_AT):
                began = time.monotonic()
                try:
                    answer = http.send(exchange.classify(self.folder.name, image, self._options).request(http))
                except httpx.HTTPError as error:
                    raise TuneError(f"{spell(name)}: no answer: {error}") from error
                if not answer.is_success:
                    raise TuneError(f"{spell(name)}: {answer.json()['code']}: {answer.json()['detail']}")
                self._alone = max(self._alone, time.monotonic() - began)
        return server

    @property
    def _options(self) -> Options:
        return {"views": self.views}

    def _target(self, server: Running) -> Target:
        with _client(server) as http:
            questions = [exchange.classify(self.folder.name, image, self._options) for image in self.images.values()]
            return Target(server.url, [encode(http, question) for question in questions], self.latency_ms)

    def _search(self, target: Target) -> Figures:
        """The step whose number of clients is the right one."""
        strict = replace(target, deadline_ms=MARGIN * self.latency_ms)
        seconds, steps = max(SEARCHING, IMAGES * self._alone), list[Figures]()
        while (clients := next_clients(steps, self.clients)) is not None:
            steps.append(self._drive(strict, Load(WARMUP / 2, seconds, concurrency=clients)))
        return best_clients(steps)

    def _drive(self, target: Target, load: Load) -> Figures:
        figures, interrupted = drive(target, load, _nothing)
        if interrupted or figures is None:
            raise KeyboardInterrupt
        if figures.sent and not figures.answered:
            said = ", ".join([*figures.refused, *figures.errors]) or "nothing came in time"
            raise TuneError(f"no image was answered: {said}")
        return figures


def _client(server: Running) -> httpx.Client:
    """Straight to it, whatever proxy the environment names."""
    return httpx.Client(base_url=server.url, timeout=GIVE_UP, trust_env=False)


def _nothing(samples: Sequence[Sample], seconds: float) -> None:
    """Nobody watches a single measurement."""
