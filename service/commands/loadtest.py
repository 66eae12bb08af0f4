"""Load on a running server with real images, and what it makes of it: `multicrop-service loadtest`."""

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn, Self

import httpx
import numpy as np
from pydantic import Field, model_validator
from pydantic_settings import CliImplicitFlag, CliPositionalArg
from tqdm import tqdm

from bundle.serving import MAX_TIMEOUT_MS
from service.client import ClientError, Prediction, exchange
from service.client.exchange import Options
from service.commands.asking import ServerJob, named
from service.commands.bulk import SUFFIXES, find, read_image
from service.commands.output import OutputError
from service.commands.report import spell
from service.loadtest.arrivals import Arrivals
from service.loadtest.drive import Load, Target, Watch, drive
from service.loadtest.figures import Figures
from service.loadtest.generator import MOST_CONNECTIONS
from service.loadtest.report import Report, number
from service.loadtest.sample import OK, Sample
from service.loadtest.sweep import next_load
from service.loadtest.wire import encode

MAX_IMAGES_BYTES = 512 << 20
"""Of all images together: they are held in memory."""
PROBING = 2.0
"""Seconds of a closed loop that finds a first rate for a sweep."""
PROBERS = 8
"""Its clients."""
BELOW = 4.0
"""A sweep begins at what the probe found, divided by this."""
LATELY = 1000
"""Samples that the line on the terminal is about: all of a long run would take time while requests are due."""

_EXPIRED = 504


class LoadtestJob(ServerJob):
    """Sends images to a running server as fast as told, and tells how it bears that: answers per second, percentiles, where the time goes; with --sweep how much it bears at most."""  # noqa: E501 the help shows it as it is

    paths: Annotated[CliPositionalArg[list[str]], Field(min_length=1)]
    """images, and folders that are searched for .jpg, .jpeg, .png and .webp"""
    views: str | None = None
    """the view plan; the model's own when left out"""
    concurrency: int = Field(default=8, ge=1, le=MOST_CONNECTIONS)
    """clients of a closed loop: each sends the next request when it has its answer"""
    rate: float | None = Field(default=None, gt=0, le=100_000)
    """requests per second of an open loop: sent when they are due, whatever became of those before"""
    arrivals: Arrivals = "poisson"
    """of an open loop: poisson, as of many independent users, or constant"""
    duration: float = Field(default=10.0, gt=0)
    """seconds that are measured, of each step"""
    warmup: float = Field(default=2.0, ge=0)
    """seconds before, that are not"""
    deadline: int | None = Field(default=None, ge=1, le=MAX_TIMEOUT_MS)
    """milliseconds: sent as timeout_ms, and what counts as in time"""
    sweep: CliImplicitFlag[bool] = False
    """raise the load until the server does not bear it, then look closer: from --rate, --concurrency, or a quarter of what a short probe finds"""  # noqa: E501 as above
    as_json: Path | None = Field(default=None, alias="json")
    """a file for all figures as JSON"""
    page: Path | None = None
    """a file for all figures and pictures as one HTML page; needs the extra `page`"""

    @model_validator(mode="after")
    def _is_one_loop(self) -> Self:
        if self.rate is not None and "concurrency" in self.model_fields_set:
            raise ValueError("--rate is an open loop, --concurrency a closed one; give one of them")
        if self.page and not all(map(importlib.util.find_spec, ("jinja2", "matplotlib"))):
            raise ValueError("--page draws with packages that are not installed: pip install 'multicrop[page]'")
        return self

    @property
    def is_open(self) -> bool:
        return self.rate is not None or (self.sweep and "concurrency" not in self.model_fields_set)

    @property
    def options(self) -> Options:
        return {
            "views": self.views,
            "average": self.average,
            "stop": self.stop,
            "version": self.version,
            "timeout_ms": self.deadline,
        }


def load_test(job: LoadtestJob) -> Report | None:
    """None where it was interrupted before anything was measured.

    Raises:
        OutputError: there is no image, or one cannot be read.
        ClientError: the server is not there, or does not take the model, the key or an option. Nothing else was sent.
    """
    images = read_images(job.paths)
    with job.client() as client:
        known = client.model(job.model, job.version)
    first, image = next(iter(images.items()))
    answer = try_one(job, first, image)
    if job.sweep:
        first_load = _first_load(job, images)
        steps, interrupted = _sweep(job, _target(job, images), first_load) if first_load else ([], True)
    else:
        steps, interrupted = _once(job, _target(job, images))
    if not steps:
        return None
    return Report(
        when=datetime.now(UTC).replace(microsecond=0),
        host=f"{job.url.host}:{job.url.port}",
        model=job.model,
        version=answer.version if answer else known.version,
        digest=answer.digest if answer else known.digest,
        options={name: str(value) for name, value in job.options.items() if value is not None},
        images=len(images),
        image_bytes=sum(map(len, images.values())),
        arrivals=job.arrivals if job.is_open else None,
        deadline_ms=job.deadline,
        warmup=job.warmup,
        duration=job.duration,
        sweep=job.sweep,
        interrupted=interrupted,
        steps=tuple(sorted(steps, key=lambda step: step.load)),
    )


