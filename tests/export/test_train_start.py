"""What a training begins with: a checkpoint with a new head, auxiliary heads, a recipe that fits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from export.activations import Activation
from export.architectures import find
from export.errors import ExportError
from export.graph import Normalize
from export.train.clipping import gradients, norm
from export.train.recipe import AlexNetStart, Augmentation, Sgd
from export.train.recipes import RECIPES
from export.train.start import begin
from export.train.watch import BEST
from export.weights import load
from tiny import recipe, rows, run_tiny, small, stripes

RESNET, LENET = find("resnet20"), find("lenet5")


def test_a_checkpoint_of_other_classes_gets_a_new_head_and_keeps_the_rest(tmp_path: Path) -> None:
    state = RESNET.build(10, 3).state_dict()
    torch.save(state, tmp_path / "ten.pth")
    start = begin(RESNET, recipe("fine-tune"), 3, str(tmp_path / "ten.pth"))
    found = start.network.state_dict()
    assert found["linear.weight"].shape == (3, 64)
    assert all(torch.equal(found[key], state[key]) for key in state if not key.startswith("linear."))
    assert start.architecture.classes == 3
    assert start.origin is not None
    assert (start.origin["weights"], start.origin["head"]) == ("ten.pth", "new")


def test_a_checkpoint_of_as_many_classes_keeps_its_head(tmp_path: Path) -> None:
    state = RESNET.build(3, 3).state_dict()
    torch.save(state, tmp_path / "three.pth")
    start = begin(RESNET, recipe("fine-tune"), 3, str(tmp_path / "three.pth"))
    assert all(torch.equal(value, state[key]) for key, value in start.network.state_dict().items())
    assert start.origin is not None
    assert start.origin["head"] == "kept"


def test_a_run_goes_on_with_the_activation_of_the_run_that_it_begins_with(tmp_path: Path) -> None:
    data = stripes(channels=1)
    run_tiny(LENET, recipe("lenet", activation="sigmoid"), data, run=tmp_path / "first")
    best = str(tmp_path / "first" / BEST)
    start, _ = run_tiny(LENET, recipe("fine-tune"), data, best, run=tmp_path / "second")
    assert start.origin is not None
    assert start.origin["activation"] == "sigmoid"
    for network in (start.network, load(LENET, str(tmp_path / "second" / BEST)).network):
        assert {type(module) for module in network.modules() if isinstance(module, Activation)} == {nn.Sigmoid}
    changed = begin(LENET, recipe("fine-tune", activation="relu"), 3, best)
    assert changed.architecture.activation == "relu"
    assert {type(module) for module in changed.network.modules() if isinstance(module, Activation)} == {nn.ReLU}


def test_auxiliary_heads_are_there_where_the_recipe_weighs_them() -> None:
    row = find("inception_v3")
    with torch.device("meta"):
        start = begin(
            row, RECIPES["inception-v3"].model_copy(update={"initialisation": recipe("digits").initialisation}), 3
        )
        plain = begin(row, RECIPES["fine-tune"], 3)
    heads = {key.split(".")[0] for key in start.network.state_dict()} - {
        key.split(".")[0] for key in plain.network.state_dict()
    }
    assert heads == {"AuxLogits"}


def test_a_plain_vgg_begins_where_it_can_learn() -> None:
    """Weights of a deviation of 0.1, as the paper has them for its smallest network, give a gradient of 5e7 here."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = begin(find("vgg11"), RECIPES["vgg"], 10).network
        images = nn.functional.interpolate(torch.rand(2, 3, 8, 8), size=224, mode="bilinear")
        nn.functional.cross_entropy(network(4 * images - 2), torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]
    assert float(norm(gradients(network.parameters()))) < 100


class WithHead(nn.Module):
    """Two heads, the second for training."""

    def __init__(self, classes: int, channels: int, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, classes, 32)
        self.linear = nn.Linear(classes, classes)
        self.aux = nn.Linear(classes, classes) if auxiliary else None

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = self.conv1(x).flatten(1)
        if self.training and self.aux is not None:
            return self.linear(x), self.aux(x)
        logits: torch.Tensor = self.linear(x)
        return logits


def test_the_loss_of_an_auxiliary_head_counts_at_its_weight(tmp_path: Path) -> None:
    row = replace(small("aux."), build=WithHead)
    losses = []
    for weight in (0.3, 0.6):
        wanted = recipe(
            auxiliary=weight, rate=1e-12, epochs=1, optimizer=Sgd(momentum=0.0), augmentation=Augmentation()
        )
        start, best = run_tiny(row, wanted, run=tmp_path / str(weight))
        losses.append(
            float(next(row["train_loss_epoch"] for row in rows(tmp_path / str(weight)) if row["train_loss_epoch"]))
        )
        assert sorted(start.finish(best.state).state_dict()) == [
            "conv1.bias",
            "conv1.weight",
            "linear.bias",
            "linear.weight",
        ]
    main = 2 * losses[0] - losses[1]  # L + 0.3 A and L + 0.6 A
    auxiliary = (losses[1] - losses[0]) / 0.3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = begin(row, wanted, 3).network.train()
    images = torch.stack([torch.from_numpy(stripes().train.array(index)) for index in range(96)])
    both = network(Normalize(nn.Identity(), row.preprocessing).normalized(images))
    truth = [float(nn.functional.cross_entropy(each.detach(), torch.arange(96) % 3)) for each in both]
    assert [main, auxiliary] == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 0.5}, "resnet20 has no dropout layer; leave dropout out of the recipe"),
        ({"initialisation": AlexNetStart()}, "resnet20 has not AlexNet's layers"),
        ({"batch": 97}, "stripes has 96 images to train on and a batch is 97; see --batch"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        run_tiny(RESNET, recipe().model_copy(update=changes))
