"""A graph of functions on weights as a graph of layers that hold them.

`torch.export` writes functions; the folding, and whoever reads a graph, looks for layers.
"""

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from export.errors import FoldError

aten = torch.ops.aten


def as_layers(functions: fx.GraphModule) -> fx.GraphModule:
    """The same network with a layer for each convolution, linear map and BatchNorm; it shares the argument's weights.

    What has computed weights (weight standardisation, say) stays a function.

    Raises:
        FoldError: a BatchNorm whose statistics are computed and not stored.
    """
    layers = fx.GraphModule(functions, copy.deepcopy(functions.graph))
    for node in list(layers.graph.nodes):
        make = _MAKERS.get(node.target) if node.op == "call_function" else None
        layer = make(layers, node) if make else None
        if layer is not None:
            _replace(layers, node, layer)
        elif "batch_norm" in str(node.target):
            raise FoldError(
                f"{node.name} cannot be folded: its statistics are computed from each batch, not stored; train it with "
                "track_running_stats=True"
            )
    layers.graph.eliminate_dead_code()
    layers.recompile()
    return layers.requires_grad_(requires_grad=False).eval()


def _replace(layers: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    name = f"{node.name}_layer"
    layers.add_submodule(name, layer)
    with layers.graph.inserting_before(node):
        call = layers.graph.call_module(name, (node.args[0],))
    call.meta = dict(node.meta)
    for user in list(node.users):
        if user.target is operator.getitem:  # some functions return the statistics too
            call.meta = dict(user.meta)
            user.replace_all_uses_with(call)
            layers.graph.erase_node(user)
    node.replace_all_uses_with(call)
    layers.graph.erase_node(node)


def _convolution(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    given = _arguments(node)
    weight, bias = _held(graph, given["weight"]), _held(graph, given["bias"])
    if weight is None or (bias is None and given["bias"] is not None):
        return None
    axes = weight.ndim - 2
    options = {
        name: value if isinstance(value, str) else tuple(value) * (axes // len(value))
        for name, value in given.items()
        if name in ("stride", "padding", "dilation", "output_padding")
    }
    transposed = given.get("transposed", "output_padding" in given)
    if not transposed:
        options.pop("output_padding", None)
    inputs, outputs = weight.shape[1] * given["groups"], weight.shape[0]
    if transposed:
        inputs, outputs = outputs, inputs
    kinds = _TRANSPOSED if transposed else _PLAIN
    with torch.device("meta"):
        layer = kinds[axes](
            inputs, outputs, tuple(weight.shape[2:]), groups=given["groups"], bias=bias is not None, **options
        )
    return _filled(layer, weight, bias)


def _linear(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    given = _arguments(node)
    weight, bias = _held(graph, given["weight"]), _held(graph, given["bias"])
    if weight is None or (bias is None and given["bias"] is not None):
        return None
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return _filled(layer, weight, bias)


def _batch_norm(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    given = _arguments(node)
    mean, variance = (_held(graph, given[f"running_{what}"]) for what in ("mean", "var"))
    if mean is None or variance is None:
        return None
    scale, shift = _held(graph, given["weight"]), _held(graph, given["bias"])
    before = node.args[0]
    assert isinstance(before, fx.Node)  # noqa: S101 what a function of tensors is given
    kind = _NORMS[before.meta["val"].ndim]
    layer = kind(len(mean), eps=given["eps"], affine=scale is not None or shift is not None)
    layer.running_mean, layer.running_var = mean, variance
    if layer.affine:
        scale = torch.ones_like(mean) if scale is None else scale
        _filled(layer, scale, torch.zeros_like(mean) if shift is None else shift)
    return layer


def _filled(layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight.detach())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach())
    return layer


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by the names of the function's schema, with its defaults."""
    schema: Any = node.target
    wanted = schema._schema.arguments  # noqa: SLF001 its only name
    defaults = {argument.name: argument.default_value for argument in wanted}
    named = zip((argument.name for argument in wanted), node.args, strict=False)
    return defaults | dict(named) | dict(node.kwargs)


def _held(graph: fx.GraphModule, value: Any) -> torch.Tensor | None:
    """The weight that an argument names; None where there is none, or it is computed."""
    if not (isinstance(value, fx.Node) and value.op == "get_attr"):
        return None
    found: Any = operator.attrgetter(str(value.target))(graph)
    return found if isinstance(found, torch.Tensor) else None


_PLAIN: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
"""By the number of axes, of space or of all."""

_MAKERS: dict[Any, Callable[[fx.GraphModule, fx.Node], nn.Module | None]] = {
    aten.conv1d.default: _convolution,
    aten.conv2d.default: _convolution,
    aten.conv2d.padding: _convolution,
    aten.conv3d.default: _convolution,
    aten.conv_transpose1d.default: _convolution,
    aten.conv_transpose2d.input: _convolution,
    aten.conv_transpose3d.input: _convolution,
    aten.convolution.default: _convolution,
    aten.linear.default: _linear,
    aten.batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,  # noqa: SLF001 torch's name
}
