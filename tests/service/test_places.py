"""Where backends run, and opening them there."""

import pytest

from bundle import store
from bundle.store import Bundle
from fakes import write_colour_bundle
from service.engine import places
from service.engine.backend import Engine, Place
from service.engine.driver import count_gpus
from service.engine.limits import cores, usual_lanes
from service.engine.places import find_places, open_backend
from service.errors import ProviderError

SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("repository")
    write_colour_bundle(folder)
    return store.open_bundle(folder, "colours", 1)


@pytest.mark.parametrize(
    ("gpus", "wanted", "devices"),
    [
        (0, Engine(1), ["cpu"]),
        (2, Engine(1), ["cuda:0", "cuda:1"]),
        (2, Engine(1, "cpu"), ["cpu"]),
        (1, Engine(1, "cuda", instances=2), ["cuda:0", "cuda:0"]),
        (4, Engine(1, devices=("cuda:3", "cuda:1"), instances=2), ["cuda:3", "cuda:3", "cuda:1", "cuda:1"]),
        (4, Engine(1, "cuda", devices=("cpu",)), ["cpu"]),
    ],
)
def test_the_places_are_those_that_are_wished(
    monkeypatch: pytest.MonkeyPatch, gpus: int, wanted: Engine, devices: list[str]
) -> None:
    monkeypatch.setattr(places, "count_gpus", lambda: gpus)
    assert [place.device for place in find_places(wanted)] == devices


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Engine(1, devices=("cuda:0", "cuda:2")), "there is no cuda:2 on this machine; it has cpu, cuda:0, cuda:1"),
        (Engine(1, devices=("cuda:7", "cuda:2")), "there is no cuda:7 and no cuda:2 on this machine"),
    ],
)
def test_devices_that_are_not_there_are_refused_naming_those_that_are(
    monkeypatch: pytest.MonkeyPatch, wanted: Engine, said: str
) -> None:
    monkeypatch.setattr(places, "count_gpus", lambda: 2)
    with pytest.raises(ProviderError, match=said):
        find_places(wanted)


def test_the_cpu_has_as_many_lanes_as_instances_and_batches_as_large_as_the_last_bucket(bundle: Bundle) -> None:
    (place,) = find_places(Engine(1, "cpu", instances=5, buckets=(2, 6)))
    backend = open_backend(bundle.model, 1_814_073_344, place, SHAPE)
    assert (backend.lanes, backend.max_batch_size) == (5, 6)
    (place,) = find_places(Engine(1, "cpu"))
    assert open_backend(bundle.model, 1, place, SHAPE).lanes == usual_lanes(cores())


def test_a_gpu_has_the_memory_that_is_wished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "count_gpus", lambda: 2)
    assert [place.memory_mib for place in find_places(Engine(1, gpu_memory_mib=512))] == [512, 512]


def test_cuda_that_is_named_and_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "count_gpus", lambda: 0)
    with pytest.raises(ProviderError, match="--provider cpu"):
        find_places(Engine(1, "cuda"))


def test_a_provider_never_falls_back_by_itself(bundle: Bundle) -> None:
    """ONNX Runtime would only warn."""
    if count_gpus():
        pytest.skip("there is a GPU here")
    with pytest.raises(ProviderError, match=r"cuda:0 does not work, .* use --provider cpu"):
        open_backend(bundle.model, 1, Place("cuda"), SHAPE)


@pytest.mark.gpu
def test_cuda_meets_the_golden_answers(bundle: Bundle) -> None:
    if not count_gpus():
        pytest.skip("there is no GPU here")
    for place in find_places(Engine(1, "cuda", instances=2)):
        backend = open_backend(bundle.model, 1, place, SHAPE)
        assert backend.provider == "cuda"
        bundle.golden.check(backend.run(bundle.golden.images), "cuda")
