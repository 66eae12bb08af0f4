"""What clients are told when the device is busy: a real server whose device waits for the test."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from fakes import write_colour_bundle
from live import encode, serve
from service import model
from service.engine.backend import CpuBackend
from service.engine.queue import Pixels, Scores
from service.settings import Settings

RED = encode(Image.new("RGB", (8, 8), "red"))
CLASSIFY = "/v1/models/colours:classify"


class Gate:
    """Stands open until `shut`; `entered` counts the runs that have reached it."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)

    def backend(self, graph: bytes, macs: int, *_: object) -> CpuBackend:
        gate = self

        class Gated(CpuBackend):
            def run(self, images: Pixels) -> Scores:
                if not gate.open.is_set():
                    gate.entered.release()
                    assert gate.open.wait(10)
                return super().run(images)

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
    with serve(Settings(repository=tmp_path, port=0, timeout=0.2)) as client:
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
        while 'multicrop_queue_views{model="colours"} 2.0' not in client.get("/metrics").text:
            pass
        refused = client.post(CLASSIFY, content=RED)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        gate.open.set()
        assert [answer.result().status_code for answer in (first, *waiting)] == [200] * 3


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
