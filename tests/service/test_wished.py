"""What serving.toml wishes of plans, deadlines, priorities and the engine, as clients and operators see it."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image

from fakes import FakeBackend, write_colour_bundle
from live import encode, serve, wait_for
from service import model
from service.engine import places
from service.engine.backend import Place
from service.engine.entry import Entry, Pixels, Scores
from service.engine.limits import cores, usual_lanes
from service.errors import ProviderError
from service.metrics import Metrics
from service.model import ServedModel
from service.registry import ModelRegistry
from service.settings import Settings

RED = encode(Image.new("RGB", (20, 10), "red"))
SECONDS = 20.0

SERVING = {
    "plain": "",
    "few": 'plans = ["flips", "center"]',
    "typo": 'plans = ["centre", "center"]',
    "too-much": 'plans = ["center", "dense"]',
    "long": "timeout_ms = 30001",
    "absent": 'devices = ["cuda:99"]',
    "lanes": 'devices = ["cpu"]\ninstances = 3\nbuckets = [1, 5]\nmax_queue_size = 7',
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    repository = tmp_path_factory.mktemp("repository")
    for name, content in SERVING.items():
        (write_colour_bundle(repository, name).parent / "serving.toml").write_text(content)
    for name, views in (("both", "flips"), ("neither", "ten_crop")):
        (repository / name).mkdir()
        members = f'members = [{{model = "few", views = "{views}"}}, {{model = "plain"}}]'
        (repository / name / "ensemble.toml").write_text(members)
    with serve(Settings(repository=repository, port=0)) as client:
        yield client


def refused(answer: httpx.Response) -> str:
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_views")
    return str(answer.json()["detail"])


def test_only_the_plans_on_offer_are_told_and_run(client: httpx.Client) -> None:
    detail = client.get("/v1/models/few").json()
    assert (detail["views"], detail["refused_views"]) == (["center", "flips"], {})
    assert client.post("/v1/models/few:classify", content=RED, params={"views": "flips"}).status_code == 200
    said = "few does not offer the view plan 'ten_crop'; it offers center, flips"
    assert refused(client.post("/v1/models/few:classify", content=RED, params={"views": "ten_crop"})) == said
    assert refused(client.get("/v1/models/few/views/ten_crop", params={"width": 8, "height": 8})) == said
    assert "offers center, flips" in refused(
        client.post("/v1/models/few:classify", content=RED, params={"views": "dense"})
    ), "whether the network could run it is nobody's business"
    assert client.post("/v1/models/plain:classify", content=RED, params={"views": "ten_crop"}).status_code == 200


def test_a_client_of_the_protocol_finds_the_plans_on_offer(client: httpx.Client) -> None:
    remote = triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}")
    try:
        assert remote.is_model_ready("few-flips")
        assert not remote.is_model_ready("few-ten_crop")
        assert remote.is_model_ready("plain-ten_crop")
    finally:
        remote.close()


def test_an_ensemble_asks_its_members_for_what_they_offer(client: httpx.Client) -> None:
    answer = client.post("/v1/models/both:classify", content=RED).json()
    assert [member["views"]["plan"] for member in answer["members"]] == ["flips", "center"]
    assert "few does not offer" in refused(
        client.post("/v1/models/both:classify", content=RED, params={"views": "ten_crop"})
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("typo", "serving.toml: plans: 'centre': there is no such plan; choose one of center"),
        ("too-much", "serving.toml: plans: 'dense': it needs a network that takes any size"),
        ("long", "serving.toml: timeout_ms = 30001 is more than the server's own, 30000"),
        ("absent", "there is no cuda:99 on this machine; it has cpu"),
        ("neither", "few does not offer the view plan 'ten_crop'"),
    ],
)
def test_what_cannot_be_met_is_refused_with_the_reason(client: httpx.Client, name: str, said: str) -> None:
    index = {model["name"]: model["versions"] for model in client.get("/v1/models").json()}
    assert index[name][0]["state"] == "UNAVAILABLE"
    assert said in index[name][0]["reason"]


def test_a_model_says_where_it_runs(client: httpx.Client) -> None:
    detail = client.get("/v1/models/lanes").json()
    assert (detail["provider"], detail["devices"], detail["max_batch_size"]) == ("cpu", ["cpu"], 5)


class Standing(FakeBackend):
    """Stands still until it is let go."""

    def __init__(self) -> None:
        super().__init__(max_batch_size=1)
        self.begun, self.gate = threading.Semaphore(0), threading.Event()
        self.seen: list[int] = []

    def run(self, images: Pixels, *, alone: bool = False) -> Scores:
        if images.any():  # no golden answer is asked of it
            self.begun.release()
            assert self.gate.wait(SECONDS)
            self.seen.append(int(images[0, 0, 0, 1]))
        return np.asarray([[10.0, 0.0, 0.0]], np.float32)


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Standing]:
    device = Standing()
    monkeypatch.setattr(model, "open_backend", lambda *_: device)
    monkeypatch.setattr(model, "_check_golden", lambda *_, **__: 0.0)
    yield device
    device.gate.set()


def test_the_operators_deadline_is_that_of_requests_that_name_none(tmp_path: Path, standing: Standing) -> None:
    (write_colour_bundle(tmp_path, "short").parent / "serving.toml").write_text("timeout_ms = 150")
    with serve(Settings(repository=tmp_path, port=0, timeout=SECONDS)) as client:
        answer = client.post("/v1/models/short:classify", content=RED)
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
        assert "0.15 s" in answer.json()["detail"]
        body = {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [1] * 192}]}
        answer = client.post("/v2/models/short/infer", json=body)
        assert (answer.status_code, "0.15 s" in answer.json()["error"]) == (504, True)
        threading.Timer(0.5, standing.gate.set).start()
        longer = client.post("/v1/models/short:classify", content=RED, params={"timeout_ms": 15000})
        assert longer.status_code == 200, "a client may ask for more than the default"
        assert client.post("/v1/models/short:classify", content=RED, params={"timeout_ms": 20001}).status_code == 422


def wait_for_queue(client: httpx.Client, name: str, views: int) -> None:
    line = f'multicrop_queue_views{{model="{name}"}} {float(views)}'
    wait_for(lambda: line in client.get("/metrics").text)


def _tensor(mark: int, **parameters: int) -> dict[str, Any]:
    pixels = np.full((1, 8, 8, 3), mark, np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": pixels.ravel().tolist()}
    return {"inputs": [tensor], "parameters": parameters}


def test_the_operators_priority_is_that_of_requests_that_name_none(tmp_path: Path, standing: Standing) -> None:
    (write_colour_bundle(tmp_path, "late").parent / "serving.toml").write_text("priority = -1")
    with serve(Settings(repository=tmp_path, port=0)) as client:
        config = client.get("/v2/models/late/config").json()
        assert config["dynamic_batching"] == {"priority_levels": 3, "default_priority_level": 3}
        bodies = [_tensor(1), _tensor(2), _tensor(3, priority=2), _tensor(4, priority=1)]
        requests: list[tuple[str, dict[str, Any]]] = [("/v2/models/late/infer", {"json": body}) for body in bodies]
        requests.append(("/v1/models/late:classify", {"content": RED}))
        threads = []
        for count, (path, sent) in enumerate(requests):
            threads.append(threading.Thread(target=client.post, args=(path,), kwargs=sent))
            threads[-1].start()
            if not count:
                assert standing.begun.acquire(timeout=SECONDS)
                continue
            wait_for_queue(client, "late", count)
        standing.gate.set()
        for thread in threads:
            thread.join(SECONDS)
    assert standing.seen == [1, 4, 3, 2, 0], "the image, which has no green, came last"


class OnDevice(FakeBackend):
    """A GPU's stand-in: answers the mean of each channel, unless it is broken."""

    def __init__(self, place: Place, broken: tuple[str, ...] = ()) -> None:
        super().__init__(max_batch_size=4)
        self.place, self.broken = place, broken
        self.callers: set[int] = set()

    def run(self, images: Pixels, *, alone: bool = False) -> Scores:
        self.callers.add(threading.get_ident())
        scores: Scores = (10 * images.mean(axis=(1, 2)) / 255).astype(np.float32)
        return scores + np.float32(self.place.device in self.broken)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[OnDevice]:
    """Two of them."""
    opened: list[OnDevice] = []

    def open_backend(_: bytes, __: int, place: Place, ___: object) -> OnDevice:
        opened.append(OnDevice(place))
        return opened[-1]

    monkeypatch.setattr(places, "count_gpus", lambda: 2)
    monkeypatch.setattr(model, "open_backend", open_backend)
    return opened


