"""A real network on real images in lower precision: what is lost, by calibrator."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from bundle.accuracy import Accuracies
from bundle.store import open_bundle
from export import pipeline
from export.__main__ import main
from export.jobs import FreezeJob
from labelling import CIFAR, binary

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """The first 1000 test images in CIFAR-10's binary form."""
    arrays = np.load(shared / "cifar10" / "cifar10_test_first1000.npz")
    file = tmp_path_factory.mktemp("cifar") / "test_batch.bin"
    file.write_bytes(binary(arrays["images"], arrays["labels"].tolist()))
    return file


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    folder = tmp_path_factory.mktemp("real")
    (folder / "cifar.txt").write_text("\n".join(CIFAR))
    weights = str(shared / "weights" / "cifar10_resnet20-12fca82f.th")
    job = FreezeJob(network="resnet20", weights=weights, labels=folder / "cifar.txt", repository=folder / "models")
    return pipeline.freeze(job).parent


@pytest.mark.parametrize(("precision", "near"), [("int8", 0.06), ("fp16", 0.002)])
def test_resnet20_keeps_its_accuracy(tmp_path: Path, frozen: Path, cifar: Path, precision: str, near: float) -> None:
    """Chosen on one half of the images, counted on the other."""
    model = Path(shutil.copytree(frozen, tmp_path / "models" / "resnet20"))
    assert main(["quantize", str(model), "--to", precision, "--data", str(cifar), "--budget", "1"]) == 0
    before, after = (open_bundle(model.parent, "resnet20", version) for version in (1, 2))
    made = after.manifest.quantization
    assert made
    assert made.difference.error < near
    assert made.difference.top1_agreement > 0.97
    figures = [
        Accuracies.model_validate_json((model / "evaluations" / f"{bundle.digest}.json").read_bytes()).results[0]
        for bundle in (before, after)
    ]
    assert figures[0].images == figures[1].images == 500
    assert abs(figures[0].top1 - figures[1].top1) <= 5
    print(f"{precision}: {figures[1].error():.2f} %, fp32 {figures[0].error():.2f} %, {made.calibrator}")
    print({tried.calibrator: (tried.right, tried.difference.error) for tried in made.tried})
