"""Clients that leave while their views wait: a real server, real sockets, and a device that waits for the test.

Each client's pixels are a number of its own, which the device notes: it tells whose views were ever run.
"""

import contextlib
import gc
import json
import re
import socket
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from fakes import FakeBackend, write_colour_bundle
from live import encode, serve, wait_for
from service import look, model
from service.engine.batcher import Batcher
from service.engine.entry import Entry, Pixels, Scores
from service.settings import Settings

SOON = 20.0
CLIENTS = 20
WIDE = (16, 8)
"""Of its ten crops six differ (worked out in test_classify)."""
TEN_CROPS = 6
FIRST = 100
"""The numbers of those who leave count from here; those who stay have 1, 2 and 3."""


class Gate(FakeBackend):
    """Runs a batch for each step that it is given; notes the first value of every row."""

    def __init__(self, *, fills_ahead: bool) -> None:
        super().__init__(fills_ahead=fills_ahead)
        self.seen: list[int] = []
        self.steps = threading.Semaphore(1000)
        """As good as open, until `shut`."""
        self.entered = threading.Semaphore(0)

    def shut(self) -> None:
        self.seen.clear()
        self.steps = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)

    def run(self, images: Pixels, *, alone: bool = False) -> Scores:
        self.entered.release()
        assert self.steps.acquire(timeout=SOON)
        self.seen += images[:, 0, 0, 0].tolist()
        scores: Scores = (10 * images.mean((1, 2)) / 255).astype(np.float32)
        return scores

    def wait(self) -> None:
        """Until one more batch has reached the device."""
        assert self.entered.acquire(timeout=SOON)


