"""BatchNorm folding: s = gamma / sqrt(var + eps), W' = s W, b' = beta + (b - mean) s.

Which BatchNorm belongs to which convolution is read from the traced graph, not from names. The arithmetic is torch's
own fusion on float64 copies; only the result is rounded. `prove` then measures what the rounding did.
"""

import copy
from collections import Counter

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from bundle.manifest import Folding
from export.errors import FoldError

FUNCTIONS = (torch.batch_norm, nn.functional.batch_norm)


def fold_batchnorm(network: nn.Module) -> tuple[fx.GraphModule, int]:
    """A copy of the network in eval mode without BatchNorm, and how many were folded; the argument stays as it is.

    Raises:
        FoldError: a BatchNorm cannot be folded into a Conv2d; it says which, and why.
    """
    traced = fx.symbolic_trace(copy.deepcopy(network))
    modules = dict(traced.named_modules())
    uses = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    folded = 0
    for node in list(traced.graph.nodes):
        if node.op == "call_function" and node.target in FUNCTIONS:
            raise FoldError(f"{node.name} calls batch_norm as a function; make it an nn.BatchNorm2d")
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, _BatchNorm):
            continue
        before = _producer(node, norm, modules, uses)
        traced.set_submodule(str(before.target), _fuse(modules[str(before.target)], norm))
        modules[str(before.target)] = traced.get_submodule(str(before.target))
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
        folded += 1
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
        exact = copy.deepcopy(network).double()(images)
        after, before = (_error(net(images.float()), exact) for net in (folded, network))
    bound = min(max(10 * before, 1e-5), 1e-3)
    if not after <= bound:  # a NaN is refused too
        raise FoldError(
            f"after folding {layers} BatchNorms the logits are off by {after:.2g} of the largest ({before:.2g} before, "
            f"{bound:.2g} is allowed); check the checkpoint for running variances that are negative or almost 0"
        )
    return Folding(layers=layers, folded_error=after, unfolded_error=before)


def _producer(node: fx.Node, norm: _BatchNorm, modules: dict[str, nn.Module], uses: "Counter[object]") -> fx.Node:
    """The node of the convolution that the BatchNorm at `node` folds into."""
    before = node.args[0] if node.args else node.kwargs["input"]
    if not isinstance(before, fx.Node) or not isinstance(modules.get(str(before.target)), nn.Conv2d):
        raise FoldError(f"{node.target} cannot be folded: it follows {before}, which is no Conv2d")
    if len(before.users) > 1:
        others = ", ".join(user.name for user in before.users if user is not node)
        raise FoldError(f"{node.target} cannot be folded: the output of {before.target} is used by {others} too")
    if uses[before.target] > 1:
        raise FoldError(f"{node.target} cannot be folded: {before.target} is called {uses[before.target]} times")
    if norm.training or norm.running_mean is None:
        raise FoldError(f"{node.target} cannot be folded: it uses the batch's own statistics; call eval() first")
    return before


def _fuse(conv: nn.Module, norm: _BatchNorm) -> nn.Conv2d:
    assert isinstance(conv, nn.Conv2d)  # noqa: S101 `_producer` refused everything else
    assert norm.running_mean is not None  # noqa: S101 likewise
    assert norm.running_var is not None  # noqa: S101 likewise

    def wide(value: torch.Tensor) -> torch.Tensor:
        return value.detach().double()

    weight, bias = fuse_conv_bn_weights(
        wide(conv.weight),
        None if conv.bias is None else wide(conv.bias),
        wide(norm.running_mean),
        wide(norm.running_var),
        norm.eps,
        wide(norm.weight) if norm.affine else None,
        wide(norm.bias) if norm.affine else None,
    )
    fused = copy.deepcopy(conv)
    fused.weight = nn.Parameter(weight.to(conv.weight.dtype))
    fused.bias = nn.Parameter(bias.to(conv.weight.dtype))
    return fused


def _error(logits: torch.Tensor, exact: torch.Tensor) -> float:
    return float((logits.double() - exact).abs().max() / exact.abs().max())