def registry_of(repository: Path) -> ModelRegistry:
    registry = ModelRegistry(Settings(repository=repository), Metrics())
    registry.start()
    registry.reload().result(SECONDS)
    return registry


def served(registry: ModelRegistry) -> ServedModel:
    found = registry.get("colours")
    assert isinstance(found, ServedModel)
    return found


def test_every_gpu_has_a_runner_of_its_own(tmp_path: Path, gpus: list[OnDevice]) -> None:
    write_colour_bundle(tmp_path)
    registry = registry_of(tmp_path)
    try:
        found = served(registry)
        assert found.engine.devices == ("cuda:0", "cuda:1")
        checked = [set(device.callers) for device in gpus]
        entries = [Entry(1, (8, 8, 3), lambda rows: rows.fill(255)) for _ in range(40)]
        found.batcher.submit(*entries)
        assert [entry.future.result(SECONDS).tolist() for entry in entries] == [[[10, 10, 10]]] * 40
        lanes = [device.callers - before for device, before in zip(gpus, checked, strict=True)]
        assert all(checked), "golden answers are asked of each"
        assert not lanes[0] & lanes[1]
        assert sum(size * told.count for size, told in found.engine.batches.items()) == 40
    finally:
        registry.close()


def test_golden_answers_are_asked_of_every_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "count_gpus", lambda: 3)
    monkeypatch.setattr(model, "open_backend", lambda _, __, place, ___: OnDevice(place, broken=("cuda:2",)))
    write_colour_bundle(tmp_path)
    registry = registry_of(tmp_path)
    try:
        assert "the answers are off by" in registry.index()["colours"][1].reason
    finally:
        registry.close()