class Held:
    """What of the uploads is still in memory: the entries, and the images that they draw from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._noted: list[weakref.ref[object]] = []
        submit, noted = Batcher.submit, self._noted

        class Drawing(look.Drawing):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                noted.append(weakref.ref(self))

        def note(batcher: Batcher, *entries: Entry, admitted: bool = False) -> None:
            noted.extend(map(weakref.ref, entries))
            submit(batcher, *entries, admitted=admitted)

        monkeypatch.setattr(look, "Drawing", Drawing)
        monkeypatch.setattr(Batcher, "submit", note)

    def __len__(self) -> int:
        return sum(each() is not None for each in self._noted)


@pytest.fixture(params=[False, True], ids=["lanes-draw", "pool-draws"])
def gate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """As on a CPU, and as on a GPU."""
    gate = Gate(fills_ahead=request.param)
    monkeypatch.setattr(model, "open_backend", lambda *_: gate)
    yield gate
    gate.steps.release(1000)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


@pytest.fixture
def client(tmp_path: Path, gate: Gate) -> Iterator[httpx.Client]:  # noqa: ARG001 before the model is loaded
    write_colour_bundle(tmp_path)
    with serve(Settings(repository=tmp_path, port=0)) as client:
        yield client


@dataclass(frozen=True)
class Case:
    """What those who leave ask, and how many views of it wait."""

    path: str
    make: Callable[[int], tuple[bytes, dict[str, str]]]
    """Body and headers, with pixels of that number."""
    views: int


def picture(number: int) -> bytes:
    return encode(Image.new("RGB", WIDE, (number, 0, 0)))


def image(number: int) -> tuple[bytes, dict[str, str]]:
    return picture(number), {}


def grey(number: int) -> tuple[bytes, dict[str, str]]:
    return encode(Image.new("RGB", WIDE, (number, number, number))), {}


def raw_image(number: int) -> tuple[bytes, dict[str, str]]:
    return picture(number), {"Inference-Header-Content-Length": "0"}


def several(number: int) -> tuple[bytes, dict[str, str]]:
    request = httpx.Request("POST", "http://any", files=[("images", ("any.png", picture(number)))] * 3)
    return request.read(), {"Content-Type": request.headers["Content-Type"]}


def tensor(number: int) -> tuple[bytes, dict[str, str]]:
    rows = {"name": "images", "shape": [4, 8, 8, 3], "datatype": "UINT8", "data": [number] * (4 * 8 * 8 * 3)}
    return json.dumps({"inputs": [rows]}).encode(), {}


CASES = {
    "image": Case("/v1/models/colours:classify?views=ten_crop", image, TEN_CROPS),
    "several": Case("/v1/models/colours:classify?views=ten_crop", several, 3 * TEN_CROPS),
    "v2-image": Case("/v2/models/colours-ten_crop/infer", raw_image, TEN_CROPS),
    "v2-tensor": Case("/v2/models/colours/infer", tensor, 4),
}


def leave(connection: socket.socket, *, rudely: bool) -> None:
    """With or without a word."""
    if rudely:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def send(client: httpx.Client, case: Case, number: int) -> socket.socket:
    body, headers = case.make(number)
    lines = {"Host": "test", "Content-Length": str(len(body)), **headers}
    head = f"POST {case.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    connection = socket.create_connection(("127.0.0.1", client.base_url.port or 0))
    connection.sendall(head.encode() + b"\r\n" + body)
    return connection


def metric(client: httpx.Client, name: str, *words: str) -> float:
    """The sum over the labels that have these words."""
    lines = re.findall(rf"^{name}{{?(.*?)}}? ([\d.e+]+)$", client.get("/metrics").text, re.MULTILINE)
    return sum(float(value) for labels, value in lines if all(word in labels for word in words))


def waiting(client: httpx.Client) -> float:
    return metric(client, "multicrop_queue_views")


def cancelled(client: httpx.Client) -> float:
    return metric(client, "multicrop_dropped_views_total", 'reason="cancelled"')


def ask(client: httpx.Client, number: int, path: str = "/v1/models/colours:classify") -> httpx.Response:
    return client.post(path, content=encode(Image.new("RGB", (8, 8), (number, 255, 0))))


def check_green(answer: httpx.Response, number: int) -> None:
    """The softmax of ten times (number / 255, 1, 0), by hand."""
    assert answer.status_code == 200, answer.text
    found = {each["label"]: each["probability"] for each in answer.json()["predictions"]}
    weights = np.exp([10 * number / 255, 10, 0])
    assert np.allclose([found["red"], found["green"], found["blue"]], weights / weights.sum(), atol=1e-6)


def leave_all(client: httpx.Client, case: Case) -> list[socket.socket]:
    """Everybody who will leave, one after the other, and the views that wait then."""
    before = waiting(client)
    connections = [send(client, case, number) for number in range(FIRST, FIRST + CLIENTS)]
    wait_for(lambda: waiting(client) == before + CLIENTS * case.views)
    return connections


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_views_of_clients_that_left_are_never_run(client: httpx.Client, gate: Gate, held: Held, case: Case) -> None:
    gate.shut()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(ask, client, 1)
        gate.wait()
        staying = [pool.submit(ask, client, 2)]
        wait_for(lambda: waiting(client) == 1)
        kept, uploaded = len(held), metric(client, "multicrop_bytes_in_flight")
        connections = leave_all(client, case)
        assert len(held) > kept
        staying.append(pool.submit(ask, client, 3))
        wait_for(lambda: waiting(client) == 2 + CLIENTS * case.views)
        for place, connection in enumerate(connections):
            leave(connection, rudely=place % 2 == 1)
        wait_for(lambda: waiting(client) == 2)
        assert cancelled(client) == CLIENTS * case.views
        assert metric(client, "multicrop_http_requests_total", 'status="499"') == CLIENTS
        gc.collect()
        assert len(held) <= 3 * (kept // 2), "of the three who stay, though the device still stands"
        wait_for(lambda: metric(client, "multicrop_bytes_in_flight") <= 2 * uploaded)
        gate.steps.release(1000)
        for number, answer in enumerate((first, *staying), 1):
            check_green(answer.result(), number)
    assert sorted(gate.seen) == [1, 2, 3]
    assert (waiting(client), metric(client, "multicrop_bytes_in_flight")) == (0, 0)
    gc.collect()
    assert len(held) == 0


def test_an_ensemble_that_nobody_waits_for_runs_no_member(tmp_path: Path, gate: Gate, held: Held) -> None:
    for name in ("one", "two"):
        write_colour_bundle(tmp_path, name)
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "ensemble.toml").write_text('members = [{model = "one"}, {model = "two", views = "ten_crop"}]')
    case = Case("/v1/models/both:classify", image, 1 + TEN_CROPS)
    with serve(Settings(repository=tmp_path, port=0)) as client, ThreadPoolExecutor(2) as pool:
        gate.shut()
        busy = [pool.submit(ask, client, 1, f"/v1/models/{name}:classify") for name in ("one", "two")]
        for _ in busy:
            assert gate.entered.acquire(timeout=SOON)
        wait_for(lambda: metric(client, "multicrop_queue_views") == 0)
        connections = leave_all(client, case)
        for place, connection in enumerate(connections):
            leave(connection, rudely=place % 2 == 1)
        wait_for(lambda: waiting(client) == 0)
        dropped = "multicrop_dropped_views_total"
        assert metric(client, dropped, 'model="one"', 'reason="cancelled"') == CLIENTS
        assert metric(client, dropped, 'model="two"', 'reason="cancelled"') == CLIENTS * TEN_CROPS
        gate.steps.release(1000)
        for answer in busy:
            check_green(answer.result(), 1)
        assert set(gate.seen) == {1}
        gc.collect()
        assert len(held) == 0


def test_who_leaves_between_waves_has_no_next_one(client: httpx.Client, gate: Gate, held: Held) -> None:
    """Grey is never decided, so that a wave follows the first one: the first is run, that waits."""
    case = Case("/v1/models/colours:classify?views=ten_crop&stop=exact", grey, 1)
    gate.shut()
    with ThreadPoolExecutor(1) as pool, contextlib.closing(send(client, case, FIRST)) as connection:
        gate.wait()
        other = pool.submit(ask, client, 1)
        wait_for(lambda: waiting(client) == 1)
        gate.steps.release()  # its first wave; then the other's view is on the device
        gate.wait()
        wait_for(lambda: waiting(client) == 1)
        leave(connection, rudely=False)
        wait_for(lambda: cancelled(client) == 1)
        gate.steps.release(1000)
        check_green(other.result(), 1)
        check_green(ask(client, 2), 2)
    first_wave = gate.seen.count(FIRST)
    assert 0 < first_wave < TEN_CROPS
    assert gate.seen == [FIRST] * first_wave + [1, 2]
    gc.collect()
    assert len(held) == 0


def test_who_leaves_while_the_device_runs_costs_that_run_alone(client: httpx.Client, gate: Gate, held: Held) -> None:
    """At most eight views are a batch: of eighteen, the run under way is seen, and no other."""
    gate.shut()
    connection = send(client, CASES["several"], FIRST)
    gate.wait()
    wait_for(lambda: 0 < waiting(client) < 3 * TEN_CROPS)
    leave(connection, rudely=True)
    wait_for(lambda: waiting(client) == 0)
    gate.steps.release(1000)
    check_green(ask(client, 1), 1)
    assert set(gate.seen) == {FIRST, 1}
    assert 1 <= gate.seen.count(FIRST) <= gate.max_batch_size
    gc.collect()
    assert len(held) == 0
