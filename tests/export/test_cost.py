"""Multiply-adds at any size, against torch's own counter and the published figures for dense evaluation."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bundle.manifest import Input
from bundle.views import Size
from export.architectures import find
from export.convolutional import sliding
from export.cost import count_macs, find_costs


def network(name: str) -> nn.Module:
    """Without weights: only shapes are computed."""
    row = find(name)
    with torch.device("meta"):
        return sliding(row.build(row.classes, row.channels), row.window).eval()


def at(name: str, *sizes: tuple[int, int]) -> list[int]:
    costs = find_costs(network(name), find(name).input)
    return [sum(cost.at(Size(width, height)) for cost in costs) for width, height in sizes]


def test_vgg16_dense_costs_what_is_published() -> None:
    """GMAC of a 4:3 image at 256, 384 and 512: 27.5, 67.6 and 125; three scales and their mirrors 440, square 325."""
    landscape = at("vgg16", (341, 256), (512, 384), (682, 512))
    assert [round(macs / 1e9, 1) for macs in landscape] == [27.5, 67.6, 125.0]
    assert round(2 * sum(landscape) / 1e9) == 440
    assert round(2 * sum(at("vgg16", (256, 256), (384, 384), (512, 512))) / 1e9) == 325


@pytest.mark.parametrize(("name", "giga"), [("resnet50", 98.7), ("resnet152", 278)])
def test_five_scales_cost_what_is_published(name: str, giga: float) -> None:
    macs = at(name, (298, 224), (341, 256), (512, 384), (640, 480), (853, 640))
    assert sum(macs) / 1e9 == pytest.approx(giga, rel=2e-3)


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "inception_v3", "resnet18_a", "resnet20"])
def test_any_size_is_counted_as_torch_counts_it(name: str) -> None:
    side = find(name).size
    sizes = [(side, side), (side + 117, side), (side + 3, side + 250), (2 * side + 1, 3 * side - 1)]
    model = network(name)
    for (width, height), macs in zip(sizes, at(name, *sizes), strict=True):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, find(name).channels, height, width, device="meta"))
        assert 2 * macs == counter.get_total_flops()


def test_the_layers_of_a_resolution_are_one_row() -> None:
    costs = find_costs(network("vgg16"), find("vgg16").input)
    assert [(cost.stride, cost.offset) for cost in costs] == [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (32, -192)]
    assert costs[0].macs == 9 * (3 * 64 + 64 * 64)  # conv1_1 and conv1_2
    assert costs[-1].macs == 25088 * 4096 + 4096 * 4096 + 4096 * 1000  # the head, at each place of the score map


WANTED = Input(height=32, width=32, channels=3, dynamic=True, resize=32)


def test_a_network_that_treats_height_and_width_differently_has_no_costs() -> None:
    lopsided = nn.Sequential(nn.Conv2d(3, 4, 3, stride=(2, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert find_costs(lopsided, WANTED) == ()


def test_a_network_that_refuses_other_sizes_has_no_costs() -> None:
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    assert find_costs(fixed, WANTED) == ()
    assert count_macs(fixed, WANTED) == 2 * 3 * 32 * 32
