"""The servers that are compared: this project's, and peers from an environment of their own."""

import contextlib
import http.client
import importlib.metadata
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from bench.models import Model

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "build" / "peers-venv"
PACKAGES = ("fastapi>=0.132", "uvicorn[standard]>=0.50", "numpy>=2.1", "pillow>=13")
"""Of every peer, as new as the service's own."""
FRAMEWORKS = {"naive": (), "litserve": ("litserve>=0.2.19",), "mosec": ("mosec>=0.9.8",)}
"""Packages of each peer beside those."""
MODULES = {"naive": "naive", "litserve": "litserve_app", "mosec": "mosec_app"}
PATHS = {"naive": "/classify", "litserve": "/predict", "mosec": "/inference"}
START_SECONDS = 60.0
PROBABILITY = 0.05
"""By which part of it a probability may differ between two answers to one image."""


@dataclass(frozen=True)
class Contender:
    """How a server is started, and asked."""

    name: str
    path: str
    """For which it classifies the body of a POST."""
    command: tuple[str, ...]
    """PORT in it stands for the port."""
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    configured: str = ""
    """What a reader should know of its settings."""


@dataclass(frozen=True)
class Running:
    contender: Contender
    process: "subprocess.Popen[bytes]"
    port: int
    start_seconds: float
    """From the start of the process to its first answer."""

    def ask(self, image: bytes, path: str = "") -> Any:
        """Its answer to one image, on its usual path when none is named; raises AssertionError when it is none."""
        status, body = post(self.port, path or self.contender.path, image)
        assert status == HTTPStatus.OK, f"{self.contender.name}: {status}: {body[:300]!r}"
        return json.loads(body)

    def pause(self) -> None:
        """It stands still, so that what it does when idle costs nobody anything."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Lets it run, and pauses it."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            self.pause()


def ours(model: Model, query: str = "", name: str = "multicrop") -> Contender:
    """The service with one bundle alone in its repository."""
    words = ("run", "--repository", str(model.repository), "--port", "PORT", "--provider", "cpu")
    path = f"/v1/models/{model.name}:classify{query and '?'}{query}"
    configured = query or "as it comes"
    return Contender(name, path, (sys.executable, "-m", "service", *words), ROOT, configured=configured)


def peer(name: str, model: Model, timeout_ms: int = 0) -> Contender:
    """A peer of `MODULES`; without a timeout as it comes."""
    command = [str(PEERS / "bin" / "python"), "-m", f"bench.peers.{MODULES[name]}"]
    if name == "mosec":
        command += ["--address", "127.0.0.1", "--port", "PORT", "--log-level", "warning"]
        command += ["--timeout", str(timeout_ms)] if timeout_ms else []
    environment = {
        "PEER_MODEL": str(model.graph.absolute()),
        "PEER_LABELS": str(model.labels.absolute()),
        "PEER_RESIZE": str(model.resize),
        "PEER_SIDE": str(model.side),
        "PEER_TIMEOUT_MS": str(timeout_ms),
    }
    has_timeout = timeout_ms and name != "naive"
    configured = f"timeout of {timeout_ms} ms" if has_timeout else "as it comes"
    return Contender(name, PATHS[name], tuple(command), ROOT / "tests", environment, configured)


def install() -> tuple[dict[str, str], list[str]]:
    """The versions of the peers' packages, and the peers that are missing since they cannot be installed.

    The engine is the one that the service has.
    """
    names = {distribution.metadata["Name"]: distribution.version for distribution in importlib.metadata.distributions()}
    engine = next(names[name] for name in ("onnxruntime-gpu", "onnxruntime") if name in names)
    if not PEERS.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    if _pip("install", *PACKAGES, f"onnxruntime=={engine}").returncode:
        return {}, list(FRAMEWORKS)
    missing = [name for name, packages in FRAMEWORKS.items() if packages and _pip("install", *packages).returncode]
    wanted = {"fastapi", "uvicorn", "litserve", "mosec", "onnxruntime", "numpy", "pillow"}
    listed = json.loads(_pip("list", "--format", "json").stdout)
    return {each["name"]: each["version"] for each in listed if each["name"] in wanted}, missing


def _pip(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [str(PEERS / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextlib.contextmanager
def running(contender: Contender, image: bytes) -> Iterator[Running]:
    """A server that has answered once; ended with all its children afterwards.

    Raises:
        RuntimeError: it does not answer; with the last lines that it wrote.
    """
    port = _free_port()
    command = [word.replace("PORT", str(port)) for word in contender.command]
    environment = {**os.environ, **contender.environment, "PEER_PORT": str(port)}
    with tempfile.TemporaryFile() as log:
        begun = time.monotonic()
        with subprocess.Popen(
            command, cwd=contender.folder, env=environment, start_new_session=True, stdout=log, stderr=log
        ) as process:
            try:
                if not _answers(contender, process, port, image, begun + START_SECONDS):
                    log.seek(0)
                    said = log.read().decode(errors="replace")[-2000:]
                    raise RuntimeError(f"{contender.name} does not start: {' '.join(command)}\n{said}")
                yield Running(contender, process, port, time.monotonic() - begun)
            finally:
                _end(process)


def post(port: int, path: str, body: bytes, timeout: float = 30.0) -> tuple[int, bytes]:
    """Status and body, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", path, body, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def same_answer(ours: Any, theirs: Any) -> bool:
    """Whether two servers have done the same work: each one's best class has nearly that probability at the other.

    Of random weights two classes may be equally likely, and a level of one pixel then decides which is the best.
    """
    found = [{each["index"]: each["probability"] for each in answer["predictions"]} for answer in (ours, theirs)]
    best = [max(scores, key=scores.__getitem__) for scores in found]
    return all(math.isclose(*(scores.get(index, 0.0) for scores in found), rel_tol=PROBABILITY) for index in best)


def _answers(contender: Contender, process: "subprocess.Popen[bytes]", port: int, image: bytes, last: float) -> bool:
    """Whether it classifies an image before it ends, and before `last`."""
    while process.poll() is None and time.monotonic() < last:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if post(port, contender.path, image)[0] == HTTPStatus.OK:
                return True
        time.sleep(0.01)
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Its whole session: a server that is killed may leave workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
