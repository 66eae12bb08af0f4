"""What clients are told when the device is busy: a real server whose device waits for the test."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from fakes import write_colour_bundle
from live import encode, serve, wait_for
from service import model
from service.engine.cpu import CpuBackend
from service.engine.entry import Pixels, Scores
from service.settings import Settings

RED = encode(Image.new("RGB", (8, 8), "red"))
CLASSIFY = "/v1/models/colours:classify"


class Gate:
    """Stands open until `shut`; `entered` counts the runs that have reached it."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.seen: list[list[int]] = []
        """The first pixel of each batch."""

    def backend(self, graph: bytes, macs: int, *_: object) -> CpuBackend:
        gate = self

        class Gated(CpuBackend):
            def run(self, images: Pixels, *, alone: bool = False) -> Scores:
                if not gate.open.is_set():
                    gate.entered.release()
                    assert gate.open.wait(10)
                gate.seen.append(images[0, 0, 0].tolist())
                return super().run(images, alone=alone)

        backend = Gated(graph, macs)
        backend.lanes = 1
        return backend


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(model, "open_backend", gate.backend)
    yield gate
    gate.open.set()


def test_an_answer_that_does_not_come_in_time_is_504(tmp_path: Path, gate: Gate) -> None:
    write_colour_bundle(tmp_path)
    with serve(Settings(repository=tmp_path, port=0, timeout=1)) as client:
        gate.open.clear()
        answer = client.post(CLASSIFY, content=RED)
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
        gate.open.set()
        assert client.post(CLASSIFY, content=RED).status_code == 200


def test_a_full_queue_is_503_and_says_when_to_come_back(tmp_path: Path, gate: Gate) -> None:
    write_colour_bundle(tmp_path)
    with serve(Settings(repository=tmp_path, port=0, max_queue_size=2)) as client, ThreadPoolExecutor(4) as pool:
        gate.open.clear()
        first = pool.submit(client.post, CLASSIFY, content=RED)
        assert gate.entered.acquire(timeout=10)
        waiting = [pool.submit(client.post, CLASSIFY, content=RED) for _ in range(2)]
        wait_for(lambda: 'multicrop_queue_views{model="colours"} 2.0' in client.get("/metrics").text)
        refused = client.post(CLASSIFY, content=RED)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        gate.open.set()
        assert [answer.result().status_code for answer in (first, *waiting)] == [200] * 3


def test_a_request_may_have_a_deadline_of_its_own(tmp_path: Path, gate: Gate) -> None:
    write_colour_bundle(tmp_path)
    with serve(Settings(repository=tmp_path, port=0, timeout=5)) as client:
        gate.open.clear()
        started = time.monotonic()
        answer = client.post(CLASSIFY, params={"timeout_ms": 200}, content=RED)
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
        assert 0.2 <= time.monotonic() - started < 4
        gate.open.set()
        assert client.post(CLASSIFY, params={"timeout_ms": 5000}, content=RED).status_code == 200


@pytest.mark.parametrize(
    "option",
    [{"timeout_ms": each} for each in (0, -1, 5001, "nan", 10**18)] + [{"priority": each} for each in (-2, 2, "x")],
)
def test_a_deadline_or_priority_out_of_bounds_is_422(tmp_path: Path, option: dict[str, str]) -> None:
    write_colour_bundle(tmp_path)
    with serve(Settings(repository=tmp_path, port=0, timeout=5)) as client:
        answer = client.post(CLASSIFY, params=option, content=RED)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")


