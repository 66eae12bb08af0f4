"""Shortcut options and plain twins of the ResNets."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from bundle.views import Size
from export.architectures import find
from export.graph import Normalize
from export.models.resnet import BasicBlock, Shortcuts, Subsample
from export.models.resnet_cifar import Block
from export.verify import ask, sample_images
from export.weights import random_network
from frozen import freeze
from parity import worst


def test_option_a_for_imagenet_appends_its_zeros() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 7)).astype(np.float32)
    expected = np.zeros((2, 8, 3, 4), np.float32)
    for row in range(3):
        for column in range(4):
            expected[:, :3, row, column] = x[:, :, 2 * row, 2 * column]
    assert np.array_equal(Subsample(5)(torch.from_numpy(x)).numpy(), expected)


@pytest.mark.parametrize(
    ("shortcuts", "same", "halving"),
    [("A", None, Subsample), ("B", None, nn.Sequential), ("C", nn.Sequential, nn.Sequential), ("plain", None, None)],
)
def test_shortcuts_are_those_of_the_option(shortcuts: Shortcuts, same: type | None, halving: type | None) -> None:
    for inside, stride, expected in ((64, 1, same), (32, 2, halving)):
        found = BasicBlock(inside, 64, stride, shortcuts).downsample
        assert found is None if expected is None else isinstance(found, expected)


def test_option_c_of_34_layers_has_13_more_projections_than_b() -> None:
    def projections(name: str) -> int:
        with torch.device("meta"):
            keys = find(name).build(1000, 3).state_dict()
        return sum("downsample.0" in key for key in keys)

    assert [projections(name) for name in ("resnet34_a", "resnet34", "resnet34_c")] == [0, 3, 3 + 13]


def silent(block: nn.Module) -> nn.Module:
    """The block with a last BatchNorm that answers nothing."""
    norm = block.get_submodule("bn2")
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.zeros_(norm.weight)
    return block.eval()


@torch.no_grad()
def test_a_residual_block_without_its_branch_is_the_identity_and_a_plain_one_is_nothing() -> None:
    x = torch.rand(1, 16, 4, 4)
    assert torch.equal(silent(BasicBlock(16, 16, 1))(x), x)
    assert torch.equal(silent(Block(16, 16, 1, plain=False))(x), x)
    assert not silent(BasicBlock(16, 16, 1, "plain"))(x).any()
    assert not silent(Block(16, 16, 1, plain=True))(x).any()


@pytest.mark.parametrize(
    ("plain", "twin"), [("plain18", "resnet18_a"), ("plain34", "resnet34_a"), ("plain56", "resnet56")]
)
def test_plain_networks_have_the_layers_of_their_twins(plain: str, twin: str) -> None:
    with torch.device("meta"):
        shapes = [
            {key: value.shape for key, value in find(name).build(10, 3).state_dict().items()} for name in (plain, twin)
        ]
    assert shapes[0] == shapes[1]


def test_rounding_errors_of_random_weights_do_not_grow_with_depth() -> None:
    row = find("plain110")
    network = Normalize(random_network(row, 0), row.preprocessing).eval()
    images = sample_images(2, row.input.size, 3)
    logits, exact = ask(network, images), ask(copy.deepcopy(network).double(), images)
    assert np.abs(logits - exact).max() < row.tolerance * np.abs(exact).max()
    assert np.abs(exact[0] - exact[1]).max() > 1000 * row.tolerance * np.abs(exact).max()


def test_the_graph_of_a_plain_network_answers_as_torch() -> None:
    assert worst(freeze("plain20", "random:0"), Size(41, 36)) < find("plain20").tolerance
