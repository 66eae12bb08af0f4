"""GoogLeNet against table 1 of its paper, and torchvision's departures from it."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bundle.views import Size
from export.architectures import find
from export.models.googlenet import PAPER, TORCHVISION, Form, GoogLeNet
from frozen import freeze
from grids import grids
from parity import worst

# Table 1: the grids; the parameters of each module follow from its widths, with biases.
TABLE_1 = {
    "inception3a": ((192, 28, 28), (256, 28, 28), 163_696),
    "inception3b": ((256, 28, 28), (480, 28, 28), 388_736),
    "inception4a": ((480, 14, 14), (512, 14, 14), 376_176),
    "inception4b": ((512, 14, 14), (512, 14, 14), 449_160),
    "inception4c": ((512, 14, 14), (512, 14, 14), 510_104),
    "inception4d": ((512, 14, 14), (528, 14, 14), 605_376),
    "inception4e": ((528, 14, 14), (832, 14, 14), 868_352),
    "inception5a": ((832, 7, 7), (832, 7, 7), 1_043_456),
    "inception5b": ((832, 7, 7), (1024, 7, 7), 1_444_080),
}


def build(form: Form, *, auxiliary: bool = False) -> GoogLeNet:
    with torch.device("meta"):
        return GoogLeNet(form, auxiliary=auxiliary)


@pytest.mark.parametrize("form", [PAPER, TORCHVISION])
def test_grids_are_those_of_table_1(form: Form) -> None:
    assert grids(build(form), TABLE_1, 3, 224) == {name: row[:2] for name, row in TABLE_1.items()}


def test_parameters_of_each_module_follow_from_table_1() -> None:
    network = build(PAPER)
    counts = {name: sum(p.numel() for p in network.get_submodule(name).parameters()) for name in TABLE_1}
    assert counts == {name: row[2] for name, row in TABLE_1.items()}


def test_the_paper_has_5x5_kernels_and_torchvision_3x3() -> None:
    kernels = {
        form: {m.kernel_size for m in build(form).inception4a.branch3.modules() if isinstance(m, nn.Conv2d)}
        for form in (PAPER, TORCHVISION)
    }
    assert kernels == {PAPER: {(1, 1), (5, 5)}, TORCHVISION: {(1, 1), (3, 3)}}


def test_multiply_adds_with_both_auxiliary_heads_are_the_published_ones() -> None:
    network = build(PAPER, auxiliary=True).train()
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() // 2 == 1_591_044_096


@pytest.mark.parametrize("form", [PAPER, TORCHVISION])
def test_training_gives_the_logits_of_the_auxiliary_heads_too(form: Form) -> None:
    network = build(form, auxiliary=True)
    images = torch.zeros(2, 3, 224, 224, device="meta")
    assert [part.shape for part in network.train()(images)] == [(2, 1000)] * 3
    assert network.eval()(images).shape == (2, 1000)


@pytest.mark.parametrize("form", [PAPER, TORCHVISION])
def test_without_auxiliary_heads_training_gives_the_logits_alone(form: Form) -> None:
    assert build(form).train()(torch.zeros(2, 3, 224, 224, device="meta")).shape == (2, 1000)


def test_pixels() -> None:
    paper, torchvision = find("googlenet_2014").preprocessing, find("googlenet").preprocessing
    assert (paper.channels, paper.scale, paper.mean, paper.std) == ("bgr", 1, (104, 117, 123), (1, 1, 1))
    assert (torchvision.channels, torchvision.scale) == ("rgb", 1 / 255)
    # transform_input applied to pixels normalised with ImageNet's statistics, for every pixel of every channel
    for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        for pixel in range(256):
            theirs = (pixel / 255 - mean) / std * (std / 0.5) + (mean - 0.5) / 0.5
            ours = (pixel * torchvision.scale - torchvision.mean[channel]) / torchvision.std[channel]
            assert ours == pytest.approx(theirs, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet_2014", "googlenet"])
def test_the_graph_answers_as_torch(name: str) -> None:
    assert worst(freeze(name, "random:0"), Size(97, find(name).smallest)) < find(name).tolerance
