"""Any other network: a factory of the user's own code, or a saved `torch.export` program.

Both become what a network of the table is: torch's own form for the comparison, a graph of layers for the folding, and
a row that says what the input is. The class count is read off an answer.
"""

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import fx, nn

from bundle.manifest import Source
from export.architectures import Architecture, Preprocessing
from export.errors import ExportError, WeightsError
from export.layers import as_layers
from export.programs import as_functions, quiet, read_program
from export.weights import RANDOM, Loaded, assign, read_state, unwrap

TOLERANCE = 1e-4
"""On parity, of networks that are not in the table: what the deepest of the table are allowed."""


@dataclass(frozen=True)
class Shape:
    """Of one image as the network takes it."""

    channels: int
    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Of "3x64x64"."""
        return cls(*map(int, text.split("x")))

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


@dataclass(frozen=True)
class Foreign(Loaded):
    """A network that is not in the table."""

    layers: nn.Module
    """The same as a graph of layers, with the same weights: what the folding reads."""


def load_module(spec: str, shape: Shape, *, weights: str | None, classes: int | None, dynamic: bool) -> Foreign:
    """The network that a factory returns, in eval mode.

    Args:
        spec: "package.module:callable"; the current directory is searched first, as `python -m` does.
        shape: of one image.
        weights: a checkpoint of the network; "random:SEED" seeds torch before the factory runs; None keeps what the
            factory put in.
        classes: given to a factory that has a parameter of this name; `channels` likewise.
        dynamic: whether other heights and widths are to be taken.

    Raises:
        ExportError: about the factory, its network, or the weights.
    """
    factory = _find(spec)
    with _seeded(weights):
        network = _build(spec, factory, {"classes": classes, "channels": shape.channels})
        classes = count_classes(spec, network, shape)  # its errors are clearer than the tracer's; lazy layers wake up
    if dynamic:
        _require_free_size(spec, network, shape)
    row = replace(_row(spec, network, shape, dynamic=dynamic), classes=classes)
    if weights is None or weights.startswith(RANDOM):
        kind: Literal["module", "random"] = "module" if weights is None else "random"
        name = spec if weights is None else weights
        source = Source(kind=kind, name=name, sha256=digest(_finite(spec, network)))
    else:
        source = _fill(row, weights)
    network = network.requires_grad_(requires_grad=False)
    program = _capture(spec, network, shape, dynamic=dynamic)
    return Foreign(network, row, source, as_layers(as_functions(spec, program)))


def load_program(path: Path, shape: Shape | None, *, dynamic: bool) -> Foreign:
    """The network of a file that `torch.export.save` wrote.

    Args:
        path: of the file.
        shape: of one image; None where the program takes no other.
        dynamic: whether other heights and widths are to be taken.

    Raises:
        ExportError: the file is no program, holds code, is in train mode, or takes another input.
    """
    program, sha256 = read_program(path)
    network = as_functions(path.name, program)
    shape = _shape_of(path.name, network, shape, dynamic=dynamic)
    row = _row(path.name, _finite(path.name, network), shape, dynamic=dynamic)
    row = replace(row, classes=count_classes(path.name, network, shape))
    if dynamic:
        _require_free_size(path.name, network, shape)
    return Foreign(network, row, Source(kind="file", name=path.name, sha256=sha256), as_layers(network))


def digest(network: nn.Module) -> str:
    """sha256 over the names, shapes, types and bytes of a network's weights."""
    total = hashlib.sha256()
    for key, value in sorted(network.state_dict().items()):
        total.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _find(spec: str) -> Callable[..., Any]:
    name, _, attribute = spec.partition(":")
    if not (name and attribute):
        raise ExportError(f"{spec!r} names no factory; write package.module:callable")
    if os.getcwd() not in sys.path:  # noqa: PTH109 sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ExportError(f"{spec}: there is no module {error.name!r}; run from the folder that holds it") from error
    except Exception as error:
        raise ExportError(f"{spec}: importing {name} fails with {_words(error)}") from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ExportError(f"{name} holds no callable {attribute!r}; name a function that returns the network")
    return cast("Callable[..., Any]", found)


def _build(spec: str, factory: Callable[..., Any], known: dict[str, int | None]) -> nn.Module:
    try:
        accepted = set(inspect.signature(factory).parameters)
    except ValueError:  # of a builtin
        accepted = set()
    arguments = {name: value for name, value in known.items() if name in accepted and value is not None}
    said = f"{spec}({', '.join(f'{name}={value}' for name, value in arguments.items())})"
    try:
        network = factory(**arguments)
    except Exception as error:
        hint = "; --labels tells the number of classes" if "classes" in accepted and "classes" not in arguments else ""
        raise ExportError(f"{said} fails with {_words(error)}{hint}") from error
    if not isinstance(network, nn.Module):
        raise ExportError(f"{said} returns a {type(network).__name__}; it must return an nn.Module")
    return network.float().eval()


def _fill(row: Architecture, weights: str) -> Source:
    """Loads a checkpoint into the network that the row holds."""
    path = Path(weights)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read; check the path given with --weights") from error
    assign(row, unwrap(read_state(path.name, content)))
    return Source(kind="file", name=path.name, sha256=hashlib.sha256(content).hexdigest())


