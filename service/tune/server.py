"""A candidate as a server of its own: a child process with a scratch repository.

That holds the bundle and a changed serving.toml; the repository itself is only read.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from bundle import plans
from bundle.calibration import FOLDER as CALIBRATIONS
from bundle.serving import SERVING
from service.engine.backend import Provider
from service.tune.candidates import Candidate
from service.tune.edit import edited

START_SECONDS = 600.0
"""Within which a server has to be ready."""

_LISTENS = re.compile(r"http://127\.0\.0\.1:(\d+)")
_ENDS = (signal.SIGINT, signal.SIGTERM)
_OURS = {"MULTICROP_KEYS", "MULTICROP_ADMIN", "MULTICROP_WATCH", "MULTICROP_API_KEY", "MULTICROP_LOG_FORMAT"}
"""Settings that such a server does not have; the others, the provider for one, it takes from the environment."""


class TuneError(Exception):
    """What cannot be tuned, and why."""


@dataclass(frozen=True)
class Running:
    """A server that is ready."""

    url: httpx.URL
    provider: Provider
    max_batch_size: int
    """In views."""


@contextlib.contextmanager
def running(folder: Path, text: str, candidate: Candidate) -> Iterator[Running]:
    """A server of a candidate; it ends with the context.

    Args:
        folder: NAME in the repository, which is only read.
        text: its serving.toml.
        candidate: what is changed in that.

    Raises:
        TuneError: it does not start, or refuses the model.
        OSError: there is no room for a copy.
    """
    with tempfile.TemporaryDirectory(prefix="multicrop-tune-") as scratch:
        _fill(Path(scratch), folder, text, candidate)
        with _process(Path(scratch)) as process, _listening(process) as url:
            try:
                server = _wait(url, process, folder.name)
            except httpx.HTTPError as error:
                raise TuneError(f"a server of {folder.name} does not answer: {error}") from error
            yield server


def _fill(scratch: Path, folder: Path, text: str, candidate: Candidate) -> None:
    """Files are linked where both lie on one disk: a bundle lies in real folders, and is never written to."""
    name = scratch / folder.name
    kept = [folder / str(candidate.version), folder / plans.FOLDER, folder / CALIBRATIONS]
    for source in filter(Path.is_dir, kept):
        shutil.copytree(source, name / source.name, copy_function=_link)
    changes = {"instances": candidate.instances, "buckets": candidate.buckets, "aliases": None}
    (name / SERVING).write_text(edited(text, {**changes, "versions": (candidate.version,)}), encoding="utf-8")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextlib.contextmanager
def _process(repository: Path) -> Iterator[subprocess.Popen[str]]:
    """In a session of its own: Ctrl-C is for this command, which ends it."""
    options = ["--repository", str(repository), "--host", "127.0.0.1", "--port", "0", "--drain-delay", "0"]
    command = [sys.executable, "-m", "service", "run", *options]
    environment = {name: value for name, value in os.environ.items() if name not in _OURS}
    with contextlib.ExitStack() as stack:
        with _held_signals():
            process = subprocess.Popen(  # noqa: S603 it is this program
                command, stderr=subprocess.PIPE, text=True, errors="replace", env=environment, start_new_session=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
        yield process


@contextlib.contextmanager
def _held_signals() -> Iterator[None]:
    """What tells this command to end is heard when the context is left.

    Within `Popen` it would leave a child behind that nobody has a name for.
    """
    told: list[int] = []
    before = {each: signal.signal(each, lambda number, _: told.append(number)) for each in _ENDS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in told:
            signal.raise_signal(number)


@contextlib.contextmanager
def _listening(process: subprocess.Popen[str]) -> Iterator[httpx.URL]:
    """Its address, from its log, which is read to the end: an unread pipe would hold the server up."""
    assert process.stderr is not None  # noqa: S101 it is a pipe
    last: deque[str] = deque(maxlen=3)
    for said in process.stderr:
        last.append(said.strip())
        if found := _LISTENS.search(said):
            break
    else:
        raise TuneError(f"a server did not start: {' / '.join(last) or 'it said nothing'}")
    reader = threading.Thread(target=_drain, args=(process.stderr,), daemon=True)
    reader.start()
    try:
        yield httpx.URL(f"http://127.0.0.1:{found[1]}")
    finally:
        process.kill()
        reader.join()


def _drain(log: IO[str]) -> None:
    for _ in log:
        pass


def _wait(url: httpx.URL, process: subprocess.Popen[str], name: str) -> Running:
    until = time.monotonic() + START_SECONDS
    with httpx.Client(base_url=url, trust_env=False) as http:
        while http.get("/readyz").json()["status"] == "loading":
            if process.poll() is not None or time.monotonic() > until:
                raise TuneError(f"a server of {name} was not ready after {START_SECONDS:.0f} s, or ended")
            time.sleep(0.05)
        answer = http.get(f"/v1/models/{name}")
        if not answer.is_success:
            raise TuneError(f"the server refuses it: {_reason(http, name)}")
        facts = answer.json()
    return Running(url, facts["provider"], facts["max_batch_size"])


def _reason(http: httpx.Client, name: str) -> str:
    models = {model["name"]: model for model in http.get("/v1/models").json()}
    versions = models.get(name, {"versions": []})["versions"]
    return next(
        (version["reason"] for version in versions if version["reason"]), "see the log of multicrop-service run"
    )
