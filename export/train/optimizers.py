"""The optimisers of the papers that torch does not have as they are written, and torch's own."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from export.train.recipe import AdamW, Recipe, RmsProp


class _WeightByWeight(Optimizer):
    """Moves each weight by its own gradient, which has the decay of the weight in it."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = _evaluate(closure)
        for group in self.param_groups:
            decay = group["weight_decay"]
            for weight in group["params"]:
                if weight.grad is not None:
                    gradient = weight.grad.add(weight, alpha=decay) if decay else weight.grad
                    self._move(weight, gradient, group, self.state[weight])
        return loss

    def _move(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        raise NotImplementedError


class CaffeSgd(_WeightByWeight):
    """v = momentum * v + rate * (g + decay * w); w -= v (Krizhevsky et al., 2012, section 5; Caffe).

    torch's SGD keeps the rate out of v. The two differ when the rate changes: here what is under way keeps its rate.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def _move(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        if not state:
            state["velocity"] = torch.zeros_like(weight)
        velocity = state["velocity"]
        velocity.mul_(group["momentum"]).add_(gradient, alpha=group["lr"])
        weight.sub_(velocity)


class TensorFlowRmsProp(_WeightByWeight):
    """TensorFlow's RMSProp.

    s = decay * s + (1 - decay) * g ** 2, beginning at 1; v = momentum * v + rate * g / sqrt(s + epsilon); w -= v.

    torch begins at 0 and adds epsilon after the root. With an epsilon of 1, as in Inception-v3's recipe, these are
    different optimisers: of g = 0.1 the first step is 0.0725 of the rate for decay 0.9 here, 0.0969 there.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        decay: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "decay": decay, "momentum": momentum, "epsilon": epsilon, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    def _move(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        if not state:
            state["square"], state["velocity"] = torch.ones_like(weight), torch.zeros_like(weight)
        square, velocity = state["square"], state["velocity"]
        square.mul_(group["decay"]).addcmul_(gradient, gradient, value=1 - group["decay"])
        scaled = gradient / (square + group["epsilon"]).sqrt()
        velocity.mul_(group["momentum"]).add_(scaled, alpha=group["lr"])
        weight.sub_(velocity)


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimiser of a recipe, at its highest rate."""
    said, rate = recipe.optimizer, recipe.rate
    if isinstance(said, RmsProp):
        return TensorFlowRmsProp(parameters, rate, said.decay, said.momentum, said.epsilon, said.weight_decay)
    if isinstance(said, AdamW):
        return torch.optim.AdamW(parameters, rate, weight_decay=said.weight_decay)
    form = torch.optim.SGD if said.form == "torch" else CaffeSgd
    return form(parameters, rate, momentum=said.momentum, weight_decay=said.weight_decay)


def _evaluate(closure: Callable[[], Any] | None) -> Any:
    """Lightning computes loss and gradient in the closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
