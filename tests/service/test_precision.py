"""int8 serves on the CPU, fp16 on GPUs; another wish is refused, and says why."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bundle import store
from bundle.manifest import Difference, Manifest, Precision, Quantization
from fakes import FakeBackend, write_colour_bundle
from live import serve
from service import model, precision
from service.engine import places
from service.engine.backend import Engine, Place
from service.engine.entry import Shape
from service.errors import ProviderError
from service.metrics import Metrics
from service.model import ServedModel
from service.precision import fit
from service.registry import ModelRegistry
from service.settings import Settings

SECONDS = 10.0


def publish(repository: Path, wanted: Precision) -> store.Bundle:
    """The colours again, by a manifest that tells of another precision."""
    if not store.versions(repository, "colours"):
        write_colour_bundle(repository, scale=255)
    first = store.open_bundle(repository, "colours", 1)
    folder = repository / "colours"
    files = {name: (folder / "1" / name).read_bytes() for name in first.manifest.files}
    made = Quantization(source=first.digest, difference=Difference(images=1, error=0, max_rel=0, top1_agreement=1))
    facts = first.manifest.model_dump(exclude={"precision", "files"})
    quantization = None if wanted == "fp32" else made
    manifest = Manifest(**facts, precision=wanted, quantization=quantization, files={})
    version = int(store.write_bundle(repository, "colours", manifest, files).name)
    return store.open_bundle(repository, "colours", version)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def have(count: int) -> None:
        for module in (places, precision):
            monkeypatch.setattr(module, "count_gpus", lambda: count)

    return have


@pytest.mark.parametrize(
    ("wanted", "count", "engine", "devices"),
    [
        ("fp32", 2, Engine(1), ["cuda:0", "cuda:1"]),
        ("fp32", 0, Engine(1), ["cpu"]),
        ("int8", 2, Engine(1), ["cpu"]),
        ("int8", 2, Engine(1, "cpu"), ["cpu"]),
        ("int8", 2, Engine(1, "cuda", ("cpu",)), ["cpu"]),
        ("fp16", 2, Engine(1), ["cuda:0", "cuda:1"]),
        ("fp16", 2, Engine(1, "cuda"), ["cuda:0", "cuda:1"]),
        ("fp16", 2, Engine(1, "cpu", ("cuda:1",)), ["cuda:1"]),
    ],
)
def test_a_version_runs_where_its_precision_does(
    tmp_path: Path, gpus: Callable[[int], None], wanted: Precision, count: int, engine: Engine, devices: list[str]
) -> None:
    gpus(count)
    fitted = fit(engine, publish(tmp_path, wanted))
    assert [place.device for place in places.find_places(fitted)] == devices


@pytest.mark.parametrize(
    ("wanted", "count", "engine", "said"),
    [
        (
            "int8",
            2,
            Engine(1, "cuda"),
            r'is int8, which runs on the CPU alone; set devices = \["cpu"\] in serving.toml',
        ),
        ("int8", 2, Engine(1, devices=("cuda:1",)), "is int8, which runs on the CPU alone"),
        ("fp16", 2, Engine(1, "cpu"), r'is fp16, which runs on GPUs alone; set devices = \["cuda:0"\]'),
        ("fp16", 2, Engine(1, devices=("cpu",)), "is fp16, which runs on GPUs alone"),
        ("fp16", 0, Engine(1), "is fp16, which runs on GPUs alone, and this machine has none"),
        ("fp16", 0, Engine(1, "cuda"), "is fp16, which runs on GPUs alone, and this machine has none"),
    ],
)
def test_another_device_is_refused_naming_the_version_and_the_way_out(
    tmp_path: Path, gpus: Callable[[int], None], wanted: Precision, count: int, engine: Engine, said: str
) -> None:
    gpus(count)
    with pytest.raises(ProviderError, match=rf"^colours version 2 {said}"):
        fit(engine, publish(tmp_path, wanted))


def test_int8_is_the_default_beside_fp32_on_a_cpu_and_fp16_says_why_it_does_not_serve(
    tmp_path: Path, gpus: Callable[[int], None], plain: Callable[..., bytes]
) -> None:
    gpus(0)
    publish(tmp_path, "int8")
    publish(tmp_path, "fp16")
    with serve(Settings(repository=tmp_path, port=0)) as client:
        (listed,) = client.get("/v1/models").json()
        assert [(version["version"], version["state"]) for version in listed["versions"]] == [
            (1, "READY"), (2, "READY"), (3, "UNAVAILABLE")
        ]  # fmt: skip
        assert listed["versions"][2]["reason"] == (
            "colours version 3 is fp16, which runs on GPUs alone, and this machine has none; "
            "its fp32 version serves here"
        )
        told = client.get("/v1/models/colours").json()
        assert (told["version"], told["provider"], told["manifest"]["precision"]) == (2, "cpu", "int8")
        assert told["manifest"]["quantization"]["difference"]["images"] == 1
        assert "quantization" not in client.get("/v1/models/colours?version=1").json()["manifest"]
        answer = client.post("/v1/models/colours:classify", content=plain("blue")).json()
        assert (answer["version"], answer["predictions"][0]["label"]) == (2, "blue")


def test_a_server_whose_devices_int8_cannot_use_answers_with_fp32(
    tmp_path: Path, gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(1)
    opened: list[tuple[str, bool]] = []
    monkeypatch.setattr(model, "open_backend", opener(opened))
    publish(tmp_path, "int8")
    (tmp_path / "colours" / "serving.toml").write_text('devices = ["cuda:0"]')
    registry = started(tmp_path)
    try:
        versions = registry.index()["colours"]
        assert [version.state for version in versions.values()] == ["READY", "UNAVAILABLE"]
        found = registry.get("colours")
        assert isinstance(found, ServedModel)
        assert (found.version, found.engine.devices) == (1, ("cuda:0",))
        assert opened == [("cuda:0", False)]
    finally:
        registry.close()


def test_of_several_versions_each_goes_to_its_own_device(
    tmp_path: Path, gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(1)
    opened: list[tuple[str, bool]] = []
    monkeypatch.setattr(model, "open_backend", opener(opened))
    publish(tmp_path, "int8")
    publish(tmp_path, "fp16")
    registry = started(tmp_path)
    try:
        assert [version.state for version in registry.index()["colours"].values()] == ["READY"] * 3
        assert sorted(opened) == [("cpu", False), ("cuda:0", False), ("cuda:0", True)]
        assert registry.reload().result(SECONDS) == [], "what serves is what is wished"
    finally:
        registry.close()


def test_fp16_never_falls_back_to_the_cpu(
    tmp_path: Path, gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no GPU works fp32 does: on the CPU fp16 would be slower than that."""
    gpus(1)
    monkeypatch.setattr(model, "open_backend", opener([], broken=("cuda:0",)))
    publish(tmp_path, "fp16")
    registry = started(tmp_path)
    try:
        versions = registry.index()["colours"]
        assert [version.state for version in versions.values()] == ["READY", "UNAVAILABLE"]
        assert "colours version 2 is fp16, which runs on GPUs alone" in versions[2].reason
    finally:
        registry.close()


class OnDevice(FakeBackend):
    """Answers the first pixel, which of an image of one colour is what the graph says."""

    def __init__(self, place: Place) -> None:
        super().__init__(fills_ahead=place.provider == "cuda")
        self.provider = place.provider


def opener(opened: list[tuple[str, bool]], broken: tuple[str, ...] = ()) -> Callable[..., OnDevice]:
    def open_backend(_: bytes, __: int, place: Place, ___: Shape, *, half: bool = False) -> OnDevice:
        if place.device in broken:
            raise ProviderError("no")
        opened.append((place.device, half))
        return OnDevice(place)

    return open_backend


def started(repository: Path) -> ModelRegistry:
    registry = ModelRegistry(Settings(repository=repository), Metrics())
    registry.start()
    registry.reload().result(SECONDS)
    return registry
