"""Training on the digits: what it shows the network, what it keeps, and the figure it must reach."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.labelled import png
from bundle.store import open_bundle
from export import train
from export.architectures import find
from export.data import digits
from export.errors import ExportError
from export.evaluate import evaluate
from export.graph import serialize, to_onnx
from export.jobs import TrainJob
from export.pipeline import train as run
from export.train import disturbed, train_digits

LENET = find("lenet5")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "EPOCHS", 2)


def test_without_disturbance_the_crop_is_the_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("DEGREES", "ZOOM", "SHIFT"):
        monkeypatch.setattr(train, bound, 0)
    images = torch.randint(0, 256, (3, 36, 36, 1), dtype=torch.uint8)
    torch.testing.assert_close(disturbed(images, 32), images[:, 2:34, 2:34].float(), atol=1e-2, rtol=0)


def test_disturbed_images_are_never_mirrored() -> None:
    image = torch.zeros(1, 36, 36, 1, dtype=torch.uint8)
    image[:, 8:28, 12:15] = 255  # an L: the stroke is left of the foot's end
    image[:, 25:28, 12:24] = 255
    crops = disturbed(image.repeat(200, 1, 1, 1), 32)[..., 0]
    columns = torch.arange(32.0)
    upper = (crops[:, :16].sum(1) * columns).sum(1) / crops[:, :16].sum((1, 2))
    lower = (crops[:, 16:].sum(1) * columns).sum(1) / crops[:, 16:].sum((1, 2))
    assert (upper < lower + 4).all()
    assert len({crop.numpy().tobytes() for crop in crops}) == 200


@pytest.mark.usefixtures("short")
def test_the_same_seed_trains_the_same_network() -> None:
    first, again, other = (train_digits(LENET, seed).network.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


@pytest.mark.usefixtures("short")
def test_the_recipe_is_written_down() -> None:
    source = train_digits(LENET, 4).source
    assert (source.kind, source.name) == ("trained", "digits")
    assert source.recipe["seed"] == 4
    assert source.recipe["split"] == {"seed": 0, "train": 1077, "validation": 360, "test": 360}
    assert source.recipe["epochs"] == 2


@pytest.mark.usefixtures("short")
def test_the_chosen_epoch_is_the_best_on_the_validation_part() -> None:
    loaded = train_digits(LENET, 0)
    validation = digits().validation
    images = [png(image) for image in validation.images]
    graph = serialize(to_onnx(loaded.network, LENET))
    found = evaluate(graph, LENET.input, images, validation.classes, data="validation").evaluation
    chosen = loaded.source.recipe["chosen"]
    assert isinstance(chosen, dict)
    assert chosen["accuracy"] == pytest.approx(found.top1 / found.images, abs=1e-4)


def test_a_network_for_other_images_is_refused() -> None:
    with pytest.raises(ExportError, match=r"resnet50 is no network for the digits \(10 classes, grey\); train lenet5"):
        train_digits(find("resnet50"), 0)


@pytest.mark.slow
def test_lenet_learns_the_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run(TrainJob(network="lenet5", data="digits", repository=tmp_path / "models"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["models"]  # no logs, no checkpoints

    bundle = open_bundle(tmp_path / "models", "lenet5", 1)
    assert folder == tmp_path / "models" / "lenet5" / "1"
    assert bundle.labels == tuple("0123456789")
    center, ten_crop = bundle.manifest.evaluations
    assert (center.views, ten_crop.views) == ("center", "ten_crop")
    assert (center.images, ten_crop.images) == (360, 360)
    assert center.top1 >= 353  # 98 %

    test = digits().test
    found = evaluate(bundle.model, bundle.manifest.input, [png(i) for i in test.images], test.classes, data=center.data)
    assert found.evaluation == center
    right = np.array([answer.index for answer in found.answers]) == test.classes
    assert right.sum() == center.top1
