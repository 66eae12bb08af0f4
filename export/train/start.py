"""The network that a training begins with: fresh, or a checkpoint's, with a new head where the classes are others."""

import logging
from dataclasses import dataclass

from pydantic import JsonValue
from torch import nn

from export.activations import activated
from export.architectures import Architecture
from export.errors import ExportError
from export.overrides import as_published
from export.train.initialise import initialise
from export.train.recipe import Recipe
from export.weights import Loaded, State, assign, load

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    network: nn.Module
    """With auxiliary heads where the recipe wants them."""
    architecture: Architecture
    """Shaped to the classes; builds the network as it is published."""
    origin: dict[str, JsonValue] | None
    """The checkpoint it begins with, for the manifest."""

    def finish(self, state: State) -> nn.Module:
        """The network as it is published, without auxiliary heads, in eval mode."""
        auxiliary = self.architecture.auxiliary
        return assign(
            self.architecture, {key: value.cpu() for key, value in state.items() if not key.startswith(auxiliary)}
        )


def begin(architecture: Architecture, recipe: Recipe, classes: int, weights: str | None = None) -> Start:
    """The network to train; what is random comes from torch's global generator.

    Args:
        architecture: the network's row.
        recipe: says how the weights begin, and what is different in the network.
        classes: of the data.
        weights: a checkpoint's file, or none.

    Raises:
        ExportError: the recipe asks for what the network does not have; the checkpoint is not the network's.
    """
    loaded = None if weights is None else load(architecture, weights)
    if loaded is not None:
        architecture = as_published(loaded.architecture, loaded.source)
    row = architecture.shaped(classes, architecture.channels)
    if recipe.activation is not None:
        row = activated(row, recipe.activation)
    heads = {"auxiliary": True} if recipe.auxiliary and row.auxiliary else {}
    network = row.build(row.classes, row.channels, **heads)
    initialise(network, recipe.initialisation, row.name)
    if recipe.dropout is not None:
        _set_dropout(network, recipe.dropout, row)
    origin = None if loaded is None else _take(network, loaded, row)
    return Start(network, row, origin)


def _take(network: nn.Module, loaded: Loaded, row: Architecture) -> dict[str, JsonValue]:
    """Copies a checkpoint's weights, but for a head of other classes."""
    state = loaded.network.state_dict()
    head = row.head.rpartition(".")[0] + "."
    fresh = loaded.architecture.classes != row.classes
    kept = {key: value for key, value in state.items() if not (fresh and key.startswith(head))}
    network.load_state_dict(kept, strict=False)  # `load` has compared all keys; heads alone are missing
    log.info(
        "%s has %d classes, the data %d: the head (%s) %s",
        loaded.source.name,
        loaded.architecture.classes,
        row.classes,
        head.rstrip("."),
        "begins anew" if fresh else "is kept",
    )
    origin: dict[str, JsonValue] = {"weights": loaded.source.name, "sha256": loaded.source.sha256}
    if loaded.architecture.activation is not None:
        origin["activation"] = loaded.architecture.activation
    return {**origin, "head": "new" if fresh else "kept"}


def _set_dropout(network: nn.Module, dropout: float, row: Architecture) -> None:
    layers = [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.Dropout) and not f"{name}.".startswith(row.auxiliary or ("\n",))
    ]
    if not layers and dropout:
        raise ExportError(f"{row.name} has no dropout layer; leave dropout out of the recipe")
    for layer in layers:
        layer.p = dropout
