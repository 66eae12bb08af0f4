"""What a BatchNorm does in evaluation, x -> scale x + shift for each channel, put into a layer's weights, in float64.

A weight is seen as [groups, out / groups, in / groups, kernel...]. A transposed convolution has the second and the
third axis the other way round; a linear layer has one group and no kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Layer = _ConvNd | nn.Linear

LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    nn.Linear,
)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Unfit(Exception):  # noqa: N818 no error: the other way may be open
    """Why a fold would not be exact; it goes on from "NAME, which ..."."""


@dataclass(frozen=True)
class Affine:
    scale: torch.Tensor
    """float64 [channels]"""
    shift: torch.Tensor
    """likewise"""


@dataclass(frozen=True)
class Weights:
    """A layer's new weights, in its own precision."""

    weight: torch.Tensor
    bias: torch.Tensor


def read_norm(norm: _BatchNorm) -> Affine:
    """The affine of a BatchNorm: s = gamma / sqrt(var + eps), t = beta - s mean.

    Raises:
        Unfit: it does something else.
    """
    _require_plain(norm, NORMS)
    if norm.training or norm.running_mean is None or norm.running_var is None:
        raise Unfit("uses the batch's own statistics; call eval() first")
    gamma, beta = (value if norm.affine else None for value in (norm.weight, norm.bias))
    scale = 1 / (_wide(norm.running_var) + norm.eps).sqrt()
    scale = scale if gamma is None else _wide(gamma) * scale
    shift = -_wide(norm.running_mean) * scale
    return Affine(scale, shift if beta is None else _wide(beta) + shift)


def after(layer: Layer, affine: Affine) -> Weights:
    """The layer with the affine behind it: W' = s W, b' = s b + t. Exact with any padding.

    Raises:
        Unfit: the layer's channels are not the affine's.
    """
    axis = 2 if isinstance(layer, _ConvTransposeNd) else 1
    weight = _grouped(layer)
    _require_channels(affine, layer, weight.shape[axis], "gives")
    bias = affine.shift if layer.bias is None else affine.scale * _wide(layer.bias) + affine.shift
    return _rounded(layer, weight * _along(axis, affine.scale, weight), bias)


def before(layer: Layer, affine: Affine) -> Weights:
    """The layer with the affine in front of it: W' = W s, b' = b + sum of W t.

    Raises:
        Unfit: it is not exact, because zeros are padded and the affine does not reach them, or because an output at the
            border of a transposed convolution sees fewer inputs, and so less of the shift.
    """
    if isinstance(layer, _ConvTransposeNd):
        raise Unfit("is transposed, so the shift would be wrong at the border")
    if isinstance(layer, _ConvNd) and _pads_zeros(layer):
        raise Unfit("pads with zeros, so the shift would be wrong at the border")
    weight = _grouped(layer)
    _require_channels(affine, layer, weight.shape[2], "takes")
    seen = (weight * _along(2, affine.shift, weight)).sum(tuple(range(2, weight.ndim))).flatten()
    bias = seen if layer.bias is None else _wide(layer.bias) + seen
    return _rounded(layer, weight * _along(2, affine.scale, weight), bias)


def require_layer(module: nn.Module | None) -> Layer:
    """The module as a layer.

    Raises:
        Unfit: it is none, or more than that.
    """
    if not isinstance(module, LAYERS):
        raise Unfit("is no convolution or linear layer")
    _require_plain(module, LAYERS)
    return module


def _require_plain(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Refuses what does more than its class: its weights are not what they seem."""
    if nn.utils.parametrize.is_parametrized(module):
        raise Unfit("is parametrized; call torch.nn.utils.parametrize.remove_parametrizations first")
    if module._forward_hooks or module._forward_pre_hooks:  # noqa: SLF001 there is no other way to ask
        raise Unfit("has hooks (weight_norm and spectral_norm set them); remove them first")
    if type(module) not in kinds:
        raise Unfit(f"is a {type(module).__name__} with a forward of its own")


def _require_channels(affine: Affine, layer: Layer, each: int, verb: str) -> None:
    if _groups(layer) * each != len(affine.scale):
        raise Unfit(f"{verb} {_groups(layer) * each} channels; the BatchNorm has {len(affine.scale)}")


def _pads_zeros(layer: _ConvNd) -> bool:
    if layer.padding_mode != "zeros":  # reflected, repeated or circular pixels have been through the affine
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "same" and any(size > 1 for size in layer.kernel_size)
    padding: Sequence[int] = layer.padding
    return any(padding)


def _groups(layer: Layer) -> int:
    return layer.groups if isinstance(layer, _ConvNd) else 1


def _grouped(layer: Layer) -> torch.Tensor:
    weight = _wide(layer.weight)
    return weight.reshape(_groups(layer), -1, *weight.shape[1:])


def _along(axis: int, channels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A value for each channel, in the place where a grouped weight has them."""
    shape = [len(weight), *([1] * (weight.ndim - 1))]
    shape[axis] = -1
    return channels.reshape(shape)


def _rounded(layer: Layer, grouped: torch.Tensor, bias: torch.Tensor) -> Weights:
    return Weights(grouped.flatten(0, 1).to(layer.weight.dtype), bias.to(layer.weight.dtype))


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.detach().double()
