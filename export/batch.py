"""Many models, a process for each: freeze what is not up to date, go on after failures, report at the end.

    list -> jobs -> up to date? -> worker: freeze aside -> record the digest -> rename into the repository -> report

Workers write only aside, and this process alone publishes, by a rename. So a kill at any moment leaves bundles whole or
absent, and what was published is found and skipped by the next run.
"""

import fcntl
import hashlib
import logging
import multiprocessing
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from bundle import store
from bundle.errors import BundleError, BundleExistsError
from bundle.manifest import Manifest
from export.errors import ExportError
from export.exports import Export, export_key, find_export, record
from export.joblist import read_jobs
from export.jobs import BatchJob, FreezeJob
from export.report import Report, Row, tools, write_report
from export.worker import Freeze, Made, death, pipeline_freeze, work

log = logging.getLogger(__name__)


@dataclass
class Running:
    index: int
    key: str
    process: BaseProcess
    started: float


def run(batch: BatchJob, freeze: Freeze = pipeline_freeze) -> Report:
    """Freezes the models of a list and writes the report.

    Args:
        batch: the list, the number of workers, the report's folder.
        freeze: what a worker does.

    Raises:
        ExportError: the list is wrong, or another batch writes to the same repository. A model that fails raises
            nothing: its row says why.
    """
    started = time.monotonic()
    jobs = read_jobs(batch.file)
    repository = jobs[0].repository
    repository.mkdir(parents=True, exist_ok=True)
    with _alone(repository) as aside:
        rows = Batch(jobs, batch.jobs, aside, freeze).run()
    report = Report(
        file=batch.file.name,
        repository=str(repository),
        workers=batch.jobs,
        seconds=time.monotonic() - started,
        rows=tuple(rows),
        tools=tools(),
    )
    write_report(report, batch.report or batch.file.with_name(f"{batch.file.stem}-report"))
    return report


class Batch:
    """The jobs of one run and what became of them."""

    def __init__(self, jobs: list[FreezeJob], workers: int, aside: Path, freeze: Freeze) -> None:
        self._jobs = jobs
        self._workers = workers
        self._threads = max(1, (os.cpu_count() or 1) // workers)
        self._aside = aside
        self._freeze = freeze
        self._rows: dict[int, Row] = {}
        self._running: dict[Connection, Running] = {}

    def run(self) -> list[Row]:
        """A row for each job, in their order."""
        waiting = deque((index, key) for index, job in enumerate(self._jobs) if (key := self._plan(index, job)))
        costs = {index: _cost(self._jobs[index]) for index, _ in waiting}
        total = len(costs)
        with logging_redirect_tqdm(), _progress(sum(costs.values())) as bar:
            try:
                while waiting or self._running:
                    while waiting and len(self._running) < self._workers:
                        self._start(*waiting.popleft())
                    for connection in wait(list(self._running), timeout=1):
                        assert isinstance(connection, Connection)  # noqa: S101 nothing else was waited for
                        running = self._running.pop(connection)
                        self._finish(running, connection)
                        bar.update(costs.pop(running.index))
                    bar.set_description_str(f"{total - len(costs)} of {total}")  # drawn again: the clock runs on
            finally:
                for running in self._running.values():  # after Ctrl-C
                    running.process.kill()
                    running.process.join()
        return [self._rows[index] for index in range(len(self._jobs))]

    def _plan(self, index: int, job: FreezeJob) -> str | None:
        """The key of what must be exported; None where the row is already known."""
        try:
            _require_real(job)
            key = export_key(job)
            if found := find_export(job.repository, job.model, job.version, key):
                version, digest, manifest, export = found
                self._rows[index] = Row.of(job, "skipped", version, digest, manifest, export)
                return None
            _require_free(job)
        except (ExportError, BundleError, OSError) as error:
            self._fail(index, str(error))
            return None
        return key

    def _start(self, index: int, key: str) -> None:
        context = multiprocessing.get_context("spawn")  # a forked torch would hold its parent's locks and threads
        answer, end = context.Pipe(duplex=False)
        job = self._jobs[index].model_copy(update={"repository": self._aside / str(index)})
        process = context.Process(target=work, args=(self._freeze, job, self._threads, end))
        process.start()
        end.close()  # the worker's copy is the last: its death is the end of the pipe
        self._running[answer] = Running(index, key, process, time.monotonic())

    def _finish(self, running: Running, connection: Connection) -> None:
        try:
            answer = connection.recv()
        except (EOFError, OSError):
            answer = None
        connection.close()
        running.process.join()
        seconds = time.monotonic() - running.started
        if isinstance(answer, Made):
            self._publish(running, answer, seconds)
        else:
            self._fail(running.index, answer or death(running.process.exitcode), seconds)
        shutil.rmtree(self._aside / str(running.index), ignore_errors=True)

    def _publish(self, running: Running, made: Made, seconds: float) -> None:
        job = self._jobs[running.index]
        export = Export(key=running.key, batchnorm_nodes=made.batchnorm_nodes, seconds=seconds, peak_mib=made.peak_mib)
        try:
            content = (made.folder / store.MANIFEST).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            record(job.repository / job.model, digest, export)  # first: a bundle is never without it
            target = store.move_bundle(made.folder, job.repository, job.model, job.version)
        except (BundleError, OSError) as error:
            self._fail(running.index, str(error), seconds)
        else:
            manifest = Manifest.from_json(content)
            self._rows[running.index] = Row.of(job, "done", int(target.name), digest, manifest, export)
            log.info("%s/%s done in %.0f s", job.model, target.name, seconds)

    def _fail(self, index: int, reason: str, seconds: float | None = None) -> None:
        job = self._jobs[index]
        self._rows[index] = Row.failed(job, reason, seconds)
        log.warning("%s failed: %s", job.model, reason)


def _require_real(job: FreezeJob) -> None:
    name = store.check_name(job.model)
    if (job.repository / name).is_symlink():
        raise BundleError(f"{name} is a symbolic link in the repository; export into a real folder")


def _require_free(job: FreezeJob) -> None:
    if job.version in store.versions(job.repository, job.model):
        raise BundleExistsError(f"{job.model} has a version {job.version}; leave it out, or choose another")


@contextmanager
def _alone(repository: Path) -> Iterator[Path]:
    """A folder to write aside, on the repository's own disk, for as long as no other batch is at work there."""
    descriptor = os.open(repository, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it, however we end
        except BlockingIOError:
            raise ExportError(f"another batch is writing to {repository}; wait until it has ended") from None
        aside = repository / ".batch"
        shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
        aside.mkdir()
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(descriptor)


def _progress(total: float) -> "tqdm[NoReturn]":
    """A bar in estimated seconds, whose rate is the average so far."""
    layout = "{desc} |{bar}| {percentage:.0f}%, {elapsed} so far, about {remaining} to go"
    return tqdm(total=total, bar_format=layout, smoothing=0, disable=None)


def _cost(job: FreezeJob) -> float:
    """About how long a job takes in comparison: tracing, and some hundred images through torch and the graph."""
    from export.describe import describe  # noqa: PLC0415 torch takes seconds to import

    try:
        return 10 + 4 * describe(job.network or "").macs / 1e9
    except Exception:  # noqa: BLE001 it is only an estimate: a network that cannot run fails in its own worker
        return 10
