"""Weights for a network: from a local checkpoint, or random ones that make a comparison mean something."""

import hashlib
import io
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bundle.manifest import Source
from export.architectures import Architecture
from export.errors import WeightsError
from export.graph import Normalize
from export.verify import sample_images

State = dict[str, torch.Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts keep the weights among other things."""

PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
"""What DataParallel, Lightning and torch.compile put before every key."""

FORMATS = (".pth", ".th", ".pt", ".safetensors")

RANDOM = "random:"


@dataclass(frozen=True)
class Loaded:
    """A network with its weights, in eval mode, and the row of the table shaped to them."""

    network: nn.Module
    architecture: Architecture
    source: Source


def load(architecture: Architecture, weights: str, classes: int | None = None) -> Loaded:
    """The network with the weights of a file, or random ones.

    Args:
        architecture: the network's row.
        weights: a path, or "random:SEED".
        classes: of a random network; the row's own when None. A checkpoint knows its own.

    Raises:
        WeightsError: the file cannot be read, or does not hold exactly this network.
    """
    if weights.startswith(RANDOM):
        return _load_random(architecture.shaped(classes or architecture.classes, architecture.channels), weights)
    content = _read(Path(weights))
    state = unwrap(read_state(Path(weights).name, content))
    shaped = _shape(architecture, state)
    source = Source(kind="file", name=Path(weights).name, sha256=hashlib.sha256(content).hexdigest())
    return Loaded(assign(shaped, state), shaped, source)


def read_state(name: str, content: bytes) -> Mapping[str, Any]:
    """What a checkpoint holds. No code in it is ever run: what `weights_only` refuses stays refused."""
    try:
        if name.lower().endswith(".safetensors"):
            return safetensors.torch.load(content)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*TorchScript archive", category=UserWarning)  # it is refused
            held = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{name} holds Python objects, not only tensors, and loading those could run code; "
            "save the weights alone with torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:
        raise WeightsError(
            f"{name} is no readable checkpoint (damaged, or another format); "
            "save the weights with torch.save(model.state_dict(), FILE) or as .safetensors"
        ) from error
    if not isinstance(held, Mapping):
        raise WeightsError(
            f"{name} holds a {type(held).__name__}, not a dictionary of weights; save model.state_dict()"
        )
    return held


def unwrap(held: Mapping[str, Any]) -> State:
    """The weights inside the usual wrappers, with the prefixes that stand on all keys taken off, as float32."""
    while inner := next((held[key] for key in WRAPPERS if isinstance(held.get(key), Mapping)), None):
        held = inner
    if others := [str(key) for key, value in held.items() if not isinstance(value, torch.Tensor)]:
        raise WeightsError(f"the checkpoint holds no tensor under {', '.join(others)}; save model.state_dict() alone")
    while prefix := next((p for p in PREFIXES if held and all(key.startswith(p) for key in held)), ""):
        held = {key.removeprefix(prefix): value for key, value in held.items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in held.items()}


def assign(architecture: Architecture, state: State) -> nn.Module:
    """The network of `architecture` in eval mode with exactly these weights.

    Raises:
        WeightsError: listing every key that is missing, unexpected or of another shape; or not finite.
    """
    with torch.device("meta"):
        network = architecture.build(architecture.classes, architecture.channels)
    wanted = network.state_dict()
    counters = {key: torch.zeros((), dtype=torch.long) for key in wanted if key.endswith(".num_batches_tracked")}
    state = counters | state  # checkpoints of before 2018 have none, and evaluation does not read them
    _require_same_keys(architecture.name, wanted, state)
    for key, value in state.items():
        if not value.isfinite().all():
            raise WeightsError(f"{key} holds NaN or infinity; the checkpoint is of a run that diverged, take another")
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(requires_grad=False).eval()


def _read(path: Path) -> bytes:
    if path.suffix.lower() not in FORMATS:
        raise WeightsError(f"{path.name}: weights are read from {', '.join(FORMATS)} or made by {RANDOM}SEED")
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read; check the path given with --weights") from error


def _shape(architecture: Architecture, state: State) -> Architecture:
    """The row with the classes and channels of the checkpoint; a key that is not there is reported with the others."""
    classes, channels = architecture.classes, architecture.channels
    if architecture.head in state and state[architecture.head].ndim:
        classes = state[architecture.head].shape[0]
    if architecture.stem in state and state[architecture.stem].ndim > 1:
        channels = state[architecture.stem].shape[1]
    if channels not in (1, 3):
        raise WeightsError(f"{architecture.stem} takes {channels} channels; images have 1 (grey) or 3 (RGB)")
    return architecture.shaped(classes, channels)


def _require_same_keys(name: str, wanted: State, state: State) -> None:
    shapes = [
        f"{key} is {list(state[key].shape)} instead of {list(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    problems = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": shapes,
    }
    report = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys)
    if report:
        raise WeightsError(f"these are not the weights of {name}; {report}")


def _load_random(architecture: Architecture, weights: str) -> Loaded:
    digits = weights.removeprefix(RANDOM)
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 19):  # noqa: PLR2004 what fits 64 bits
        raise WeightsError(f"{weights!r} names no seed; write {RANDOM}0 or another whole number")
    network = random_network(architecture, int(digits))
    return Loaded(network, architecture, Source(kind="random", name=f"{RANDOM}{int(digits)}"))


def random_network(architecture: Architecture, seed: int) -> nn.Module:
    """A network that tells images apart, so that comparing its answers means something.

    He initialisation; random BatchNorm scale and shift; BatchNorm statistics those of a few sample images, disturbed,
    so that activations keep their size through any depth; a head scaled so that logits of two images differ by about 1.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        network = architecture.build(architecture.classes, architecture.channels)
    network = network.to_empty(device="cpu").double().eval()
    _initialise(network, generator)
    images = torch.from_numpy(sample_images(8, architecture.input.size, architecture.channels, seed))
    _calibrate(Normalize(network, architecture.mean, architecture.std).double(), architecture.head, images, generator)
    return assign(architecture, {key: value.float() for key, value in network.state_dict().items()})


@torch.no_grad()
def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1, generator=generator)
        elif isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, std=0.2, generator=generator)
            module.reset_running_stats()
    for block in network.modules():
        norms = [child for child in block.children() if isinstance(child, _BatchNorm)]
        if len(norms) > 1:  # the last of a residual branch: at full scale, depth makes a chaos of rounding errors
            norms[-1].weight.mul_(0.3)


