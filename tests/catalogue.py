"""The catalogue of bad inputs: what a case is, the server process that it is sent to, and what has to hold after it.

The cases stand in `hostile_*.py`, under the numbers of the catalogue that the project was planned with:
H is HTTP, J JSON, F forms, I images, P parameters.
"""

import contextlib
import hashlib
import http.client
import json
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from fakes import write_colour_bundle
from live import encode

INFER, ADMIN, METRICS, POOR = "infer-key-0001", "admin-key-0002", "metrics-key-0003", "poor-key-0004"
SCOPES = {INFER: ["infer"], ADMIN: ["infer", "admin"], METRICS: ["metrics"], POOR: ["infer"]}
HEADER_SECONDS, BODY_SECONDS = 1.0, 2.0
MAX_IMAGE_BYTES = 16 << 20
"""The server's own default."""
PATIENCE = 10.0

RED = encode(Image.new("RGB", (8, 8), "red"))
PATH = "/v1/models/colours:classify"

_LEAKS = re.compile(rb"0x[0-9a-fA-F]{4}|Traceback|/usr/|/home/|/tmp/|\.py\b")
_API = (Path(__file__).parents[1] / "docs/api.md").read_text().partition("\n## Errors\n")[2]
CODES = set(re.findall(r"`([a-z]+_[a-z_]+)`", _API)) | {"overloaded", "unauthorized", "forbidden"}
"""That are documented."""


@dataclass(frozen=True)
class Answer:
    status: int
    """0: the connection was closed without one."""
    headers: dict[str, str]
    body: bytes

    @cached_property
    def json(self) -> Any:
        return json.loads(self.body)

    def __str__(self) -> str:
        """200, or `415 image_format_unsupported`, or `closed`."""
        code = f" {self.json['code']}" if self.status >= 400 and self.body else ""
        return f"{self.status}{code}" if self.status else "closed"

    def check(self) -> None:
        """Nothing of the inside is told, and an error is a problem document."""
        assert not (found := _LEAKS.search(self.body)), found
        if self.status < 400 or not self.body:
            return
        problem = self.json
        assert self.headers["content-type"] == "application/problem+json"
        assert problem["status"] == self.status
        assert problem["code"] in CODES, problem
        assert problem["request_id"] == self.headers["x-request-id"]
        assert len(self.body) <= 4096


CLOSED = Answer(0, {}, b"")


class Served:
    """A server process, with keys, little patience for slow clients, and a log in JSON.

    Args:
        folder: an empty one, for its repository, its keys and its log.
    """

    def __init__(self, folder: Path) -> None:
        repository = folder / "repository"
        write_colour_bundle(repository)
        write_colour_bundle(repository, "corners", resize=16)
        write_colour_bundle(repository, "heavy", macs=10**13)
        (folder / "keys.toml").write_text("".join(map(_key, SCOPES)))
        options = {
            "repository": repository, "keys": folder / "keys.toml", "port": 0, "log-format": "json", "drain-delay": 0,
            "header-timeout": HEADER_SECONDS, "body-timeout": BODY_SECONDS,
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))] + ["--admin"]
        self._log = folder / "log"
        self._read = 0
        with self._log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "service", "run", *words], stderr=log)
        self.address = self._wait()
        self.client = httpx.Client(base_url="http://{}:{}".format(*self.address), timeout=PATIENCE)
        while self.client.get("/readyz").status_code != 200:
            time.sleep(0.01)

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(20)

    def ask(self, method: str, path: str, *, key: str | None = INFER, **request: Any) -> Answer:
        """Through httpx."""
        headers = ({} if key is None else {"X-API-Key": key}) | request.pop("headers", {})
        found = self.client.request(method, path, headers=headers, **request)
        return Answer(found.status_code, dict(found.headers), found.content)

    def classify(self, content: bytes, query: str = "", path: str = PATH, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", path + query, content=content, headers=named)

    def raw(self, data: bytes | Iterable[bytes], method: str = "POST") -> Answer:
        """The answer to bytes on a connection of their own."""
        with self.connect() as connection:
            with contextlib.suppress(ConnectionError):
                _send(connection, [data] if isinstance(data, bytes) else data)
            return received(connection, method)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE)

    def metric(self, pattern: str) -> float:
        """The sum of the series that begin so, a regular expression."""
        lines = self.ask("GET", "/metrics", key=METRICS).body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(pattern, line))

    def memory(self) -> int:
        """In bytes, resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)[0]) << 10

    def check(self) -> None:
        """The same process is alive, answers well, and has logged lines that are objects, without a traceback."""
        assert self.process.poll() is None, "the server process has ended"
        assert self.ask("GET", "/livez", key=None).status == 200
        good = self.classify(RED)
        assert str(good) == "200", good.body
        assert good.json["predictions"][0]["label"] == "red"
        for line in self._lines():
            assert "exception" not in json.loads(line), line

    def _lines(self) -> list[str]:
        """New whole lines of the log."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            found = log.read().rpartition(b"\n")[0]
        self._read += len(found)
        return [line for line in found.decode("ascii").split("\n") if line]

    def _wait(self) -> tuple[str, int]:
        end = time.monotonic() + 30
        while not (found := re.search(r"http://([\d.]+):(\d+)", self._log.read_text())):
            assert time.monotonic() < end, self._log.read_text()
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.02)
        return found[1], int(found[2])


One = Callable[[Served], Answer]
Act = Callable[[Served], Answer | list[Answer]]


@dataclass(frozen=True)
class Case:
    id: str
    act: Act
    """Sends it; asserts what is not said by the status."""
    expected: str
    """Every answer is one of these: `200 | 422 image_truncated`."""
    repeated: bool = False
    """The bench sends it a hundred times more, to see what memory grows by."""
    why: str = ""
    """Another answer than the catalogue's."""

    def run(self, served: Served) -> float:
        """The seconds that it took."""
        started = time.perf_counter()
        answers = self.act(served)
        seconds = time.perf_counter() - started
        for answer in answers if isinstance(answers, list) else [answers]:
            answer.check()
            assert str(answer) in self.expected.split(" | "), (str(answer), answer.body[:300])
        return seconds


def received(connection: socket.socket, method: str = "POST") -> Answer:
    """The next answer on a connection; CLOSED when there is none."""
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    except ConnectionError:
        return CLOSED
    finally:
        response.close()


def _send(connection: socket.socket, parts: Iterable[bytes]) -> None:
    """Until an answer begins: a server may answer a body that it does not read."""
    for part in parts:
        left = memoryview(part)
        while left:
            readable, writable, _ = select.select([connection], [connection], [], PATIENCE)
            if readable or not writable:
                return
            left = left[connection.send(left[: 1 << 16]) :]


def _key(key: str) -> str:
    rate = "views_per_second = 0.001\n" if key == POOR else ""
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f'[[keys]]\nname = "{key[:-5]}"\nsha256 = "{digest}"\nscopes = {SCOPES[key]}\n{rate}'