def read_images(paths: Sequence[str]) -> dict[str, bytes]:
    """All of them, by their paths.

    Raises:
        OutputError: there is none, one cannot be read, or they are too much.
    """
    images: dict[str, bytes] = {}
    total = 0
    for file in dict.fromkeys(find(paths)):
        try:
            images[file] = read_image(Path(file))
        except OSError as error:
            raise OutputError(f"{spell(file)} cannot be read: {error.strerror}; take it out") from error
        total += len(images[file])
        if total > MAX_IMAGES_BYTES:
            raise OutputError(f"the images have more than {MAX_IMAGES_BYTES >> 20} MiB together; name fewer")
    if not images:
        raise OutputError(f"no image in {', '.join(map(spell, paths))}; looked for {', '.join(sorted(SUFFIXES))}")
    return images


def try_one(job: LoadtestJob, file: str, image: bytes) -> Prediction | None:
    """The answer to one request as they will be sent; None when it misses its deadline, which may be what is asked.

    Raises:
        ClientError: it is refused.
    """
    with job.client() as client:
        try:
            return client.classify(job.model, image, **job.options)
        except ClientError as error:
            if error.status == _EXPIRED:
                return None
            raise named(error, spell(file)) from error


def _once(job: LoadtestJob, target: Target) -> tuple[list[Figures], bool]:
    load = Load(job.warmup, job.duration, job.rate, job.concurrency, job.arrivals)
    with line(load) as watch:
        figures, interrupted = drive(target, load, watch)
    return [figures] if figures else [], interrupted


def _target(job: LoadtestJob, images: Mapping[str, bytes]) -> Target:
    with httpx.Client(base_url=str(job.url), headers=exchange.authorization(job.key)) as http:
        requests = [encode(http, exchange.classify(job.model, image, job.options)) for image in images.values()]
        return Target(http.base_url, requests, job.deadline)


def _sweep(job: LoadtestJob, target: Target, first: float) -> tuple[list[Figures], bool]:
    steps: list[Figures] = []
    most = MOST_CONNECTIONS if not job.is_open else math.inf
    while (value := next_load(steps, first, most)) is not None:
        load = Load(job.warmup, job.duration, value if job.is_open else None, round(value), job.arrivals)
        with line(load) as watch:
            figures, interrupted = drive(target, load, watch)
        if figures:
            steps.append(figures)
        if interrupted or not figures:
            return steps, True
    return steps, False


def _first_load(job: LoadtestJob, images: Mapping[str, bytes]) -> float | None:
    """As it is given, or a rate that the server bears easily; None where Ctrl-C came."""
    if not job.is_open or job.rate is not None:
        return job.rate or job.concurrency
    target = _target(job.model_copy(update={"deadline": None}), images)  # of what is refused it would learn nothing
    load = Load(0.0, PROBING, concurrency=PROBERS)
    with line(load) as watch:
        figures, interrupted = drive(target, load, watch)
    return None if interrupted or not figures else max(figures.throughput, 1 / PROBING) / BELOW


@contextmanager
def line(load: Load) -> Iterator[Watch]:
    """A line on the terminal that follows a step; what is said on it is of the last samples."""
    what = f"{number(load.rate)}/s" if load.rate is not None else f"{load.concurrency} at a time"
    layout = "{desc} |{bar}| {elapsed}<{remaining}{postfix}"
    bar: tqdm[NoReturn]
    with tqdm(total=load.seconds, desc=what, bar_format=layout, disable=None, leave=False) as bar:
        seen = [0, 0.0]

        def watch(samples: Sequence[Sample], seconds: float) -> None:
            if bar.disable:
                return
            rate = (len(samples) - seen[0]) / (seconds - seen[1])
            seen[:] = len(samples), seconds
            bar.n = min(seconds, load.seconds)
            bar.set_postfix_str(_lately(samples[-LATELY:], rate))

        yield watch


def _lately(samples: Sequence[Sample], rate: float) -> str:
    took = [1000 * sample.took for sample in samples if sample.told.code == OK]
    failed = len(samples) - len(took)
    times = "p50 {} ms, p99 {} ms".format(*map(number, np.percentile(took, (50, 99)))) if took else "no answers"
    return f"{number(rate)}/s, {times}, {failed} of the last {len(samples)} without an answer"
