"""Random weights that make a comparison mean something: networks with them tell images apart.

He initialisation; random BatchNorm scale and shift; BatchNorm statistics those of a few sample images, disturbed, so
that activations keep their size through any depth; layers without BatchNorm as if one had been folded into them; a head
scaled so that logits of two images differ by about 1.
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from export.architectures import Architecture
from export.graph import Normalize
from export.models.lenet import RadialBasis, Subsampling
from export.verify import one_thread, sample_images

OPEN = 0.5
"""The mean of what random weights give to a ReLU, with a deviation of 1: at 0 rounding errors grow much faster."""

Biased = nn.Conv2d | nn.Linear | Subsampling


@one_thread()
def random_state(architecture: Architecture, seed: int) -> dict[str, torch.Tensor]:
    """The float32 weights of a network; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        network = architecture.build(architecture.classes, architecture.channels)
    network = network.to_empty(device="cpu").double().eval()
    _initialise(network, generator)
    images = torch.from_numpy(sample_images(8, architecture.input.size, architecture.channels, seed))
    _calibrate(Normalize(network, architecture.preprocessing).double(), architecture.head, images, generator)
    return {key: value.float() for key, value in network.state_dict().items()}


@torch.no_grad()
def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1, generator=generator)
        elif isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, OPEN, 0.2, generator=generator)
            module.reset_running_stats()
        elif isinstance(module, Subsampling):
            nn.init.uniform_(module.weight, 0.15, 0.35, generator=generator)
            nn.init.normal_(module.bias, std=0.1, generator=generator)
        elif isinstance(module, RadialBasis):
            module.reset_parameters()
    for block in network.modules():
        norms = [child for child in block.children() if isinstance(child, _BatchNorm)]
        if getattr(block, "plain", False):
            _straighten(block)
        elif len(norms) > 1:  # the last of a residual branch: at full scale, depth makes a chaos of rounding errors
            norms[-1].weight.mul_(0.3)
            norms[-1].bias.sub_(OPEN)


def _straighten(block: nn.Module) -> None:
    """Does for layers without shortcuts what 0.3 does for a residual branch: each stays near to the identity.

    With random layers the rounding error of plain56 grows to 5e-3 of the logits, and that of plain110 to all of them.
    """
    for layer in block.children():
        if isinstance(layer, nn.Conv2d):
            layer.weight.mul_(0.25).add_(nn.init.dirac_(torch.empty_like(layer.weight)))


@torch.no_grad()
def _calibrate(network: Normalize, head: str, images: torch.Tensor, generator: torch.Generator) -> None:
    """Sets each BatchNorm's statistics, then the head, from what reaches them; one pass, from the input onwards."""
    last = network.network.get_submodule(head.rpartition(".")[0])
    biased = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear | Subsampling) and module.bias is not None and module is not last
    ]
    calibration = _Calibration(generator, biased)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(calibration.normalise) for norm in norms]
    hooks += [layer.register_forward_hook(calibration.settle) for layer in biased]
    set_head = calibration.narrow if isinstance(last, RadialBasis) else calibration.spread
    hooks += [last.register_forward_pre_hook(set_head)]
    network(images)
    for hook in hooks:
        hook.remove()


class _Calibration:
    """Forward hooks that set a layer from what reaches it."""

    def __init__(self, generator: torch.Generator, biased: list[Biased]) -> None:
        self._generator = generator
        self._biased = biased

    def _noise(self, *shape: int, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator, dtype=like.dtype)

    def normalise(self, norm: _BatchNorm, inputs: tuple[torch.Tensor]) -> None:
        """Statistics near those of the input."""
        assert norm.running_mean is not None  # noqa: S101 random networks keep statistics
        assert norm.running_var is not None  # noqa: S101 likewise
        variance, mean = torch.var_mean(inputs[0], (0, *range(2, inputs[0].ndim)))
        noise = self._noise(2, len(mean), like=mean)
        norm.running_mean.copy_(mean + 0.1 * noise[0] * variance.sqrt())
        norm.running_var.copy_(variance * (0.2 * noise[1]).exp() + 1e-4)

    def settle(self, layer: Biased, _: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        """Folds in a random BatchNorm with the statistics of the output; returns the new output."""
        assert layer.bias is not None  # noqa: S101 `biased` says so
        variance, mean = torch.var_mean(output, (0, *range(2, output.ndim)))
        gain = torch.empty_like(mean).uniform_(0.5, 1.5, generator=self._generator) / (variance + 1e-4).sqrt()
        layer.weight *= gain.view(-1, *[1] * (layer.weight.ndim - 1))
        shift = OPEN + 0.2 * self._noise(len(mean), like=mean)
        layer.bias.copy_((layer.bias - mean) * gain + shift)
        mean, gain, shift = (value.view(-1, *[1] * (output.ndim - 2)) for value in (mean, gain, shift))
        return (output - mean) * gain + shift

    def spread(self, linear: nn.Linear, inputs: tuple[torch.Tensor]) -> None:
        """Logits of two images that differ by about 1."""
        logits = inputs[0] @ linear.weight.T
        between_two = _between_two(logits)
        linear.weight /= between_two
        linear.bias.copy_(0.1 * self._noise(len(linear.bias), like=linear.bias) - logits.mean(0) / between_two)

    def narrow(self, basis: RadialBasis, inputs: tuple[torch.Tensor]) -> None:
        """The codes stay: the layer before answers less, until the distances differ as logits should."""
        before = self._biased[-1]
        assert before.bias is not None  # noqa: S101 `biased` says so
        between_two = _between_two(basis.forward(inputs[0]))
        before.weight /= between_two
        before.bias /= between_two


def _between_two(logits: torch.Tensor) -> torch.Tensor:
    """The root of the mean squared difference of the logits of two images."""
    return (logits - logits.roll(1, 0)).square().mean().sqrt()
