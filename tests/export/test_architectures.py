"""The networks against published counts (SPEC.md, section 0)."""

import numpy as np
import pytest
import torch
from torch import nn

from export.architectures import ARCHITECTURES, find
from export.errors import ExportError
from export.fold import fold_batchnorm
from export.models.lenet import LeNet5
from export.models.resnet_cifar import Shortcut
from export.pipeline import macs, parameters

# name: parameters, parameters after folding, multiply-adds, entries of the state_dict
TABLE = {
    "lenet5": (61_706, 61_706, 416_520, 10),
    "resnet18": (11_689_512, 11_684_712, 1_814_073_344, 122),
    "resnet34": (21_797_672, 21_789_160, 3_663_761_408, 218),
    "resnet50": (25_557_032, 25_530_472, 4_089_184_256, 320),
    "resnet101": (44_549_160, 44_496_488, 7_801_405_440, 626),
    "resnet152": (60_192_808, 60_117_096, 11_513_626_624, 932),
    "resnet50_v1": (25_557_032, 25_530_472, 3_857_973_248, 320),
    "resnet101_v1": (44_549_160, 44_496_488, 7_570_194_432, 626),
    "resnet152_v1": (60_192_808, 60_117_096, 11_282_415_616, 932),
    "resnet20": (269_722, 269_034, 40_551_040, 116),
    "resnet32": (464_154, 463_018, 68_862_592, 188),
    "resnet44": (658_586, 657_002, 97_174_144, 260),
    "resnet56": (853_018, 850_986, 125_485_696, 332),
    "resnet110": (1_727_962, 1_723_914, 252_887_680, 656),
}


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
    assert (parameters(network), parameters(folded), macs(find(name)), len(network.state_dict())) == TABLE[name]


@pytest.mark.parametrize("name", TABLE)
def test_stem_and_head_are_keys_with_the_channels_and_the_classes(name: str) -> None:
    architecture, state = find(name), build(name).state_dict()
    assert state[architecture.stem].shape[1] == architecture.channels
    assert state[architecture.head].shape[0] == architecture.classes


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("resnet18", "layer4.1.bn2.num_batches_tracked", []),
        ("resnet34", "layer2.0.downsample.0.weight", [128, 64, 1, 1]),
        ("resnet50", "layer1.0.downsample.1.running_var", [256]),
        ("resnet50_v1", "layer4.2.conv3.weight", [2048, 512, 1, 1]),
        ("resnet152", "layer3.35.conv2.weight", [256, 256, 3, 3]),
        ("resnet152", "fc.bias", [1000]),
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
    lenet = find("lenet5")
    background, foreground = ((pixel - lenet.mean[0]) / lenet.std[0] for pixel in (0.0, 1.0))
    assert [background, foreground] == pytest.approx([-0.1, 1.175])


def test_statistics_are_averaged_for_grey() -> None:
    grey = find("resnet50").shaped(5, 1)
    assert (grey.classes, grey.channels) == (5, 1)
    assert [*grey.mean, *grey.std] == pytest.approx([0.449, 0.226])


def test_an_unknown_network_is_named_with_the_known_ones() -> None:
    with pytest.raises(ExportError, match=r"'resnet21'.*resnet20"):
        find("resnet21")
