"""The table of a network: LeNet-5 by hand, the published totals, and every network by torch's own counter."""

import json
from itertools import pairwise

import pytest
import torch
from torch import nn

from export import describe as module
from export.__main__ import main
from export.architectures import ARCHITECTURES, find
from export.describe import Layer, describe
from export.errors import ExportError
from export.fold import fold_batchnorm
from export.outline import outline
from export.pipeline import parameters
from published import TABLE, macs

# LeCun et al. (1998), figure 2, with dense C3: outputs, weights and biases, and one multiplication for each weight of
# each output.
LENET5 = (
    Layer("conv1", "Conv2d 5x5", (6, 28, 28), 6 * 25 + 6, 6 * 28 * 28 * 25),
    Layer("avg_pool2d", "function", (6, 14, 14), 0, 0),
    Layer("conv2", "Conv2d 5x5", (16, 10, 10), 16 * 6 * 25 + 16, 16 * 10 * 10 * 6 * 25),
    Layer("avg_pool2d", "function", (16, 5, 5), 0, 0),
    Layer("fc1", "Linear", (120,), 400 * 120 + 120, 400 * 120),
    Layer("fc2", "Linear", (84,), 120 * 84 + 84, 120 * 84),
    Layer("fc3", "Linear", (10,), 84 * 10 + 10, 84 * 10),
)


class Odd(nn.Module):
    """What our networks may not have: a transposed convolution, a layer called twice, an unused one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, (3, 5), stride=2, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.twice = nn.Conv2d(6, 6, 1)
        self.aux = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.twice(self.twice(self.up(self.norm(self.first(x)))))
        return y


def test_every_layer_of_lenet5() -> None:
    found = describe("lenet5")
    assert found.layers == LENET5
    assert (found.parameters, found.trainable, found.unused, found.macs) == (61_706, 61_706, 0, 416_520)


@pytest.mark.parametrize("name", TABLE)
def test_the_published_totals(name: str) -> None:
    found = describe(name)
    assert (found.parameters, found.folded_parameters, found.macs) == TABLE[name]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_torchs_own_counter_agrees(name: str) -> None:
    assert describe(name).macs == macs(find(name))


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_folding_itself_agrees(name: str) -> None:
    architecture = find(name)
    network = architecture.build(architecture.classes, architecture.channels).eval()
    assert describe(name).folded_parameters == parameters(fold_batchnorm(network)[0])


def test_layers_that_our_networks_do_not_have() -> None:
    with torch.device("meta"):
        watch = module._Watch()
        watch.run(Odd().eval(), torch.zeros(1, 4, 9, 9))
    assert watch.layers == [
        Layer("first", "Conv2d 3x5/2, 2 groups", (8, 4, 3), 8 * 2 * 15, 8 * 4 * 3 * 2 * 15),
        Layer("norm", "BatchNorm2d", (8, 4, 3), 16, 0),
        Layer("up", "ConvTranspose2d 2x2/2, 2 groups", (6, 8, 6), 8 * 3 * 4 + 6, 8 * 4 * 3 * 3 * 4),
        Layer("twice", "Conv2d 1x1", (6, 8, 6), 42, 6 * 8 * 6 * 6),
        Layer("twice", "Conv2d 1x1", (6, 8, 6), 0, 6 * 8 * 6 * 6),
    ]
    assert watch.folding == 8 - 16  # a bias for the convolution, for the scale and shift


def test_another_size_costs_in_proportion() -> None:
    native, double = describe("resnet20"), describe("resnet20", (64, 96))
    head = 640
    assert double.input == (3, 64, 96)
    assert double.macs - head == 6 * (native.macs - head)
    assert double.parameters == native.parameters


@pytest.mark.parametrize(
    ("name", "size", "words"), [("lenet5", (28, 28), "it takes 32x32 alone"), ("lenet6", None, "no network 'lenet6'")]
)
def test_what_cannot_be_described_is_said(name: str, size: tuple[int, int] | None, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        describe(name, size)


def test_the_table_counts_repeated_blocks_once_and_their_cost_in_full() -> None:
    lines = outline(describe("resnet152")).splitlines()
    (row,) = (line for line in lines if line.startswith("layer3.1 to 35"))
    # 35 blocks of 1x1 to 256, 3x3, 1x1 to 1024, without biases, each with a scale and a shift for every channel.
    weights = 35 * (1024 * 256 + 256 * 256 * 9 + 256 * 1024 + 2 * (256 + 256 + 1024))
    products = 35 * (1024 * 256 + 256 * 256 * 9 + 256 * 1024) * 14 * 14
    assert row.split()[3:] == [
        *["each", "of", "35:", "Bottleneck", "1024", "x", "14", "x", "14"],
        f"{weights:,}",
        f"{products:,}",
    ]
    assert len(lines) < 50  # of 155 convolutions
    (total,) = (line for line in lines if line.startswith("total"))
    assert total.split() == ["total", "60,192,808", "11,513,626,624"]


def test_the_rows_at_the_edge_add_up() -> None:
    lines = outline(describe("resnet20")).splitlines()[3:]
    rows = [line.split() for line in lines[: next(i for i, line in enumerate(lines) if line.startswith("---"))]]
    outer = [row for row, line in zip(rows, lines, strict=False) if not line.startswith(" ")]
    assert sum(int(row[-2].replace(",", "")) for row in outer) == 269_722
    assert sum(int(row[-1].replace(",", "")) for row in outer) == 40_551_040


def test_columns_are_aligned() -> None:
    lines = [line for line in outline(describe("lenet5")).splitlines() if line.startswith(("conv", "fc", "total"))]
    assert all(len(a) == len(b) for a, b in pairwise(lines))


def test_json_of_one_and_of_all(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["describe", "lenet5", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    summary = {
        "name": "lenet5",
        "parameters": 61_706,
        "trainable": 61_706,
        "folded_parameters": 61_706,
        "macs": 416_520,
        "input": [1, 32, 32],
    }
    first = {"name": "conv1", "kind": "Conv2d 5x5", "output": [6, 28, 28], "parameters": 156, "macs": 117_600}
    assert {key: one[key] for key in summary} == summary
    assert one["layers"][0] == first
    monkeypatch.setattr("export.outline.ARCHITECTURES", {name: find(name) for name in ("lenet5", "resnet20")})
    assert main(["describe", "--all", "--json"]) == 0
    every = json.loads(capsys.readouterr().out)
    assert every[0] == summary
    assert [row["name"] for row in every] == ["lenet5", "resnet20"]
    assert main(["describe", "--all"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[-3:] == ["269,722", "269,034", "40,551,040"]


@pytest.mark.parametrize("arguments", [[], ["lenet5", "--all"], ["--all", "--at", "32x32"]])
def test_one_network_or_all_of_them(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", *arguments]) == 1
    assert "name one network" in capsys.readouterr().err


def test_a_size_by_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "resnet20", "--at", "64x96"]) == 0
    assert capsys.readouterr().out.startswith("resnet20, input 3 x 64 x 96\n")
    assert main(["describe", "resnet20", "--at", "64"]) == 2
