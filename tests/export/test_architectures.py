"""The networks against published counts (SPEC.md, section 0)."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.architectures import ARCHITECTURES, find
from export.errors import ExportError
from export.fold import fold_batchnorm
from export.models.lenet import LeNet5
from export.models.resnet_cifar import Shortcut
from export.pipeline import parameters
from published import TABLE, macs

# name: parameters, and after folding, with the heads that are there for training.
AUXILIARY = {
    "googlenet_2014": (13_378_280, 13_378_280),
    "googlenet": (13_004_888, 12_997_352),
    "inception_v3": (27_161_264, 27_143_152),
}

TORCHVISION: dict[str, list[tuple[str, list[int]]]] = json.loads(
    gzip.decompress((Path(__file__).parent / "fixtures" / "torchvision-0.28.0.json.gz").read_bytes())
)
"""The keys and shapes of torchvision's own networks, with auxiliary heads; written by torchvision 0.28.0."""


def build(name: str) -> nn.Module:
    architecture = find(name)
    with torch.device("meta"):
        return architecture.build(architecture.classes, architecture.channels).eval()


def test_every_network_has_its_published_counts_here() -> None:
    assert TABLE.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", TABLE)
def test_counts_are_the_published_ones(name: str) -> None:
    network = build(name)
    folded, _ = fold_batchnorm(network)
    assert (parameters(network), parameters(folded), macs(find(name))) == TABLE[name]


@pytest.mark.parametrize("name", AUXILIARY)
def test_counts_with_auxiliary_heads_are_the_published_ones(name: str) -> None:
    architecture = find(name)
    with torch.device("meta"):
        network = architecture.build(1000, 3, auxiliary=True).eval()
    heads = {key.split(".")[0] for key in network.state_dict() if key.startswith(architecture.auxiliary)}
    folded = sum(parameters(fold_batchnorm(network.get_submodule(head))[0]) for head in heads)
    assert (parameters(network), TABLE[name][1] + folded) == AUXILIARY[name]


def test_only_these_networks_have_auxiliary_heads() -> None:
    assert {name for name, row in ARCHITECTURES.items() if row.auxiliary} == AUXILIARY.keys()


def test_every_network_of_torchvision_that_is_here_has_its_keys_in_the_fixture() -> None:
    theirs = r"alexnet|vgg\d+(_bn)?|googlenet|inception_v3|resnet(18|34|50|101|152)"
    assert TORCHVISION.keys() == {name for name in ARCHITECTURES if re.fullmatch(theirs, name)}


@pytest.mark.parametrize("name", TORCHVISION)
def test_keys_and_shapes_are_torchvisions(name: str) -> None:
    prefixes = find(name).auxiliary
    expected = {key: shape for key, shape in TORCHVISION[name] if not (prefixes and key.startswith(prefixes))}
    assert {key: list(value.shape) for key, value in build(name).state_dict().items()} == expected


@pytest.mark.parametrize("name", sorted(AUXILIARY.keys() & TORCHVISION.keys()))
def test_keys_and_shapes_of_auxiliary_heads_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        state = find(name).build(1000, 3, auxiliary=True).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == dict(TORCHVISION[name])


@pytest.mark.parametrize("name", TABLE)
def test_stem_and_head_show_the_channels_and_the_classes(name: str) -> None:
    architecture, state = find(name), build(name).state_dict()
    assert architecture.channels_of(state[architecture.stem].shape) == architecture.channels
    assert state[architecture.head].shape[0] == architecture.classes


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("resnet50_v1", "layer4.2.conv3.weight", [2048, 512, 1, 1]),
        ("bn_inception_caffe", "conv1_7x7_s2.bias", [64]),
        ("bn_inception_caffe", "inception_4e_double_3x3_2_bn.running_var", [256]),
        ("bn_inception_caffe", "inception_5a_pool_proj.weight", [128, 1056, 1, 1]),
        ("bn_inception_caffe", "last_linear.weight", [1000, 1024]),
        ("resnet20", "layer3.2.bn2.weight", [64]),
        ("resnet110", "layer2.17.conv1.weight", [32, 32, 3, 3]),
        ("resnet56", "linear.weight", [10, 64]),
    ],
)
def test_keys_are_those_of_the_public_checkpoints(name: str, key: str, shape: list[int]) -> None:
    assert list(build(name).state_dict()[key].shape) == shape


def test_v1_halves_the_grid_at_the_first_1x1_and_v15_at_the_3x3() -> None:
    strides = {
        name: [build(name).get_submodule(f"layer2.0.conv{number}").stride for number in (1, 2, 3)]
        for name in ("resnet50", "resnet50_v1")
    }
    assert strides == {"resnet50": [(1, 1), (2, 2), (1, 1)], "resnet50_v1": [(2, 2), (1, 1), (1, 1)]}


def test_option_a_takes_every_second_pixel_and_puts_zeros_on_both_sides() -> None:
    x = np.random.default_rng(0).normal(size=(2, 16, 6, 8)).astype(np.float32)
    expected = np.zeros((2, 32, 3, 4), np.float32)
    for row in range(3):
        for column in range(4):
            expected[:, 8:24, row, column] = x[:, :, 2 * row, 2 * column]
    assert np.array_equal(Shortcut(8)(torch.from_numpy(x)).numpy(), expected)


def test_lenet_is_tanh_and_mean_pooling() -> None:
    network = LeNet5()
    with torch.no_grad():
        for value in network.parameters():
            value.zero_()
        network.get_parameter("conv1.bias").fill_(0.5)
        network.conv2.weight[0, 0, 2, 2] = 2.0
        network.fc1.weight[0, :25] = 0.04  # the mean of the first map
        network.fc2.weight[0, 0] = network.fc3.weight[0, 0] = 1.0
        logits = network(torch.zeros(1, 1, 32, 32))
    assert logits[0, 0].item() == pytest.approx(np.tanh(np.tanh(np.tanh(2 * np.tanh(0.5)))), rel=1e-6)


def test_lenet_pixels_are_lecuns() -> None:
    pixels = find("lenet5").preprocessing
    background, foreground = ((pixel * pixels.scale - pixels.mean[0]) / pixels.std[0] for pixel in (0, 255))
    assert [background, foreground] == pytest.approx([-0.1, 1.175])


def test_statistics_are_averaged_for_grey() -> None:
    grey = find("resnet50").shaped(5, 1)
    assert (grey.classes, grey.channels, grey.preprocessing.channels) == (5, 1, "grey")
    assert [*grey.preprocessing.mean, *grey.preprocessing.std] == pytest.approx([0.449, 0.226])


def test_an_unknown_network_is_named_with_the_known_ones() -> None:
    with pytest.raises(ExportError, match=r"'resnet21'.*resnet20"):
        find("resnet21")
