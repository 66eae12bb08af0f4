"""AlexNet and VGG against the tables of their papers."""

import pytest
import torch
from torch import nn

from export.architectures import find
from export.models.alexnet import AlexNet, AlexNet2012
from export.models.vgg import CONFIGS, VGG
from grids import grids


def test_alexnet_2012_has_the_papers_layers() -> None:
    with torch.device("meta"):
        network = AlexNet2012()
    seen = grids(network, [f"features.{index}" for index in (0, 4, 8, 10, 12, 14)], 3, 227)
    sizes = [torch.Size(output).numel() for _, output in seen.values()]
    # The paper's figure 2; its 253,440 for the first layer is a mistake, as 96 maps of 55 x 55 are 290,400.
    assert sizes == [290_400, 186_624, 64_896, 64_896, 43_264, 9_216]
    kernels = [tuple(m.weight.shape) for m in network.features if isinstance(m, nn.Conv2d)]
    assert kernels == [(96, 3, 11, 11), (256, 48, 5, 5), (384, 256, 3, 3), (384, 192, 3, 3), (256, 192, 3, 3)]


def test_alexnet_of_torchvision_has_narrower_maps_of_the_same_grids() -> None:
    with torch.device("meta"):
        network = AlexNet()
    seen = grids(network, [f"features.{index}" for index in (0, 3, 6, 8, 10, 12)], 3, 224)
    grid = [(64, 55), (192, 27), (384, 13), (256, 13), (256, 13), (256, 6)]
    assert [output for _, output in seen.values()] == [(width, size, size) for width, size in grid]


def test_pixels_of_alexnet_2012_are_caffes() -> None:
    row = find("alexnet_2012")
    pixels = row.preprocessing
    assert (row.size, pixels.resize, pixels.channels, pixels.scale) == (227, 256, "bgr", 1)
    assert (pixels.mean, pixels.std) == ((104, 117, 123), (1, 1, 1))


@pytest.mark.parametrize(
    ("name", "layers"), [("vgg11", 11), ("vgg11_lrn", 11), ("vgg13", 13), ("vgg16_c", 16), ("vgg16", 16), ("vgg19", 19)]
)
def test_vgg_has_as_many_weight_layers_as_its_name_says_and_five_poolings(name: str, layers: int) -> None:
    with torch.device("meta"):
        network = VGG(CONFIGS[name])
    modules = list(network.modules())
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in modules) == layers
    assert sum(isinstance(module, nn.MaxPool2d) for module in modules) == 5


def test_the_third_convolutions_of_vgg_c_are_1x1() -> None:
    with torch.device("meta"):
        convs = [module for module in VGG(CONFIGS["vgg16_c"]).modules() if isinstance(module, nn.Conv2d)]
    small = [
        (index, conv.in_channels, conv.out_channels) for index, conv in enumerate(convs) if conv.kernel_size == (1, 1)
    ]
    assert small == [(6, 256, 256), (9, 512, 512), (12, 512, 512)]


def test_the_grids_of_vgg_halve_after_each_block() -> None:
    with torch.device("meta"):
        network = VGG(CONFIGS["vgg16"])
    pools = [name for name, module in network.named_modules() if isinstance(module, nn.MaxPool2d)]
    seen = grids(network, pools, 3, 224)
    assert [output for _, output in seen.values()] == [
        (64, 112, 112),
        (128, 56, 56),
        (256, 28, 28),
        (512, 14, 14),
        (512, 7, 7),
    ]
