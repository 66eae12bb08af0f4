"""Backends on a graph whose answers are known, and CUDA's padding on a session that only notes its shapes."""

from typing import Any

import numpy as np
import pytest

from bundle import store
from bundle.store import Bundle
from fakes import write_colour_bundle
from service.engine import backend as backends
from service.engine.backend import BUCKETS, CpuBackend, CudaBackend, Engine, Place, find_places, open_backend
from service.engine.limits import cores
from service.errors import ProviderError

SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("repository")
    write_colour_bundle(folder)
    return store.open_bundle(folder, "colours", 1)


def test_cpu_answers_each_row(bundle: Bundle) -> None:
    images = np.zeros((2, *SHAPE), np.uint8)
    images[1, :, :, 2] = 51
    assert CpuBackend(bundle.model, macs=1).run(images).tolist() == [[0, 0, 0], [0, 0, pytest.approx(2.0)]]


@pytest.mark.parametrize(
    ("macs", "views"),
    [(416_520, 16), (40_551_040, 4), (1_814_073_344, 1), (0, 16)],
    ids=["lenet5", "resnet20", "resnet18", "unknown"],
)
def test_a_cpu_batch_is_short(bundle: Bundle, macs: int, views: int) -> None:
    assert CpuBackend(bundle.model, macs).max_batch_size == views


class NotingSession:
    """Answers the first pixel of each row and notes the shapes that it saw."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, outputs: list[str], inputs: dict[str, Any]) -> list[Any]:
        assert outputs == ["logits"]
        self.shapes.append(inputs["images"].shape)
        return [inputs["images"][:, 0, 0, :].astype(np.float32)]


def test_cuda_runs_only_the_buckets_it_has_warmed(monkeypatch: pytest.MonkeyPatch) -> None:
    session = NotingSession()
    monkeypatch.setattr(backends, "_session", lambda *_: session)
    backend = CudaBackend(b"")
    backend.warm(SHAPE)
    warmed = set(session.shapes)
    assert warmed == {(size, *SHAPE) for size in BUCKETS}
    for rows in range(1, backend.max_batch_size + 1):
        images = np.full((rows, *SHAPE), rows, np.uint8)
        assert backend.run(images).tolist() == [[rows] * 3] * rows
    assert set(session.shapes) == warmed


def test_cuda_runs_the_buckets_that_are_wished(monkeypatch: pytest.MonkeyPatch) -> None:
    session = NotingSession()
    monkeypatch.setattr(backends, "_session", lambda *_: session)
    backend = CudaBackend(b"", buckets=(3, 5))
    backend.warm(SHAPE)
    assert backend.max_batch_size == 5
    for rows in range(1, 6):
        assert backend.run(np.full((rows, *SHAPE), rows, np.uint8)).tolist() == [[rows] * 3] * rows
    assert [shape[0] for shape in session.shapes] == [3, 5, 3, 3, 3, 5, 5]


def test_cuda_says_on_which_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def session(_: bytes, provider: str, options: dict[str, str]) -> NotingSession:
        asked.append((provider, options["device_id"]))
        return NotingSession()

    monkeypatch.setattr(backends, "_session", session)
    monkeypatch.setattr(backends, "count_gpus", lambda: 2)
    for place in find_places(Engine(1)):
        open_backend(b"", 1, place, SHAPE)
    assert asked == [("CUDAExecutionProvider", "0"), ("CUDAExecutionProvider", "1")]


def test_cuda_runs_other_sizes_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense view is large, and each of its shapes is new: padding would be computed for nothing."""
    session = NotingSession()
    monkeypatch.setattr(backends, "_session", lambda *_: session)
    backend = CudaBackend(b"")
    backend.warm(SHAPE)
    session.shapes.clear()
    assert backend.run(np.full((3, 9, 11, 3), 7, np.uint8)).tolist() == [[7] * 3] * 3
    assert session.shapes == [(3, 9, 11, 3)]


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
    monkeypatch.setattr(backends, "count_gpus", lambda: gpus)
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
    monkeypatch.setattr(backends, "count_gpus", lambda: 2)
    with pytest.raises(ProviderError, match=said):
        find_places(wanted)


def test_the_cpu_has_as_many_lanes_as_instances_and_batches_as_large_as_the_last_bucket(bundle: Bundle) -> None:
    (place,) = find_places(Engine(1, "cpu", instances=5, buckets=(2, 6)))
    backend = open_backend(bundle.model, 1_814_073_344, place, SHAPE)
    assert (backend.lanes, backend.max_batch_size) == (5, 6)
    (place,) = find_places(Engine(1, "cpu"))
    assert open_backend(bundle.model, 1, place, SHAPE).lanes == cores()


def test_cuda_that_is_named_and_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "count_gpus", lambda: 0)
    with pytest.raises(ProviderError, match="--provider cpu"):
        find_places(Engine(1, "cuda"))


def test_a_provider_never_falls_back_by_itself(bundle: Bundle) -> None:
    """ONNX Runtime would only warn."""
    if backends.count_gpus():
        pytest.skip("there is a GPU here")
    with pytest.raises(ProviderError, match=r"cuda:0 does not work, .* use --provider cpu"):
        open_backend(bundle.model, 1, Place("cuda"), SHAPE)


@pytest.mark.gpu
def test_cuda_meets_the_golden_answers(bundle: Bundle) -> None:
    if not backends.count_gpus():
        pytest.skip("there is no GPU here")
    for place in find_places(Engine(1, "cuda", instances=2)):
        backend = open_backend(bundle.model, 1, place, SHAPE)
        assert backend.provider == "cuda"
        bundle.golden.check(backend.run(bundle.golden.images), "cuda")