@torch.no_grad()
def _calibrate(network: Normalize, head: str, images: torch.Tensor, generator: torch.Generator) -> None:
    """Sets each BatchNorm's statistics, then the head, from what reaches them; one pass, from the input onwards."""

    def normalise(norm: _BatchNorm, inputs: tuple[torch.Tensor]) -> None:
        assert norm.running_mean is not None  # noqa: S101 random networks keep statistics
        assert norm.running_var is not None  # noqa: S101 likewise
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3))
        noise = torch.randn(2, len(mean), generator=generator, dtype=mean.dtype)
        norm.running_mean.copy_(mean + 0.1 * noise[0] * variance.sqrt())
        norm.running_var.copy_(variance * (0.2 * noise[1]).exp() + 1e-4)

    def spread(linear: nn.Linear, inputs: tuple[torch.Tensor]) -> None:
        logits = inputs[0] @ linear.weight.T
        between_two = (logits - logits.roll(1, 0)).square().mean().sqrt()
        linear.weight /= between_two
        noise = torch.randn(len(linear.bias), generator=generator, dtype=linear.bias.dtype)
        linear.bias.copy_(0.1 * noise - logits.mean(0) / between_two)

    hooks = [m.register_forward_pre_hook(normalise) for m in network.modules() if isinstance(m, _BatchNorm)]
    hooks += [network.network.get_submodule(head.rpartition(".")[0]).register_forward_pre_hook(spread)]
    network(images)
    for hook in hooks:
        hook.remove()
