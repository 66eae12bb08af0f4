"""What the benches of speed measure with."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from math import isnan
from pathlib import Path
from statistics import mean

import pytest

from bench.load import LOST, Answer, Load, arrivals, closed_loop, open_loop, percentile, request, send_all
from bench.models import Model
from bench.processes import cpu_seconds, family, pss_mib
from bench.start import by_package
from fakes import write_colour_bundle
from servers import NotServingError, serving

POST = request("/classify", b"0123456789")
HOLD = b"hold"
CUT = b""


class Scripted:
    """A server that reads whole requests and does what its script says, in the order in which they come.

    A step is what it sends; what has the word close in it closes the connection after that, an empty one at once.
    HOLD answers with 200 when a later request has been dealt with.
    """

    def __init__(self, script: list[bytes]) -> None:
        self._script = iter(script)
        self._lock = threading.Lock()
        self._held: list[threading.Event] = []
        self.connections = 0
        self.requests = 0

    def serve(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            while self._read(connection) and self._deal(connection):
                pass

    def _deal(self, connection: socket.socket) -> bool:
        """One step of the script; whether the connection stays."""
        with self._lock:
            self.requests += 1
            step, earlier = next(self._script, answer(200)), self._held
            self._held = [threading.Event()] if step == HOLD else []
            mine = self._held
        for event in mine:
            event.wait(10)
        with suppress(OSError):  # the client has left
            connection.sendall(answer(200) if step == HOLD else step)
        stays = bool(step) and b"close" not in step
        if not stays:
            connection.close()
        for event in earlier:
            event.set()
        return stays

    @staticmethod
    def _read(connection: socket.socket) -> bool:
        received = b""
        while len(received) < len(POST):
            try:
                more = connection.recv(len(POST) - len(received))
            except OSError:
                return False
            if not more:
                return False
            received += more
        return received == POST


def answer(status: int, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {status} Some Words\r\n{lines}Content-Length: 5\r\n\r\nhello".encode()


@contextmanager
def scripted(*script: bytes) -> Iterator[tuple[Scripted, int]]:
    server = Scripted(list(script))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=server.serve, args=(listening,), daemon=True).start()
        yield server, listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def test_percentiles_are_the_nearest_rank() -> None:
    values = [15.0, 50.0, 20.0, 40.0, 35.0]
    assert [percentile(values, percent) for percent in (5, 30, 40, 50, 100)] == [15, 20, 20, 35, 50]
    assert percentile([float(value) for value in range(1, 101)], 99) == 99
    assert isnan(percentile([], 50))


def test_arrivals_are_a_poisson_process() -> None:
    due = arrivals(50.0, 400.0, seed=1)
    gaps = [second - first for first, second in pairwise(due)]
    assert due == sorted(due)
    assert due[0] > 0
    assert due[-1] < 400
    assert mean(gaps) == pytest.approx(1 / 50, rel=0.02)
    # Of an exponential distribution a part of 1/e is longer than the mean.
    assert sum(gap > 1 / 50 for gap in gaps) / len(gaps) == pytest.approx(0.3679, abs=0.02)


def test_arrivals_come_from_the_seed() -> None:
    assert arrivals(10.0, 5.0, seed=3) == arrivals(10.0, 5.0, seed=3)
    assert arrivals(10.0, 5.0, seed=3) != arrivals(10.0, 5.0, seed=4)


def test_latency_counts_from_when_a_request_was_due() -> None:
    answers = [Answer(1.0, 1.5, 2.0, 200), Answer(1.0, 1.0, 1.25, 200), Answer(1.0, 1.0, 1.1, 503)]
    load = Load(answers, seconds=2.0, client_seconds=0.1, sent=3)
    assert load.latency_ms(100) == 1000
    assert load.lag_ms(100) == 500
    assert [load.within(deadline) for deadline in (0.2, 0.25, 1.0)] == [0, 1, 2]
    assert load.statuses() == {200: 2, 503: 1}


def test_an_open_loop_does_not_wait_for_answers() -> None:
    """The first answer comes only after the second request, on another connection."""
    with scripted(HOLD) as (server, port):
        load = open_loop(port, [POST], rate=200.0, seconds=0.05, patience=10.0, seed=0)
    due = arrivals(200.0, 0.05, seed=0)
    assert len(due) > 2
    assert load.sent == server.requests == len(due)
    assert load.statuses() == {200: len(due)}
    assert server.connections >= 2
    assert all(answer.sent >= answer.due for answer in load.answers)
    first = min(load.answers)
    assert first.ended >= sorted(load.answers)[1].sent


def test_an_open_loop_gives_up_in_the_end() -> None:
    """A server that has taken the last request and says nothing."""
    count = len(arrivals(100.0, 0.05, seed=0))
    with scripted(*[answer(200)] * (count - 1), HOLD) as (_, port):
        load = open_loop(port, [POST], rate=100.0, seconds=0.05, patience=2.0, seed=0)
    assert load.statuses() == {LOST: 1, 200: count - 1}


def test_every_request_is_sent_once() -> None:
    script = [answer(200), answer(503), answer(200, "Connection: close"), CUT]
    with scripted(*script) as (server, port):
        load = send_all(port, [POST] * 7, connections=2)
    assert server.requests == load.sent == 7
    assert load.statuses() == {LOST: 1, 200: 5, 503: 1}


def test_a_server_that_closes_an_idle_connection_loses_no_request() -> None:
    """As uvicorn does after five seconds, while a request on another connection is still worked on."""
    with scripted(HOLD, answer(200, "X-Then: close")) as (_, port):
        load = send_all(port, [POST, POST], connections=2)
    assert load.statuses() == {200: 2}


def test_a_closed_loop_keeps_its_connections_and_replaces_those_that_are_closed() -> None:
    with scripted(answer(200), CUT, answer(200, "connection: close")) as (server, port):
        load = closed_loop(port, [POST], connections=1, warm=0.0, seconds=2.0)
    assert server.connections == 3
    assert load.statuses()[LOST] == 1
    assert load.statuses()[200] == len(load.good) > 2


def test_answers_that_come_in_pieces_are_one() -> None:
    """The kernel may hand over the header alone."""
    whole = answer(429, "X-Note: content-length: 99")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                Scripted._read(connection)
                for byte in whole:
                    connection.sendall(bytes([byte]))
                connection.recv(1)

        threading.Thread(target=serve, daemon=True).start()
        load = send_all(listening.getsockname()[1], [POST], connections=1)
    assert load.statuses() == {429: 1}


def test_a_model_is_the_newest_or_the_one_that_is_named(tmp_path: Path) -> None:
    for version in (2, 10):
        (tmp_path / "cats" / str(version)).mkdir(parents=True)
    (tmp_path / "cats" / "plans").mkdir()
    assert Model.of(tmp_path, "cats").version == 10
    assert Model.of(tmp_path, "cats@2").version == 2
    for wrong in ("cats@3", "dogs"):
        with pytest.raises(FileNotFoundError, match=wrong):
            Model.of(tmp_path, wrong)


def test_a_family_is_a_process_and_what_it_has_started() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"1\n"
        (pid, child) = family(parent.pid)
        assert pid == parent.pid
        assert f"PPid:\t{pid}" in Path(f"/proc/{child}/status").read_text()
        assert {pid, child} < set(family(os.getpid()))
        assert pss_mib(pid) > pss_mib(child) > 1
        assert cpu_seconds(pid) > 0
        parent.communicate(b"\n")


def test_import_times_are_summed_by_package() -> None:
    said = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:      1500 |       1500 |     numpy.core\n"
        "import time:      2000 |       3500 |   numpy\n"
        "import time:       250 |       3750 | service.app\n"
        "a line of the program\n"
    )
    assert by_package(said) == {"numpy": 3.5, "service": 0.25}


def test_a_server_that_has_no_model_to_serve_ends_with_the_reason(tmp_path: Path) -> None:
    (write_colour_bundle(tmp_path) / "model.onnx").write_bytes(b"none")
    with pytest.raises(NotServingError, match=r"^no model: model\.onnx"), serving(tmp_path):
        pytest.fail("it is not ready")
