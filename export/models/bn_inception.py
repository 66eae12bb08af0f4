"""BN-Inception (Ioffe and Szegedy, 2015), figure 5, in both of its published readings.

name                  parameters (1000 classes)
bn_inception_caffe    11,295,240   the projections as printed: 4c and 4d give 608 channels, 4e 1056
bn_inception_slim     11,188,288   the outputs as printed: projections of 96 in 4c and 4d, so 576 and 1024

The figure contradicts itself, and checkpoints of one form do not load into the other. The text's 13.6 million
parameters fit neither. Keys are those of the Caffe model and of its public port to torch, for both.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import pad

from export.models.pooling import max_pool_up


@dataclass(frozen=True)
class Row:
    """One module of the table; a width of 0: the branch is not there."""

    one: int
    """1x1"""
    reduce: int
    """1x1 before the 3x3"""
    three: int
    """3x3"""
    reduce_double: int
    """1x1 before the double 3x3"""
    double: int
    """3x3, and 3x3 again"""
    pool: Literal["average", "max"]
    projection: int
    """1x1 after the pooling; 0: it goes through, and the module halves the grid"""


def rows(narrow: int) -> dict[str, Row]:
    """The table; `narrow` is the projection of 4c and 4d."""
    return {
        "3a": Row(64, 64, 64, 64, 96, "average", 32),
        "3b": Row(64, 64, 96, 64, 96, "average", 64),
        "3c": Row(0, 128, 160, 64, 96, "max", 0),
        "4a": Row(224, 64, 96, 96, 128, "average", 128),
        "4b": Row(192, 96, 128, 96, 128, "average", 128),
        "4c": Row(160, 128, 160, 128, 160, "average", narrow),
        "4d": Row(96, 128, 192, 160, 192, "average", narrow),
        "4e": Row(0, 128, 192, 192, 256, "max", 0),
        "5a": Row(352, 192, 320, 160, 224, "average", 128),
        "5b": Row(352, 192, 320, 192, 224, "max", 128),
    }


@dataclass(frozen=True)
class Form:
    """What differs between Caffe's reading and slim's."""

    rows: dict[str, Row]
    separable: bool
    """Whether the first convolution is one 7x7 for each channel, eight times, and then 1x1."""
    bias: bool
    """Of the convolutions, which the BatchNorm behind them makes superfluous."""
    eps: float
    shift: int
    """Columns of padding that a convolution that halves the grid has on the right instead of the left."""
    pool_padding: int
    """Columns on the right of a pooling that halves the grid within a module."""
    count_padding: bool
    """Whether an average pooling divides by 9 at the border too."""


# A pooling of Caffe rounds up and has no padding: at even sizes that is two more columns on the right. At odd ones this
# gives as many windows as the convolutions beside it have, where Caffe could not join them.
CAFFE = Form(rows(128), separable=False, bias=True, eps=1e-5, shift=0, pool_padding=2, count_padding=True)

# TensorFlow's "same" padding at even sizes, used here for all: the odd column is on the right.
SLIM = Form(rows(96), separable=True, bias=False, eps=1e-3, shift=1, pool_padding=1, count_padding=False)


class BNInception(nn.Module):
    """A departure of the slim form from slim: its BatchNorms have a scale, which in slim's checkpoints is 1."""

    def __init__(self, form: Form, classes: int = 1000, channels: int = 3) -> None:
        super().__init__()
        self.form = form
        self.max_pool = nn.MaxPool2d(3, 1, padding=1)
        self.average_pool = nn.AvgPool2d(3, 1, padding=1, count_include_pad=form.count_padding)
        self._add_stem(channels)
        inside = 192
        for name, row in form.rows.items():
            inside = self._add_inception(f"inception_{name}", inside, row)
        self.last_linear = nn.Linear(inside, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # N x 3 x 224 x 224
        x = max_pool_up(self._unit("conv1_7x7_s2", x, 2))  # N x 64 x 56 x 56
        x = self._unit("conv2_3x3", self._unit("conv2_3x3_reduce", x))  # N x 192 x 56 x 56
        x = max_pool_up(x)  # N x 192 x 28 x 28
        for name, row in self.form.rows.items():
            # 256, 320 x 28 x 28; 576, 576, 576, 608 (slim 576), 608 (576) x 14 x 14; 1056 (1024), 1024, 1024 x 7 x 7
            x = self._inception(f"inception_{name}", row, x)
        logits: torch.Tensor = self.last_linear(x.mean((2, 3)))  # N x classes
        return logits

    def _add_stem(self, channels: int) -> None:
        form, depth = self.form, 8 * channels
        self._add("conv1_7x7_s2", channels, 64, 7, 2)
        if form.separable:
            each = nn.Conv2d(channels, depth, 7, 2, 3 - form.shift, groups=channels, bias=form.bias)
            self.conv1_7x7_s2 = nn.Sequential(each, nn.Conv2d(depth, 64, 1, bias=form.bias))
        self._add("conv2_3x3_reduce", 64, 64)
        self._add("conv2_3x3", 64, 192, 3)

    def _add_inception(self, name: str, inside: int, row: Row) -> int:
        """Returns the channels that the module gives."""
        stride = 1 if row.projection else 2  # on the last convolution of a branch
        if row.one:
            self._add(f"{name}_1x1", inside, row.one)
        self._add(f"{name}_3x3_reduce", inside, row.reduce)
        self._add(f"{name}_3x3", row.reduce, row.three, 3, stride)
        self._add(f"{name}_double_3x3_reduce", inside, row.reduce_double)
        self._add(f"{name}_double_3x3_1", row.reduce_double, row.double, 3)
        self._add(f"{name}_double_3x3_2", row.double, row.double, 3, stride)
        if row.projection:
            self._add(f"{name}_pool_proj", inside, row.projection)
        return row.one + row.three + row.double + (row.projection or inside)

    def _add(self, name: str, inside: int, outside: int, kernel: int = 1, stride: int = 1) -> None:
        """A convolution, and the BatchNorm and ReLU behind it under keys beside, not below."""
        padding = kernel // 2 - (self.form.shift if stride > 1 else 0)
        self.add_module(name, nn.Conv2d(inside, outside, kernel, stride, padding, bias=self.form.bias))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outside, self.form.eps))
        self.add_module(f"{name}_relu", nn.ReLU())

    def _unit(self, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        if stride > 1 and self.form.shift:
            x = pad(x, (0, self.form.shift, 0, self.form.shift))
        conv, norm, relu = (self.get_submodule(name + ending) for ending in ("", "_bn", "_relu"))
        y: torch.Tensor = relu(norm(conv(x)))
        return y

    def _inception(self, name: str, row: Row, x: torch.Tensor) -> torch.Tensor:
        stride = 1 if row.projection else 2
        three = self._unit(f"{name}_3x3", self._unit(f"{name}_3x3_reduce", x), stride)
        double = self._unit(f"{name}_double_3x3_1", self._unit(f"{name}_double_3x3_reduce", x))
        branches = [three, self._unit(f"{name}_double_3x3_2", double, stride)]
        if row.one:
            branches.insert(0, self._unit(f"{name}_1x1", x))
        if row.projection:
            pooled = self.average_pool(x) if row.pool == "average" else self.max_pool(x)
            return torch.cat([*branches, self._unit(f"{name}_pool_proj", pooled)], 1)
        return torch.cat([*branches, max_pool_up(x, more=self.form.pool_padding)], 1)
