"""Backends on a graph whose answers are known, and CUDA's padding on a session that only notes its shapes."""

from typing import Any

import numpy as np
import pytest

from bundle import store
from bundle.store import Bundle
from fakes import write_colour_bundle
from service.engine import backend as backends
from service.engine.backend import BUCKETS, CpuBackend, CudaBackend, open_backend
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


def test_cuda_runs_other_sizes_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense view is large, and each of its shapes is new: padding would be computed for nothing."""
    session = NotingSession()
    monkeypatch.setattr(backends, "_session", lambda *_: session)
    backend = CudaBackend(b"")
    backend.warm(SHAPE)
    session.shapes.clear()
    assert backend.run(np.full((3, 9, 11, 3), 7, np.uint8)).tolist() == [[7] * 3] * 3
    assert session.shapes == [(3, 9, 11, 3)]


def test_a_provider_that_is_named_never_falls_back(bundle: Bundle) -> None:
    if backends._has_gpu():
        pytest.skip("there is a GPU here")
    with pytest.raises(ProviderError, match="--provider cpu"):
        open_backend(bundle.model, 1, "cuda", SHAPE)


def test_auto_is_the_cpu_without_a_gpu(bundle: Bundle) -> None:
    if backends._has_gpu():
        pytest.skip("there is a GPU here")
    assert open_backend(bundle.model, 1, "auto", SHAPE).provider == "cpu"


def test_auto_serves_on_the_cpu_when_cuda_does_not_work(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: bytes) -> CudaBackend:
        raise RuntimeError("no driver")

    monkeypatch.setattr(backends, "_has_gpu", lambda: True)
    monkeypatch.setattr(backends, "CudaBackend", broken)
    assert open_backend(bundle.model, 1, "auto", SHAPE).provider == "cpu"
    assert "CUDA does not work" in caplog.text


@pytest.mark.gpu
def test_cuda_meets_the_golden_answers(bundle: Bundle) -> None:
    if not backends._has_gpu():
        pytest.skip("there is no GPU here")
    backend = open_backend(bundle.model, 1, "cuda", SHAPE)
    assert backend.provider == "cuda"
    bundle.golden.check(backend.run(bundle.golden.images), "cuda")
