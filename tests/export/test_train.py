"""Training on the digits: what it keeps, and the figure it must reach."""

from pathlib import Path

import numpy as np
import pytest

from bundle.labelled import png
from bundle.store import open_bundle
from export.__main__ import main
from export.architectures import find
from export.data import digits
from export.evaluate import evaluate
from export.graph import serialize, to_onnx
from export.jobs import FreezeJob
from export.pipeline import freeze
from export.pipeline import train as publish
from export.train.job import TrainJob
from export.train.log import read_run
from export.train.run import train
from export.train.watch import BEST

LENET = find("lenet5")


def ask(**options: object) -> TrainJob:
    asked = {"network": "lenet5", "data": "digits", "repository": Path("models"), "device": "cpu"}
    return TrainJob.model_validate(asked | options)


def test_the_recipe_is_written_down() -> None:
    source = train(ask(seed=4, epochs=2), LENET).loaded.source
    assert (source.kind, source.name) == ("trained", "digits")
    assert (source.recipe["name"], source.recipe["seed"], source.recipe["epochs"]) == ("digits", 4, 2)
    assert source.recipe["split"] == {"seed": 0, "train": 1077, "validation": 360, "test": 360}
    assert source.recipe["optimizer"] == {"kind": "adamw", "weight_decay": 0.05}


def test_the_chosen_epoch_is_the_best_on_the_validation_part(tmp_path: Path) -> None:
    loaded = train(ask(epochs=2, run=tmp_path / "run"), LENET).loaded
    validation = digits().validation
    images = [png(image) for image in validation.images]
    graph = serialize(to_onnx(loaded.network, LENET))
    found = evaluate(graph, LENET.input, images, validation.classes, data="validation").evaluation
    chosen = loaded.source.recipe["chosen"]
    assert isinstance(chosen, dict)
    assert chosen["accuracy"] == pytest.approx(found.top1 / found.images, abs=1e-4)
    best = read_run(tmp_path / "run", "run").best()
    assert best is not None
    assert chosen["epoch"] == best.epoch  # from 1 here as there


def test_a_published_network_has_the_activation_that_it_was_trained_with(tmp_path: Path) -> None:
    publish(ask(epochs=1, activation="relu", repository=tmp_path / "models", run=tmp_path / "run"))
    bundle = open_bundle(tmp_path / "models", "lenet5", 1)
    assert bundle.manifest.source.recipe["activation"] == "relu"
    assert b"Relu" in bundle.model
    assert b"Tanh" not in bundle.model
    # and so has one that is made of the run's weights
    freeze(FreezeJob(network="lenet5", weights=str(tmp_path / "run" / BEST), repository=tmp_path / "models"))
    again = open_bundle(tmp_path / "models", "lenet5", 2)
    np.testing.assert_array_equal(again.golden.logits, bundle.golden.logits)
    assert again.model == bundle.model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "resnet"], "multicrop-export: there is no recipe 'resnet'; choose one of digits, lenet"),
        (["--data", "nowhere"], "multicrop-export: nowhere is not there; name the folder or file"),
        (["--batch", "2000"], "digits has 1077 images to train on and a batch is 2000; see --batch"),
        (["--validation", ":5"], "the digits have parts of their own"),
        (["--recipe", "vgg"], "multicrop-export: lenet5 has no dropout layer; leave dropout out of the recipe"),
        (["--labels", "none.txt"], "none.txt cannot be read; check the path given with --labels"),
    ],
)
def test_what_does_not_fit_is_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [] if "--data" in options else ["--data", "digits"]
    assert main(["train", "lenet5", *data, "--repository", str(tmp_path), "--device", "cpu", *options]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clip", "2"], "clip: '2' is no clipping; write value:0.5, norm:1.0 or global:2.0"),
        (["--clip", "norm:0"], "clip: 'norm:0' is no clipping"),
        (["--rate", "0"], "rate: Input should be greater than 0, not '0'"),
        (["--activation", "elu"], "activation: Input should be 'relu', 'tanh' or 'sigmoid', not 'elu'"),
        (["--resume"], "--resume needs --run FOLDER, the folder of the run that goes on"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "lenet5", "--data", "digits", "--repository", "models", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_lenet_learns_the_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = publish(ask(repository=tmp_path / "models"))
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