def test_a_higher_priority_is_answered_first(tmp_path: Path, gate: Gate) -> None:
    write_colour_bundle(tmp_path)
    with serve(Settings(repository=tmp_path, port=0)) as client, ThreadPoolExecutor(4) as pool:
        gate.open.clear()
        gate.seen.clear()
        sent = [pool.submit(client.post, CLASSIFY, content=RED)]
        assert gate.entered.acquire(timeout=10)
        for waiting, (colour, priority) in enumerate((("red", -1), ("lime", 0), ("blue", 1)), 1):
            image = encode(Image.new("RGB", (8, 8), colour))
            sent.append(pool.submit(client.post, CLASSIFY, params={"priority": priority}, content=image))
            wait_for_line(client, f'multicrop_queue_views{{model="colours"}} {waiting}.0')
        gate.open.set()
        assert [answer.result().status_code for answer in sent] == [200] * 4
    assert gate.seen == [[255, 0, 0], [0, 0, 255], [0, 255, 0], [255, 0, 0]]


def wait_for_line(client: httpx.Client, line: str) -> None:
    wait_for(lambda: line in client.get("/metrics").text)


def begin(client: httpx.Client, body: bytes, *headers: str) -> socket.socket:
    """A connection whose request has sent a part of its body."""
    found = socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=10)
    found.sendall("\r\n".join([f"POST {CLASSIFY} HTTP/1.1", "Host: a", *headers, "", ""]).encode() + body)
    return found


def test_bodies_that_are_announced_leave_no_room_until_they_are_gone(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    with serve(Settings(repository=tmp_path, port=0, max_bytes_in_flight=1000)) as client:
        with begin(client, b"begins", f"Content-Length: {1001 - len(RED)}"):
            wait_for_line(client, f"multicrop_bytes_in_flight {1001 - len(RED)}.0")
            refused = client.post(CLASSIFY, content=RED)
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["request_id"] == refused.headers["X-Request-Id"]
            assert client.get("/livez").status_code == 200
        wait_for_line(client, "multicrop_bytes_in_flight 0.0")
        assert client.post(CLASSIFY, content=RED).status_code == 200


def test_a_refused_body_is_not_waited_for(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    limits = Settings(repository=tmp_path, port=0, max_bytes_in_flight=1000)
    with serve(limits) as client, begin(client, b"", "Content-Length: 900"):
        wait_for_line(client, "multicrop_bytes_in_flight 900.0")
        with begin(client, b"", "Content-Length: 900") as second:
            assert second.recv(1 << 16).startswith(b"HTTP/1.1 503")


def test_bodies_that_announce_nothing_are_counted_as_they_arrive(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    with serve(Settings(repository=tmp_path, port=0, max_bytes_in_flight=1000)) as client:
        with begin(client, b"258\r\n" + bytes(0x258) + b"\r\n", "Transfer-Encoding: chunked") as first:
            wait_for_line(client, "multicrop_bytes_in_flight 600.0")
            first.sendall(b"258\r\n" + bytes(0x258) + b"\r\n")
            assert first.recv(1 << 16).startswith(b"HTTP/1.1 503")
        wait_for_line(client, "multicrop_bytes_in_flight 0.0")


def test_a_body_larger_than_all_together_is_its_routes_to_refuse(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    with serve(Settings(repository=tmp_path, port=0, max_bytes_in_flight=1000, max_image_bytes=500)) as client:
        for size, status in ((900, 413), (2000, 413), (400, 415)):
            assert client.post(CLASSIFY, content=b"x" * size).status_code == status
        assert "multicrop_bytes_in_flight 0.0" in client.get("/metrics").text


def test_limits_of_the_settings_reach_the_image(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    limits = Settings(repository=tmp_path, port=0, max_pixels=100, max_aspect_ratio=2.0, max_body_bytes=2000)
    with serve(limits) as client:
        for size, code in (((11, 10), "image_too_large"), ((9, 4), "image_aspect_ratio")):
            answer = client.post(CLASSIFY, content=encode(Image.new("RGB", size)))
            assert (answer.status_code, answer.json()["code"]) == (422, code)
        answer = client.post(CLASSIFY, files=[("images", ("a", b"x" * 1500))] * 2)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_closing_a_server_ends_its_lanes(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    before = set(threading.enumerate())
    with serve(Settings(repository=tmp_path, port=0)):
        assert any(thread.name.startswith("lane") for thread in set(threading.enumerate()) - before)
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("lane")]