@contextmanager
def _seeded(weights: str | None) -> Iterator[None]:
    """Makes what torch draws the same for the same "random:SEED"."""
    if weights is None or not weights.startswith(RANDOM):
        yield
        return
    digits = weights.removeprefix(RANDOM)
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 19):  # noqa: PLR2004 what fits 64 bits
        raise WeightsError(f"{weights!r} names no seed; write {RANDOM}0 or another whole number")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(digits))
        yield


def _row(name: str, network: nn.Module, shape: Shape, *, dynamic: bool) -> Architecture:
    """What the table would say of it; pixels become 0 to 1, and more only on request."""
    preprocessing = Preprocessing(
        max(shape.height, shape.width),
        mean=(0.0,) * shape.channels,
        std=(1.0,) * shape.channels,
        channels="grey" if shape.channels == 1 else "rgb",
    )
    return Architecture(
        name,
        lambda _classes, _channels: network,
        stem="",
        head="",
        classes=1,  # until it has answered
        channels=shape.channels,
        size=shape.height,
        preprocessing=preprocessing,
        dynamic=dynamic,
        tolerance=TOLERANCE,
        smallest=min(shape.height, shape.width),  # fewer pixels may leave nothing for its last layers
        width=None if shape.width == shape.height else shape.width,
    )


def _finite(name: str, network: nn.Module) -> nn.Module:
    for key, value in network.state_dict().items():
        if not value.isfinite().all():
            raise WeightsError(f"{name}: {key} holds NaN or infinity; take other weights")
    return network


def count_classes(name: str, network: nn.Module, shape: Shape) -> int:
    """The number of scores that the network gives for one image.

    Raises:
        ExportError: it fails, or answers anything but logits [N, classes].
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, shape.channels, shape.height, shape.width, generator=generator)
    try:
        with torch.inference_mode():
            answer = network(images)
    except Exception as error:
        raise ExportError(f"{name} fails on images of {shape} with {_words(error)}; is --input right?") from error
    if not isinstance(answer, torch.Tensor):
        raise ExportError(f"{name} answers a {type(answer).__name__}; forward must return the logits alone")
    if answer.ndim != 2 or len(answer) != len(images) or not answer.is_floating_point():  # noqa: PLR2004 N and classes
        raise ExportError(f"{name} answers {answer.dtype} {list(answer.shape)} for 2 images; logits are [2, classes]")
    if answer.shape[1] > 1 and answer.min() >= 0 and (answer.sum(1) - 1).abs().max() < 1e-3:  # noqa: PLR2004
        raise ExportError(f"{name} answers probabilities; leave its softmax out, the graph has one")
    return answer.shape[1]


def _require_free_size(name: str, network: nn.Module, shape: Shape) -> None:
    """Asks for another size: a tracer may take a network for free that is not."""
    other = replace(shape, height=shape.height * 9 // 8 + 1, width=shape.width * 5 // 4 + 1)
    try:
        count_classes(name, network, other)
    except ExportError as error:
        raise ExportError(f"{name} takes {shape} only, leave --dynamic out; with {other} it fails") from error


def _capture(name: str, network: nn.Module, shape: Shape, *, dynamic: bool) -> torch.export.ExportedProgram:
    example = torch.zeros(2, shape.channels, shape.height, shape.width)
    dims: dict[int, Any] = {0: torch.export.Dim("N", min=1)}
    if dynamic:
        dims |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    try:
        with quiet():
            return torch.export.export(network, (example,), dynamic_shapes=(dims,))
    except Exception as error:
        way_out = "leave --dynamic out" if dynamic else "its batch, and what it does, may not depend on the values"
        raise ExportError(f"{name} cannot be captured by torch.export: {_words(error)}; {way_out}") from error


def _shape_of(name: str, network: fx.GraphModule, asked: Shape | None, *, dynamic: bool) -> Shape:
    """The shape that a program's input has, completed by the one that was asked for.

    Raises:
        ExportError: the program takes another, or not any number of images.
    """
    (placeholder,) = (node for node in network.graph.nodes if node.op == "placeholder")
    given = placeholder.meta["val"].shape
    if len(given) != 4:  # noqa: PLR2004 N, C, H, W
        raise ExportError(f"{name} takes {list(given)}; a network of images takes [N, channels, height, width]")
    if isinstance(given[0], int):
        raise ExportError(
            f"{name} takes {given[0]} images at a time; export it with a dynamic batch: torch.export.export(network, "
            '(images,), dynamic_shapes=({0: torch.export.Dim("N", min=1)},))'
        )
    fixed = tuple(size if isinstance(size, int) else None for size in given[1:])
    if dynamic and (fixed[1], fixed[2]) != (None, None):
        raise ExportError(f"{name} takes one height and width only; leave --dynamic out, or export it with free ones")
    if asked is None:
        if None in fixed:
            raise ExportError(f"{name} takes several sizes; say the native one with --input CxHxW")
        return Shape(*given[1:])
    wanted = (asked.channels, asked.height, asked.width)
    if any(size not in (None, want) for size, want in zip(fixed, wanted, strict=True)):
        takes = "x".join("any" if size is None else str(size) for size in fixed)
        raise ExportError(f"{name} takes {takes}, and --input says {asked}; correct --input, or leave it out")
    return asked


def _words(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}"[:300] if said else type(error).__name__
