"""What a recipe says is what a training does, each part against a straight computation of what it should do."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from export.architectures import find
from export.graph import Normalize
from export.train import run
from export.train.recipe import Augmentation, Constant, Named, Padded, Recipe, WarmUp
from export.train.recipes import RECIPES
from export.train.start import begin
from export.train.watch import Bar
from tiny import recipe, rows, run_tiny, small, stripes

Watch = Callable[[pl.Trainer, Any], None]


@pytest.fixture
def after_each_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Watch], None]:
    """Has something looked at after each step of a training."""

    def install(watch: Watch) -> None:
        class Watching(Bar):
            def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
                super().on_train_batch_end(trainer, pl_module, *rest)
                watch(trainer, pl_module)

        monkeypatch.setattr(run, "Bar", Watching)

    return install


def plain(**changes: Any) -> Recipe:
    """A recipe without anything random but order and weights."""
    still: dict[str, Any] = {"augmentation": Augmentation(), "dropout": 0.0, "schedule": Constant()}
    return recipe(**still | {"epochs": 1, "rate": 0.01} | changes)


def pixels(count: int) -> npt.NDArray[np.uint8]:
    """The stripes that are trained on."""
    train = stripes(count).train
    return np.stack([train.array(index) for index in range(count)])  # type: ignore[misc]


def seen(wanted: Recipe, monkeypatch: pytest.MonkeyPatch) -> dict[bool, torch.Tensor]:
    """What the network is shown of 16 images, as pixels from 0 to 255, [16, 32, 32, 3]: in training, in validation."""
    shown: dict[bool, torch.Tensor] = {}
    normalized = Normalize.normalized

    def spy(self: Normalize, images: torch.Tensor) -> torch.Tensor:
        shown[torch.is_grad_enabled()] = images.clone()
        return normalized(self, images)

    monkeypatch.setattr(Normalize, "normalized", spy)
    data = stripes(16)
    run_tiny(small(), wanted, replace(data, validation=data.train))
    return shown


def test_labels_are_smoothed_in_training_alone(tmp_path: Path) -> None:
    row, wanted = small(), plain(batch=96, smoothing=0.3, rate=1e-12)
    data = replace(stripes(), validation=stripes().train)
    _, best = run_tiny(row, wanted, data, run=tmp_path / "run")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = begin(row, wanted, 3).network
    logits = network(Normalize(nn.Identity(), row.preprocessing).normalized(torch.from_numpy(pixels(96))))
    said = -torch.log(logits.exp() / logits.exp().sum(1, keepdim=True)).detach()
    right = said[torch.arange(96), torch.arange(96) % 3].mean()
    (loss,) = (float(row["train_loss"]) for row in rows(tmp_path / "run") if row["train_loss"])
    assert loss == pytest.approx(float(0.7 * right + 0.3 * said.mean()), rel=1e-4)
    assert best.loss == pytest.approx(float(right), rel=1e-4)


def test_the_average_of_the_weights_is_what_is_kept(after_each_step: Callable[[Watch], None]) -> None:
    steps: list[dict[str, torch.Tensor]] = []
    after_each_step(
        lambda _, learner: steps.append({key: value.clone() for key, value in learner.network.state_dict().items()})
    )
    _, best = run_tiny(small(), plain(ema=0.3))
    assert len(steps) == 6
    for key, mean in steps[0].items():
        for count, state in enumerate(steps[1:], 1):
            share = max(0.7, 9 / (10 + count))  # of what is new
            mean = (1 - share) * mean + share * state[key]  # noqa: PLW2901 the mean so far
        torch.testing.assert_close(best.state[key], mean)
        assert not torch.allclose(best.state[key], steps[-1][key], atol=1e-6)


def test_training_sees_random_crops_with_a_border_and_their_mirror_images(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = seen(plain(augmentation=Augmentation(crop=Padded(), mirror=True)), monkeypatch)
    around = np.pad(pixels(16), ((0, 0), (4, 4), (4, 4), (0, 0)))
    crops: dict[bytes, tuple[int, int, bool]] = {}
    for top, left in np.ndindex(9, 9):
        for crop in around[:, top : top + 32, left : left + 32]:
            crops[crop.tobytes()] = (top, left, False)
            crops[crop[:, ::-1].tobytes()] = (top, left, True)
    found = [crops[crop.astype(np.uint8).tobytes()] for crop in shown[True].numpy()]
    assert {mirrored for _, _, mirrored in found} == {False, True}
    assert len({(top, left) for top, left, _ in found}) > 8
    np.testing.assert_array_equal(shown[False].numpy(), pixels(16))


def test_the_colours_of_a_training_are_shifted_and_those_of_its_validation_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = seen(plain(augmentation=Augmentation(pca=0.1)), monkeypatch)
    assert torch.equal(shown[False], torch.from_numpy(pixels(16)))
    for image in shown[True]:
        shifts = image - torch.from_numpy(pixels(16))
        spread, index = (shifts - shifts[:, :1, :1]).abs().amax((1, 2, 3)).min(0)
        assert spread < 1e-3  # of one of the images all pixels are shifted alike
        assert shifts[index, 0, 0].abs().max() > 0.01


@pytest.mark.parametrize(
    ("kind", "deviation"),
    [("he", math.sqrt(2 / 576)), ("glorot", math.sqrt(2 / 1152)), ("lecun", 2.4 / 576 / math.sqrt(3))],
)
def test_a_network_begins_as_its_recipe_says(kind: str, deviation: float) -> None:
    how = Named.model_validate({"kind": kind})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = begin(find("resnet20"), recipe(initialisation=how), 10).network.state_dict()
    assert float(state["layer3.2.conv1.weight"].std()) == pytest.approx(deviation, rel=0.02)
    assert not state["linear.bias"].any()


def test_the_dropout_of_a_recipe_is_the_networks_and_auxiliary_heads_keep_theirs() -> None:
    untouched = {"initialisation": Named()}
    with torch.device("meta"):
        network = begin(find("googlenet"), RECIPES["googlenet"].model_copy(update=untouched), 10).network
        own = begin(find("googlenet"), RECIPES["fine-tune"], 10).network
    found, before = (
        {name: module.p for name, module in each.named_modules() if isinstance(module, nn.Dropout)}
        for each in (network, own)
    )
    assert found == {"dropout": 0.4, "aux1.dropout": 0.7, "aux2.dropout": 0.7}
    assert before == {"dropout": 0.2}


def test_a_warm_up_is_the_rate_of_the_optimiser_until_the_error_has_fallen(
    tmp_path: Path, after_each_step: Callable[[Watch], None]
) -> None:
    rates: list[float] = []
    after_each_step(lambda trainer, _: rates.append(trainer.optimizers[0].param_groups[0]["lr"]))
    wanted = plain(batch=1, warm_up=WarmUp(rate=0.001, error=0.98))  # of the last 50 at least two are right
    run_tiny(small(), wanted, stripes(60), run=tmp_path / "run")
    assert rates == [0.001] * 50 + [0.01] * 10
    assert [float(row["rate"]) for row in rows(tmp_path / "run") if row["rate"]] == pytest.approx([0.001])  # of step 50
