"""BatchNorm folding: each one goes into the weights of the layer before it, or of the layers after it.

Which layer that is stands in the traced graph, not in names. Into the layer before (a convolution, transposed or not,
or a linear layer) is exact with any padding; into those after only where nothing stands between but what commutes with
it, and no zeros are padded. What is exact neither way is refused. The arithmetic is float64 and only its result is
rounded (`export/affine.py`); `prove` then measures what the rounding did.
"""

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm

from bundle.manifest import Folding
from export.affine import Affine, Layer, Unfit, Weights, after, before, read_norm, require_layer
from export.errors import FoldError

Fold = tuple[Layer, Weights]
"""A layer, and what its weights are to be."""

COMMUTING = (
    *(nn.Identity, nn.Upsample),
    *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    *(nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
)
"""They copy pixels, or average them with weights of sum 1: an affine of each channel may stand on either side."""

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""Nothing, in evaluation."""

aten = torch.ops.aten


def fold_batchnorm(network: nn.Module, example: torch.Tensor | None = None) -> tuple[nn.Module, int]:
    """A copy of the network in eval mode without BatchNorm, and how many were folded; the argument stays as it is.

    Args:
        network: any module that torch.fx can trace, or a graph of layers (of a torch.export program:
            `export.layers.as_layers`).
        example: an input, for networks that are not ours. Without it the number of axes is not known, and a BatchNorm
            after a linear layer of [batch, steps, features] is taken for one of [batch, features].

    Raises:
        FoldError: a BatchNorm cannot be folded; it says which, and why.
    """
    traced = _trace(network)
    if not isinstance(traced, fx.GraphModule):
        return traced, 0
    if example is not None:
        _note_shapes(traced, example)
    folded = sum(_fold(traced, node) for node in list(traced.graph.nodes))
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval(), folded


def prove(network: nn.Module, folded: nn.Module, layers: int, images: torch.Tensor) -> Folding:
    """Measures the folded and the unfolded float32 network against the unfolded one in float64.

    Args:
        network: in eval mode, taking `images` as they are.
        folded: the same function in other words.
        layers: how many BatchNorms were folded.
        images: float64 [n, channels, height, width], normalised.

    Raises:
        FoldError: the folded network is further from float64 than rounding explains. Both networks round about as
            often, so their errors are alike: ten times the unfolded one leaves room for chance, 1e-5 for networks that
            happen to have almost none. A wrong fold shows as 1e-3 and more, which is never allowed.
    """
    with torch.inference_mode():
        exact = _exact(network, images)
        folded_error, unfolded_error = (_error(net(images.float()), exact) for net in (folded, network))
    bound = min(max(10 * unfolded_error, 1e-5), 1e-3)
    if not folded_error <= bound:  # a NaN is refused too
        raise FoldError(
            f"after folding {layers} BatchNorms the logits are off by {folded_error:.2g} of the largest "
            f"({unfolded_error:.2g} before, {bound:.2g} is allowed); check the checkpoint for running variances that "
            "are negative or almost 0"
        )
    return Folding(layers=layers, folded_error=folded_error, unfolded_error=unfolded_error)


def _trace(network: nn.Module) -> nn.Module:
    """A copy as a graph; where there is no BatchNorm a network that cannot be traced is good enough as a plain copy."""
    duplicate = copy.deepcopy(network)
    if isinstance(duplicate, fx.GraphModule):
        return duplicate
    try:
        return fx.symbolic_trace(duplicate)
    except Exception as error:
        if not any(isinstance(module, _BatchNorm) for module in network.modules()):
            return duplicate.eval()
        raise FoldError(
            f"torch.fx cannot follow {type(network).__name__} ({_first_line(error)}), so its BatchNorms cannot be "
            "folded; take what depends on the data out of forward, or save torch.export.export(network.eval(), "
            "(example,)) and freeze that program"
        ) from error


def _note_shapes(traced: fx.GraphModule, example: torch.Tensor) -> None:
    """Runs the example through the graph, so that each node knows the shape of its value."""
    try:
        with torch.no_grad():
            ShapeProp(traced).propagate(example)
    except RuntimeError as error:
        raise FoldError(f"the network does not take an input of {list(example.shape)}: {_first_line(error)}") from error


def _fold(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Takes the BatchNorm at a node out, if there is one, and puts what it does into the layers around it."""
    norm = _module(traced, node)
    if not isinstance(norm, _BatchNorm):
        if node.op == "call_function" and "batch_norm" in str(node.target):
            raise FoldError(f"{node.name} calls batch_norm as a function; make it an nn.BatchNorm2d")
        return False
    try:
        affine = read_norm(norm)
    except Unfit as why:
        raise FoldError(f"{node.target} cannot be folded: it {why}") from None
    for layer, weights in _folds(traced, node, affine):
        layer.weight = nn.Parameter(weights.weight, requires_grad=False)
        layer.bias = nn.Parameter(weights.bias, requires_grad=False)
    node.replace_all_uses_with(_input(node))
    traced.graph.erase_node(node)
    return True


def _folds(traced: fx.GraphModule, node: fx.Node, affine: Affine) -> list[Fold]:
    try:
        return [_fold_backwards(traced, node, affine)]
    except Unfit as backwards:
        try:
            return _fold_forwards(traced, node, affine)
        except Unfit as forwards:
            raise FoldError(f"{node.target} cannot be folded: {backwards}; and {forwards}") from None


def _fold_backwards(traced: fx.GraphModule, norm: fx.Node, affine: Affine) -> Fold:
    """Into the layer that the BatchNorm follows, if nobody else reads what the layer gives."""
    node, reader = _input(norm), norm
    while True:
        if others := [user.name for user in node.users if user is not reader and not _asks_for_shape(user)]:
            raise Unfit(f"the output of {_name(node)} is used by {', '.join(others)} too")
        if not _commutes(traced, node):
            break
        node, reader = _input(node), node
    try:
        layer = _layer(traced, node)
        return layer, after(layer, affine)
    except Unfit as why:
        raise Unfit(f"it follows {_name(node)}, which {why}") from None


def _fold_forwards(traced: fx.GraphModule, node: fx.Node, affine: Affine) -> list[Fold]:
    """Into every layer that reads the BatchNorm."""
    folds: list[Fold] = []
    for user in node.users:
        if _asks_for_shape(user):
            continue
        if _commutes(traced, user):
            folds += _fold_forwards(traced, user, affine)
            continue
        try:
            layer = _layer(traced, user)
            folds.append((layer, before(layer, affine)))
        except Unfit as why:
            raise Unfit(f"it is read by {_name(user)}, which {why}") from None
    return folds


def _layer(traced: fx.GraphModule, node: fx.Node) -> Layer:
    """The layer at a node, if this is its only call and its channels are where a BatchNorm has them."""
    layer = require_layer(_module(traced, node))
    if (calls := sum(_module(traced, other) is layer for other in traced.graph.nodes)) > 1:
        raise Unfit(f"is called {calls} times")
    axes = _axes(node) or _axes(_input(node))
    if isinstance(layer, nn.Linear) and axes not in (None, 2):
        raise Unfit(f"has its features in the last of {axes} axes; a BatchNorm has its channels in the second")
    return layer


def _axes(node: fx.Node) -> int | None:
    value = node.meta.get("tensor_meta", node.meta.get("val"))
    return None if value is None else len(value.shape)


def _commutes(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a channel's affine may be moved from one side of the node to the other."""
    module = _module(traced, node)
    if module is not None:
        return isinstance(module, COMMUTING) or (isinstance(module, DROPOUT) and not module.training)
    if node.target in (nn.functional.pad, aten.pad.default):
        return _argument(node, 2, "mode") in ("reflect", "replicate", "circular")
    if node.target in (nn.functional.dropout, aten.dropout.default):
        return _argument(node, 2, "training") is False
    return node.target is nn.functional.interpolate or str(node.target).startswith(
        ("aten.upsample_", "aten.reflection_pad", "aten.replication_pad")
    )


def _asks_for_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in ("size", "dim")
    return node.target is aten.sym_size.int or (node.target is getattr and node.args[1] in ("shape", "ndim"))


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _input(node: fx.Node) -> fx.Node:
    """What a node works on."""
    value: fx.Node = _argument(node, 0, "input")
    return value


def _argument(node: fx.Node, position: int, name: str) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _exact(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    try:
        logits: torch.Tensor = copy.deepcopy(network).double()(images)
    except RuntimeError as error:
        raise FoldError(
            f"{type(network).__name__} does not run in float64 ({_first_line(error)}), so its folding cannot be "
            "proved; do not fix a precision in forward"
        ) from error
    return logits


def _error(logits: torch.Tensor, exact: torch.Tensor) -> float:
    return float((logits.double() - exact).abs().max() / exact.abs().max())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
