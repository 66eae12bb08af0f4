"""Inception-v2 against table 1 of the paper, v3 against torchvision's comments and departures."""

import pytest
import torch
from torch import nn

from export.architectures import find
from export.models.inception import InceptionV2, InceptionV3
from grids import grids


def on_meta(build: type[nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


# Table 1: the size of the input of each row, as (channels, height, width), and the patch and stride of its first.
TABLE_1 = {
    "stem.0": ((3, 299, 299), 3, 2),
    "stem.1": ((32, 149, 149), 3, 1),
    "stem.2": ((32, 147, 147), 3, 1),  # padded
    "stem.3": ((64, 147, 147), 3, 2),  # pool
    "stem.4": ((64, 73, 73), 3, 1),
    "stem.5": ((80, 71, 71), 3, 2),
    "stem.6": ((192, 35, 35), 3, 1),
    "figure5": ((288, 35, 35), None, None),
    "figure6": ((768, 17, 17), None, None),
    "figure7": ((1280, 8, 8), None, None),
}


def test_v2_has_the_grids_and_depths_of_table_1() -> None:
    network = on_meta(InceptionV2)
    seen = grids(network, TABLE_1, 3, 299)
    assert {name: shapes[0] for name, shapes in seen.items()} == {name: row[0] for name, row in TABLE_1.items()}
    assert seen["figure7"][1] == (2048, 8, 8)
    for name, (_, kernel, stride) in TABLE_1.items():
        first = next(
            (m for m in network.get_submodule(name).modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d)), None
        )
        if kernel is not None:
            assert first is not None
            assert (first.kernel_size, first.stride) in (((kernel,) * 2, (stride,) * 2), (kernel, stride))


def test_v2_has_three_five_and_two_modules() -> None:
    network = on_meta(InceptionV2)
    lengths = [len(list(network.get_submodule(name).children())) for name in ("figure5", "figure6", "figure7")]
    assert lengths == [3, 5, 2]


def test_v2_keeps_288_channels_at_35_and_has_no_5x5() -> None:
    network = on_meta(InceptionV2)
    seen = grids(network, [f"figure5.{index}" for index in range(3)], 3, 299)
    assert set(seen.values()) == {((288, 35, 35), (288, 35, 35))}
    kernels = {module.kernel_size for module in network.modules() if isinstance(module, nn.Conv2d)}
    assert kernels == {(1, 1), (3, 3), (1, 7), (7, 1), (1, 3), (3, 1)}


def test_v3_has_the_published_grids() -> None:
    expected = {
        "Conv2d_1a_3x3": (32, 149, 149),
        "Conv2d_2a_3x3": (32, 147, 147),
        "Conv2d_2b_3x3": (64, 147, 147),
        "Conv2d_3b_1x1": (80, 73, 73),
        "Conv2d_4a_3x3": (192, 71, 71),
        "Mixed_5b": (256, 35, 35),
        "Mixed_5d": (288, 35, 35),
        "Mixed_6a": (768, 17, 17),
        "Mixed_6e": (768, 17, 17),
        "Mixed_7a": (1280, 8, 8),
        "Mixed_7c": (2048, 8, 8),
    }
    seen = grids(on_meta(InceptionV3), expected, 3, 299)
    assert {name: shapes[1] for name, shapes in seen.items()} == expected


def test_v3_trains_with_the_logits_of_its_auxiliary_head() -> None:
    with torch.device("meta"):
        network = InceptionV3(7, auxiliary=True)
        images = torch.zeros(2, 3, 299, 299)
    logits, auxiliary = network.train()(images)
    assert (logits.shape, auxiliary.shape) == ((2, 7), (2, 7))
    assert network.eval()(images).shape == (2, 7)


@pytest.mark.parametrize("name", ["inception_v2", "inception_v3"])
def test_pixels_are_from_minus_one_to_one_and_the_image_is_resized_to_342(name: str) -> None:
    row = find(name)
    pixels = row.preprocessing
    assert [(value * pixels.scale - pixels.mean[0]) / pixels.std[0] for value in (0, 255)] == [-1, 1]
    assert (row.size, pixels.resize, pixels.channels) == (299, 342, "rgb")
