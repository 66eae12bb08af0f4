"""Max pooling without padding on the left, and rounded up, as Caffe and TensorFlow do it."""

import math

import torch
from torch.nn.functional import max_pool2d, pad


def max_pool_up(x: torch.Tensor, kernel: int = 3, more: int = 1) -> torch.Tensor:
    """Max pooling with stride 2 after `more` empty columns on the right and rows below.

    With one this is torch's `ceil_mode=True`, to the bit. It is written as padding because torch.export cannot follow
    `ceil_mode` when height and width are free.
    """
    return max_pool2d(pad(x, (0, more, 0, more), value=-math.inf), kernel, 2)
