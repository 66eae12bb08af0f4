"""Gradient clipping in its three meanings (Keras' clipvalue, clipnorm and global_clipnorm)."""

from collections.abc import Iterable

import torch
from torch import nn

from export.train.recipe import Clip


def gradients(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def norm(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Of all of them together."""
    return torch.nn.utils.get_total_norm(tensors)


@torch.no_grad()
def clip(tensors: Iterable[torch.Tensor], how: Clip) -> None:
    """Clips gradients in place.

    value: each element to within the threshold, which turns the direction. norm: each tensor whose norm is above the
    threshold is scaled to it. global: all are scaled by one factor when the norm of all together is above it, so that
    the direction stays (Pascanu et al., 2012). torch's `clip_grad_norm_` adds 1e-6 to the norm; here it is exact.
    """
    tensors = list(tensors)
    if how.kind == "value":
        for tensor in tensors:
            tensor.clamp_(-how.threshold, how.threshold)
        return
    for group in [[tensor] for tensor in tensors] if how.kind == "norm" else [tensors]:
        scale = how.threshold / norm(group).clamp(min=how.threshold)
        for tensor in group:
            tensor.mul_(scale)
