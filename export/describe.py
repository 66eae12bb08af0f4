"""A network as the papers print it: layer, output size, parameters, multiply-adds.

The network runs once on torch's meta device, which knows shapes and holds no values: VGG-19 takes no memory. Each layer
is counted by its own formula, independently of `export.pipeline.macs`; the tests compare the two.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from export.architectures import Architecture, find
from export.errors import ExportError

SILENT = ("torch.nn.modules.activation", "torch.nn.modules.dropout", "torch.nn.modules.flatten")
"""Layers of these modules change no size and hold nothing; no paper lists them."""


@dataclass(frozen=True)
class Layer:
    """One call of a layer."""

    name: str
    """Its qualified name in the network."""
    kind: str
    """Class, kernel and stride: "Conv2d 7x7/2"."""
    output: tuple[int, ...]
    """C, H, W of one image, or only C."""
    parameters: int
    """0 where the layer was called before."""
    macs: int


@dataclass(frozen=True)
class Description:
    name: str
    input: tuple[int, int, int]
    """C, H, W."""
    layers: tuple[Layer, ...]
    blocks: dict[str, Layer]
    """By qualified name, what holds other layers; its parameters and MACs are theirs."""
    parameters: int
    trainable: int
    folded_parameters: int
    """When every BatchNorm has become part of its convolution."""
    unused: int
    """Parameters that no answer needs: auxiliary heads."""

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    def summary(self) -> dict[str, Any]:
        """What `describe --all --json` lists."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "trainable": self.trainable,
            "folded_parameters": self.folded_parameters,
            "macs": self.macs,
            "input": list(self.input),
        }

    def as_json(self) -> dict[str, Any]:
        """The summary with every layer."""
        layers = [vars(layer) | {"output": list(layer.output)} for layer in self.layers]
        return self.summary() | {"layers": layers}


def describe(name: str, size: tuple[int, int] | None = None) -> Description:
    """Counts a network of the table.

    Args:
        name: of the network.
        size: height and width of the input; the native ones when None.

    Raises:
        ExportError: no network has this name, or it does not take this size.
    """
    architecture = find(name)
    height, width = size or (architecture.size, architecture.size)
    with torch.device("meta"):
        network = architecture.build(architecture.classes, architecture.channels).eval()
        images = torch.zeros(1, architecture.channels, height, width)
    watch = _Watch()
    try:
        watch.run(network, images)
    except RuntimeError as error:
        raise ExportError(
            f"{name} does not take {height}x{width}: {_first_line(error)}; {_hint(architecture)}"
        ) from error
    parameters = sum(parameter.numel() for parameter in network.parameters())
    used = sum(layer.parameters for layer in watch.layers)
    return Description(
        name=name,
        input=(architecture.channels, height, width),
        layers=tuple(watch.layers),
        blocks=watch.blocks,
        parameters=parameters,
        trainable=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
        folded_parameters=used + watch.folding,
        unused=parameters - used,
    )


@dataclass
class _Watch:
    """Hooks on every layer; `run` fills in what they saw."""

    layers: list[Layer] = field(default_factory=list)
    blocks: dict[str, Layer] = field(default_factory=dict)
    folding: int = 0
    """What folding adds to the parameters: a bias where there was none, less scale and shift."""
    _open: list[tuple[str, nn.Module]] = field(default_factory=list)
    """The modules that are running, the innermost last."""
    _seen: set[int] = field(default_factory=set)
    _makers: dict[int, nn.Module] = field(default_factory=dict)
    _kept: list[Any] = field(default_factory=list)
    """Outputs, so that no two share an id."""

    def run(self, network: nn.Module, images: torch.Tensor) -> None:
        modules = dict(network.named_modules())
        hooks: list[RemovableHandle] = []
        for name, module in modules.items():
            hooks.append(module.register_forward_pre_hook(self._enter(name)))
            hooks.append(module.register_forward_hook(self._leave(name)))
        with torch.inference_mode(), _Pools(self):
            network(images)
        for hook in hooks:
            hook.remove()

    def _enter(self, name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, _: self._open.append((name, module))

    def _leave(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def see(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self._open.pop()
            if not (isinstance(output, torch.Tensor) and inputs and isinstance(inputs[0], torch.Tensor)):
                return
            shape = tuple(output.shape[1:])
            own = self._own(module)
            if isinstance(module, _BatchNorm) and own is not None:
                self.folding += _fold(module, self._makers.get(id(inputs[0])))
            self._kept.append(output)
            self._makers[id(output)] = module
            if _holds_others(module):
                self.blocks[name] = Layer(name, type(module).__name__, shape, 0, 0)
            if own or not (_is_silent(module) or name in self.blocks):
                self.layers.append(Layer(name, _kind(module), shape, own or 0, _macs(module, inputs[0], output)))

        return see

    def pooled(self, function: str, output: torch.Tensor) -> None:
        """A pooling that is called as a function, between layers; what a layer does inside is its own affair."""
        name, module = self._open[-1]
        if _holds_others(module):
            self.layers.append(Layer(f"{name}.{function}".strip("."), "function", tuple(output.shape[1:]), 0, 0))

    def _own(self, module: nn.Module) -> int | None:
        """Parameters of the module itself; None when it was called before."""
        if id(module) in self._seen:
            return None
        self._seen.add(id(module))
        return sum(parameter.numel() for parameter in module.parameters(recurse=False))


class _Pools(TorchFunctionMode):
    """Tells the watch of poolings that are no modules."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types  # torch's signature
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").lstrip("_")
        if name.endswith("_pool2d") and isinstance(output, torch.Tensor):
            self._watch.pooled(name, output)
        return output


def _macs(module: nn.Module, taken: torch.Tensor, given: torch.Tensor) -> int:
    """Of one image: each value of a convolution's or linear layer's output is a sum over its part of the input."""
    if isinstance(module, _ConvTransposeNd):  # each value of the input goes into a kernel's worth of outputs
        return taken.numel() * module.out_channels // module.groups * math.prod(module.kernel_size)
    if isinstance(module, _ConvNd):
        return given.numel() * module.in_channels // module.groups * math.prod(module.kernel_size)
    return given.numel() * module.in_features if isinstance(module, nn.Linear) else 0


def _fold(norm: _BatchNorm, before: nn.Module | None) -> int:
    affine = 2 * norm.num_features if norm.affine else 0
    has_bias = getattr(before, "bias", None) is not None
    return (0 if has_bias else norm.num_features) - affine


def _kind(module: nn.Module) -> str:
    """Class, kernel, stride and groups: "Conv2d 7x7/2"; a convolution's stride of 1 goes without saying."""
    kernel, stride = (_sides(getattr(module, key, None)) for key in ("kernel_size", "stride"))
    text = type(module).__name__ + (f" {'x'.join(map(str, kernel))}" if kernel else "")
    if stride and not (isinstance(module, _ConvNd) and set(stride) == {1}):
        text += "/" + "x".join(map(str, sorted(set(stride))))
    groups = getattr(module, "groups", 1)
    return text if groups == 1 else f"{text}, {groups} groups"


def _sides(value: int | tuple[int, ...] | None) -> tuple[int, ...]:
    return () if value is None else value if isinstance(value, tuple) else (value, value)


def _holds_others(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _is_silent(module: nn.Module) -> bool:
    return type(module).__module__ in SILENT or isinstance(module, nn.Identity)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _hint(architecture: Architecture) -> str:
    native = f"{architecture.size}x{architecture.size}"
    return f"it takes {native} and more" if architecture.dynamic else f"it takes {native} alone"
