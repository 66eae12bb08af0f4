"""The names of the Open Inference Protocol: NAME takes tensors, NAME-PLAN one encoded image.

An ensemble takes an encoded image under its own name too, with the plan of each member. A plan's name has no hyphen, so
what stands behind the last one of a name is the plan, if it is one. Where a model is called like another one's plan,
`registry` refuses it; should both be there, the model itself is meant.
"""

from dataclasses import dataclass

from service.api.v2_types import ConfigTensor, DynamicBatching, MetadataTensor, ModelConfig, ModelMetadata
from service.ensemble import Ensemble
from service.errors import InvalidParameterError, ModelNotFoundError, UnknownViewsError
from service.model import ServedModel
from service.registry import ModelRegistry
from service.tensors import MAX_ROWS
from service.work import Asked

PRIORITIES = {0: None, 1: 1, 2: 0, 3: -1}
"""Of the protocol (1 is the highest, 0 the operator's default) to the engine's, where higher is sooner."""

ENSEMBLE_VERSION = 1
"""An ensemble has none; the protocol wants a number."""

_TYPES = {"UINT8": "TYPE_UINT8", "FP32": "TYPE_FP32", "BYTES": "TYPE_STRING"}


@dataclass(frozen=True)
class Named:
    """What a name stands for."""

    name: str
    """As the client wrote it."""
    version: int
    found: ServedModel | Ensemble
    plan: str | None = None
    """Of an image; None of tensors, and of an ensemble whose members have their own."""

    @property
    def tensors(self) -> ServedModel | None:
        """The model, where it takes tensors."""
        return self.found if self.plan is None and isinstance(self.found, ServedModel) else None

    @property
    def inputs(self) -> list[MetadataTensor]:
        if self.tensors is None:
            return [MetadataTensor(name="image", datatype="BYTES", shape=[1])]
        wanted = self.tensors.manifest.input
        size = [-1, -1] if wanted.dynamic else [wanted.height, wanted.width]
        return [MetadataTensor(name="images", datatype="UINT8", shape=[-1, *size, wanted.channels])]

    @property
    def outputs(self) -> list[MetadataTensor]:
        classes = len(self.found.labels)
        if self.tensors is None:
            return [MetadataTensor(name="probabilities", datatype="FP32", shape=[classes])]
        names = ("logits", "probabilities")
        return [MetadataTensor(name=name, datatype="FP32", shape=[-1, classes]) for name in names]


def find(registry: ModelRegistry, name: str, version: int | None) -> Named:
    """What the name stands for, in the version asked for or the newest that serves.

    Raises:
        ModelNotFoundError: no such model, version or plan.
        ModelNotReadyError: it is loading, or was refused.
    """
    try:
        return _named(name, _get(registry, name, version))
    except ModelNotFoundError as error:
        base, _, plan = name.rpartition("-")
        try:
            found = _get(registry, base, version)
        except ModelNotFoundError:
            raise error from None
    try:
        found.check(Asked(views=plan))
    except UnknownViewsError as error:
        raise ModelNotFoundError(f"there is no model {name[:64]!a}: {error}") from error
    return _named(name, found, plan)


def versions(registry: ModelRegistry, name: str) -> list[int]:
    """Those that serve under that name, the oldest first; none where there is no such name."""
    known = registry.index()
    line = known.get(name) or known.get(name.rpartition("-")[0], {})
    return [number or ENSEMBLE_VERSION for number, found in line.items() if found.model is not None]


def metadata(named: Named, served: list[int]) -> ModelMetadata:
    """Of a model, with all versions that serve."""
    return ModelMetadata(name=named.name, versions=list(map(str, served)), inputs=named.inputs, outputs=named.outputs)


def config(named: Named) -> ModelConfig:
    """Where tensors are taken in batches, the first dimension is left out, as Triton does."""
    batched = named.tensors is not None
    return ModelConfig(
        name=named.name,
        max_batch_size=MAX_ROWS if batched else 0,
        input=[_config(tensor, batched) for tensor in named.inputs],
        output=[_config(tensor, batched) for tensor in named.outputs],
        dynamic_batching=DynamicBatching(priority_levels=3, default_priority_level=_usual_level(named)),
    )


def _usual_level(named: Named) -> int:
    """What the protocol's 0 stands for; the members of an ensemble each have their own, most often 2."""
    usual = named.found.wishes.serving.priority if isinstance(named.found, ServedModel) else 0
    return next(level for level, priority in PRIORITIES.items() if priority == usual)


def _get(registry: ModelRegistry, name: str, version: int | None) -> ServedModel | Ensemble:
    try:
        return registry.get(name, version)
    except InvalidParameterError as error:
        if version != ENSEMBLE_VERSION:
            raise ModelNotFoundError(f"{name} is an ensemble, whose only version is {ENSEMBLE_VERSION}") from error
    return registry.get(name)


def _named(name: str, found: ServedModel | Ensemble, plan: str | None = None) -> Named:
    return Named(name, found.version or ENSEMBLE_VERSION, found, plan)


def _config(tensor: MetadataTensor, batched: bool) -> ConfigTensor:
    dims = tensor.shape[1:] if batched else tensor.shape
    return ConfigTensor.model_validate({"name": tensor.name, "data_type": _TYPES[tensor.datatype], "dims": dims})
