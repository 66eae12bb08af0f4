"""Every optimiser against a straight torch loop with arithmetic of its own: 50 steps from the same weights.

In float64, at rates at which a rounding error does not grow; ResNet-20 at a rate of 0.05 makes 0.06 of it in 50 steps.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from bundle.labelled import Labelled
from export.architectures import find
from export.train.data import TrainingData
from export.train.recipe import AdamW, Augmentation, Optimizer, Recipe, RmsProp, Sgd, Steps
from tiny import recipe, run_tiny

BATCH, STEPS, DROP = 4, 50, 30

State = dict[str, torch.Tensor]
Update = Callable[[int, float, torch.Tensor, torch.Tensor, State], torch.Tensor]
"""(step from 1, rate, weight, gradient, what the optimiser keeps of this weight) -> the new weight"""


def sgd(_: int, rate: float, w: torch.Tensor, g: torch.Tensor, kept: State) -> torch.Tensor:
    kept["v"] = 0.9 * kept.get("v", torch.zeros_like(w)) + g + 1e-4 * w
    return w - rate * kept["v"]


def caffe(_: int, rate: float, w: torch.Tensor, g: torch.Tensor, kept: State) -> torch.Tensor:
    kept["v"] = 0.9 * kept.get("v", torch.zeros_like(w)) + rate * (g + 1e-4 * w)
    return w - kept["v"]


def rmsprop(_: int, rate: float, w: torch.Tensor, g: torch.Tensor, kept: State) -> torch.Tensor:
    g = g + 4e-5 * w
    kept["s"] = 0.9 * kept.get("s", torch.ones_like(w)) + 0.1 * g**2
    kept["v"] = 0.9 * kept.get("v", torch.zeros_like(w)) + rate * g * (kept["s"] + 1.0) ** -0.5
    return w - kept["v"]


def adamw(step: int, rate: float, w: torch.Tensor, g: torch.Tensor, kept: State) -> torch.Tensor:
    kept["m"] = 0.9 * kept.get("m", torch.zeros_like(w)) + 0.1 * g
    kept["s"] = 0.999 * kept.get("s", torch.zeros_like(w)) + 0.001 * g**2
    mean, square = kept["m"] / (1 - 0.9**step), kept["s"] / (1 - 0.999**step)
    return w * (1 - rate * 0.05) - rate * mean / (square**0.5 + 1e-8)


def open_cifar(shared: Path) -> TrainingData:
    with np.load(shared / "cifar10" / "cifar10_test_first1000.npz") as held:
        arrays = {key: held[key] for key in held.files}
    images = next(value for value in arrays.values() if value.ndim == 4)[: BATCH * STEPS]
    classes = next(value for value in arrays.values() if value.ndim == 1)[: BATCH * STEPS].astype(np.int64)
    train = Labelled.of_arrays("cifar", images, classes)
    return TrainingData("cifar", tuple("0123456789"), train, train.take(np.arange(8), "few"), {}, digits=False)


def straight(network: torch.nn.Module, data: TrainingData, update: Update, rate: float) -> State:
    """The weights after an epoch whose order is torch's for seed 0, at a rate that drops to a tenth."""
    order = torch.randperm(BATCH * STEPS, generator=torch.Generator().manual_seed(0)).tolist()
    images = np.stack([data.train.array(index) for index in order]) / 255  # type: ignore[misc]
    pixels = torch.from_numpy(
        (images - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)
    )
    classes = torch.from_numpy(data.train.labels[order].copy())
    kept: dict[str, State] = {}
    network.train().double()
    for step in range(STEPS):
        some = slice(BATCH * step, BATCH * (step + 1))
        loss = cross_entropy(network(pixels[some].permute(0, 3, 1, 2)), classes[some])
        names, weights = zip(*network.named_parameters(), strict=True)
        for name, weight, gradient in zip(names, weights, torch.autograd.grad(loss, weights), strict=True):
            now = rate if step < DROP else rate / 10
            weight.data = update(step + 1, now, weight.data, gradient, kept.setdefault(name, {}))
    return network.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "optimizer", "update", "rate"),
    [
        ("plain20", Sgd(form="caffe", weight_decay=1e-4), caffe, 0.05),
        ("resnet20", Sgd(form="torch", weight_decay=1e-4), sgd, 0.005),
        ("plain20", AdamW(weight_decay=0.05), adamw, 1e-3),
        ("resnet20", RmsProp(weight_decay=4e-5), rmsprop, 0.005),
    ],
)
def test_an_optimiser_is_that_of_a_straight_loop(
    name: str, optimizer: Optimizer, update: Update, rate: float, shared: Path
) -> None:
    data, row = open_cifar(shared), find(name)
    wanted: Recipe = recipe(
        optimizer=optimizer,
        rate=rate,
        schedule=Steps(at=(DROP,), unit="iteration"),
        batch=BATCH,
        epochs=1,
        augmentation=Augmentation(),
    )
    torch.manual_seed(3)
    weights = row.build(10, 3)
    begun = {key: value.clone() for key, value in weights.state_dict().items()}

    def build(classes: int, channels: int) -> torch.nn.Module:
        network = row.build(classes, channels)
        network.load_state_dict(begun)
        return network

    untouched = wanted.model_copy(update={"initialisation": recipe("digits").initialisation})
    _, best = run_tiny(replace(row, build=build), untouched, data, precision="64-true")
    truth = straight(weights, data, update, rate)
    for key, value in best.state.items():
        torch.testing.assert_close(value.double(), truth[key].double(), rtol=1e-5, atol=1e-7, msg=key)
        if key.endswith("weight"):
            assert not torch.allclose(value.double(), begun[key].double(), atol=1e-4), f"{key} has not moved"
