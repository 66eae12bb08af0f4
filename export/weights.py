"""Weights for a network: from a checkpoint, or random."""

import hashlib
import io
import logging
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from bundle.manifest import Source
from export import catalogue
from export.activations import CHOICES, activated
from export.architectures import ARCHITECTURES, Architecture
from export.download import default_cache
from export.errors import WeightsError
from export.random_weights import random_state

log = logging.getLogger(__name__)

State = dict[str, torch.Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts keep the weights among other things."""

ACTIVATION = "activation"
"""Beside the weights in the file of a run: the one in place of the network's own."""

PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
"""What DataParallel, Lightning and torch.compile put before every key."""

FORMATS = (".pth", ".th", ".pt", ".safetensors")

RANDOM = "random:"

V1 = "_v1"
"""Ends the names of the networks with the strides of the paper: `export/models/resnet.py`."""


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
        weights: a path, the name of a public file in the cache, or "random:SEED".
        classes: of a random network; the row's own when None. A checkpoint knows its own.

    Raises:
        WeightsError: the file cannot be read, or does not hold exactly this network, or is known to be of another.
    """
    if weights.startswith(RANDOM):
        return _load_random(architecture.shaped(classes or architecture.classes, architecture.channels), weights)
    path = locate(weights)
    content = _read(path)
    digest = hashlib.sha256(content).hexdigest()
    _require_of(architecture, path.name, digest)
    held = read_state(path.name, content)
    state = _without_auxiliary(architecture, unwrap(held))
    shaped = _activated(_shape(architecture, state), held.get(ACTIVATION))
    return Loaded(assign(shaped, state), shaped, Source(kind="file", name=path.name, sha256=digest))


def locate(weights: str) -> Path:
    """The path of a checkpoint: the one given, or that of a public file in the cache if there is no other of its name.

    Raises:
        WeightsError: it is the name of a public file that is not in the cache.
    """
    path = Path(weights)
    if path.exists() or catalogue.named(path.name) is None:
        return path
    if not (cached := default_cache() / path.name).exists():
        raise WeightsError(f"{path.name} is not here; multicrop-export weights fetch {path.name} downloads it")
    return cached


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


def _require_of(architecture: Architecture, name: str, digest: str) -> None:
    """Refuses a known file of another network; shapes alone would let some of them pass."""
    if architecture.name not in ARCHITECTURES:  # a network of the user's own, which may take public weights
        return
    row, claimed = catalogue.find(digest), catalogue.named(name)
    if row is None and claimed is not None:
        raise WeightsError(
            f"{name} is not the public file of this name: its sha256 begins with {digest[:8]}; "
            f"fetch it again, or rename it if it is yours"
        )
    if row is not None and row.network != architecture.name:
        raise WeightsError(f"{name} is the public {row.file} of {row.network}, not of {architecture.name}")
    if row is not None and row.top1 is None:
        raise WeightsError(f"{name} is the public {row.file}, which holds features and no usable classifier")
    if row is None and (twin := _twin(architecture.name)) in ARCHITECTURES:
        log.info(
            "%s halves the grid at the %s convolution of a block, %s at the other; their shapes are the same, so only "
            "whoever trained these weights knows which it is",
            architecture.name,
            "first 1x1" if architecture.name.endswith(V1) else "3x3",
            twin,
        )


def _twin(name: str) -> str:
    return name.removesuffix(V1) if name.endswith(V1) else name + V1


def _without_auxiliary(architecture: Architecture, state: State) -> State:
    """The weights without those of the heads that only training needs."""
    kept = {key: value for key, value in state.items() if not key.startswith(architecture.auxiliary)}
    if dropped := len(state) - len(kept):
        log.info("left out %d tensors of the auxiliary heads (%s)", dropped, ", ".join(architecture.auxiliary))
    return kept


def _shape(architecture: Architecture, state: State) -> Architecture:
    """The row with the classes and channels of the checkpoint; a key that is not there is reported with the others."""
    classes, channels = architecture.classes, architecture.channels
    if architecture.head in state and state[architecture.head].ndim:
        classes = state[architecture.head].shape[0]
    if architecture.stem in state and state[architecture.stem].ndim > 1:
        channels = architecture.channels_of(state[architecture.stem].shape)
    if channels not in (1, 3):
        raise WeightsError(f"{architecture.stem} takes {channels} channels; images have 1 (grey) or 3 (RGB)")
    return architecture.shaped(classes, channels)


def _activated(architecture: Architecture, activation: Any) -> Architecture:
    """The row with the activation that the file says; what others keep under that name is left alone."""
    if not isinstance(activation, str) or activation not in CHOICES:
        return architecture
    log.info("its activation is %s, as the file says", activation)
    return activated(architecture, activation)


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
    """A network with the weights of `random_weights.random_state`."""
    return assign(architecture, random_state(architecture, seed))
