"""What serving.toml should wish of the engine on this machine, found by measuring: `multicrop-service tune`."""

import hashlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliImplicitFlag, CliPositionalArg
from tqdm import tqdm

from bundle import store
from bundle.accuracy import FOLDER as EVALUATIONS
from bundle.accuracy import Accuracies
from bundle.beside import read_json
from bundle.serving import MAX_TIMEOUT_MS, SERVING, Serving, read_serving
from service.commands.loadtest import read_images
from service.engine.limits import cores
from service.tune.candidates import Candidate
from service.tune.drawn import draw
from service.tune.edit import Value, changes, read_text
from service.tune.edit import write as write_serving
from service.tune.search import Contest, Search, spread, verdict
from service.tune.server import TuneError
from service.tune.trial import Trials

ROUNDS = 3
"""Of each contest, the candidates taking turns."""


class TuneJob(BaseModel):
    """Finds the instances and buckets with which a model answers most images per second on this machine within a p99 latency, and writes them into its serving.toml."""  # noqa: E501 the help shows it as it is

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: CliPositionalArg[Path]
    """REPOSITORY/NAME"""
    paths: CliPositionalArg[list[str]] = []
    """images, and folders of them, as the model will be asked for; drawn ones of 500 x 375 when left out"""
    latency: int = Field(ge=1, le=MAX_TIMEOUT_MS)
    """milliseconds that at most one answer in a hundred may take longer than"""
    views: str | None = None
    """the view plan that will be asked for; the model's own when left out"""
    versions: tuple[int, ...] = ()
    """to choose among: 1,2; they may differ in accuracy. When left out, the one that answers now is kept"""
    rounds: int = Field(default=ROUNDS, ge=ROUNDS, le=99)
    """of each comparison, the candidates taking turns"""
    seconds: float = Field(default=5.0, gt=0, le=600)
    """of each measurement, at least"""
    dry_run: CliImplicitFlag[bool] = False
    """say what would be written, and write nothing"""


@dataclass(frozen=True)
class Tuned:
    """What came out."""

    said: list[str]
    """In sentences."""
    changes: dict[str, Value]
    """Of serving.toml; None takes a key out."""


def tune(job: TuneJob, told: Callable[[str], None]) -> Tuned:
    """Measures; writes nothing.

    Args:
        job: what is asked.
        told: is given a line or a table as soon as it is known.

    Raises:
        TuneError: there is no such model, its server does not start, or nothing keeps the limit.
        BundleError: its serving.toml is none.
        OutputError: the images cannot be read.
        OSError: there is no room for a copy of the bundle.
    """
    folder = job.model.resolve()
    serving, version = _answering(folder, job.versions)
    images = read_images(job.paths) if job.paths else draw()
    if not job.paths:
        told(f"no image is named: {len(images)} drawn ones of 500 x 375 stand for yours")
    if not job.dry_run and not os.access(folder, os.W_OK):
        raise TuneError(f"{folder.name} cannot be written to; give --dry-run to see what would be")
    for line in _about_versions(folder, version, job.versions):
        told(line)
    before = Candidate.of(serving, version)
    trials = Trials(folder, read_text(folder), images, job.views, job.latency, job.seconds, cores())
    contests: list[Contest] = []

    def show(contest: Contest) -> None:
        contests.append(contest)
        told(contest.table())

    with _ends_when_told(), Bar() as bar:
        last = Search(trials.measure, trials.look, job.rounds, bar, show).run(before, job.versions, cores())
    chosen, said = verdict(last, before, job.latency, spread(contests))
    try:
        return Tuned(said, changes(serving, before, chosen))
    except ValueError as error:
        raise TuneError(str(error)) from error


def write(job: TuneJob, tuned: Tuned) -> None:
    """Raises OSError."""
    write_serving(job.model.resolve(), tuned.changes)


class Bar:
    """Measurements on the terminal, and how long the rest will take."""

    def __init__(self) -> None:
        layout = "{desc} |{bar}| {n}/{total}, {elapsed} so far, about {remaining} to go"
        self._bar: tqdm[NoReturn] = tqdm(total=0, bar_format=layout, disable=None, leave=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def plan(self, count: int) -> None:
        self._bar.total = (self._bar.total or 0) + count
        self._bar.refresh()

    def begin(self, what: str) -> None:
        self._bar.set_description_str(what)

    def end(self) -> None:
        self._bar.update()


@contextmanager
def _ends_when_told() -> Iterator[None]:
    """SIGTERM is as Ctrl-C: servers in sessions of their own would outlive this process."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _answering(folder: Path, wanted: Sequence[int]) -> tuple[Serving, int]:
    """What is wished now, and the version that answers where none is named. Raises as `tune`."""
    there = store.versions(folder.parent, folder.name)
    if not there:
        raise TuneError(f"{folder} has no versions; name a model as REPOSITORY/NAME")
    if missing := sorted(set(wanted) - set(there)):
        raise TuneError(f"{folder.name} has no version {missing[0]}; it has {', '.join(map(str, there))}")
    serving = read_serving(folder)
    wished = there if isinstance(serving.versions, str) else [each for each in there if each in serving.versions]
    if not wished:
        raise TuneError(f"{SERVING} of {folder.name} lists no version that is there")
    return serving, wished[-1]


def _about_versions(folder: Path, version: int, wanted: Sequence[int]) -> list[str]:
    """How right each is, so far as that was measured: speed alone is no reason to change the version."""
    there = store.versions(folder.parent, folder.name)
    shown = sorted({version, *wanted}) if wanted else there
    if len(shown) == 1:
        return []
    lines = [f"version {each}: {_accuracy(folder, each)}" for each in shown]
    if not wanted:
        others = ",".join(map(str, there))
        lines.append(f"version {version} is kept; give --versions {others} to let speed choose among them")
    return lines


def _accuracy(folder: Path, version: int) -> str:
    digest = hashlib.sha256((folder / str(version) / store.MANIFEST).read_bytes()).hexdigest()
    kept = read_json(folder / EVALUATIONS / f"{digest}.json", Accuracies)
    if not kept or not kept.results:
        return "its accuracy was not evaluated here"
    return "; ".join(f"top-1 error {r.error():.2f} % on {r.images} of {r.data}, {r.views}" for r in kept.results)