def test_of_gpus_that_nobody_named_those_that_work_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken: set[str] = {"cuda:0"}

    def open_backend(_: bytes, __: int, place: Place, ___: object) -> OnDevice:
        if place.device in broken:
            raise ProviderError("no")
        return OnDevice(place)

    monkeypatch.setattr(places, "count_gpus", lambda: 2)
    monkeypatch.setattr(model, "open_backend", open_backend)
    write_colour_bundle(tmp_path)
    serving = tmp_path / "colours" / "serving.toml"
    registry = registry_of(tmp_path)
    try:
        assert served(registry).engine.devices == ("cuda:1",)
        serving.write_text('devices = ["cuda:0"]')
        assert [change.outcome for change in registry.reload().result(SECONDS)] == ["refused"]
        assert served(registry).engine.devices == ("cuda:1",), "the one before still serves"
        broken.add("cuda:1")
        serving.write_text("instances = 2")
        registry.reload().result(SECONDS)
        assert served(registry).engine.devices == ("cpu",)
    finally:
        registry.close()


@pytest.mark.parametrize(
    ("wish", "outcome"),
    [
        ("instances = 2", "loaded"),
        ('devices = ["cpu"]', "loaded"),
        ("buckets = [3]", "loaded"),
        ("max_queue_size = 9", "loaded"),
        ('plans = ["center"]', "changed"),
        ("timeout_ms = 100", "changed"),
        ("priority = 1", "changed"),
        ("aliases = {stable = 1}", "changed"),
        (f"max_queue_size = {Settings().max_queue_size}", "changed"),
    ],
)
def test_what_changes_the_engine_takes_a_new_one_and_nothing_else_does(tmp_path: Path, wish: str, outcome: str) -> None:
    write_colour_bundle(tmp_path)
    registry = registry_of(tmp_path)
    try:
        before = served(registry)
        (tmp_path / "colours" / "serving.toml").write_text(wish)
        assert [change.outcome for change in registry.reload().result(SECONDS)] == [outcome]
        after = served(registry)
        assert (after.batcher is before.batcher) == (outcome == "changed")
        assert registry.reload().result(SECONDS) == []
    finally:
        registry.close()


def test_the_queue_is_as_long_as_the_operator_says(tmp_path: Path, standing: Standing) -> None:
    (write_colour_bundle(tmp_path, "short").parent / "serving.toml").write_text("max_queue_size = 2")
    with serve(Settings(repository=tmp_path, port=0)) as client:
        post = client.post
        body = json.dumps(_tensor(1))
        threads = [threading.Thread(target=post, args=("/v2/models/short/infer",), kwargs={"content": body})]
        threads[0].start()
        assert standing.begun.acquire(timeout=SECONDS)
        for count in (1, 2):
            threads.append(threading.Thread(target=post, args=("/v2/models/short/infer",), kwargs={"content": body}))
            threads[-1].start()
            wait_for_queue(client, "short", count)
        answer = client.post("/v1/models/short:classify", content=RED)
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert "at most 2 may" in answer.json()["detail"]
        standing.gate.set()
        for thread in threads:
            thread.join(SECONDS)


def test_lanes_of_the_cpu_are_instances_or_the_usual_ones(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path)
    registry = registry_of(tmp_path)
    try:
        assert len(served(registry).batcher._lanes) == usual_lanes(cores())
        (tmp_path / "colours" / "serving.toml").write_text("instances = 5")
        registry.reload().result(SECONDS)
        assert len(served(registry).batcher._lanes) == 5
    finally:
        registry.close()
