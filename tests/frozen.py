"""A network with random weights, in torch and as a graph."""

from dataclasses import dataclass

from export.architectures import find
from export.fold import fold_batchnorm
from export.graph import Normalize, serialize, to_onnx
from export.weights import Loaded, load


@dataclass(frozen=True)
class Frozen:
    loaded: Loaded
    reference: Normalize
    """The unfolded network in torch, with its normalisation."""
    model: bytes


def freeze(name: str, weights: str, classes: int | None = None) -> Frozen:
    loaded = load(find(name), weights, classes)
    architecture = loaded.architecture
    reference = Normalize(loaded.network, architecture.preprocessing).eval()
    folded, _ = fold_batchnorm(loaded.network)
    return Frozen(loaded, reference, serialize(to_onnx(folded, architecture)))
