"""The statistics extension's documents."""

from typing import Self

from pydantic import BaseModel

from service.api import v2_names
from service.api.v2_names import Named
from service.errors import ModelNotFoundError, ModelNotReadyError
from service.model import ServedModel
from service.registry import ModelRegistry
from service.statistics import Duration, Statistics, Tally


class StatisticDuration(BaseModel):
    count: int = 0
    ns: int = 0

    @classmethod
    def of(cls, duration: Duration) -> Self:
        return cls(count=duration.count, ns=duration.ns)


class InferStatistics(BaseModel):
    success: StatisticDuration
    fail: StatisticDuration
    queue: StatisticDuration
    compute_input: StatisticDuration
    compute_infer: StatisticDuration
    compute_output: StatisticDuration
    cache_hit: StatisticDuration = StatisticDuration()
    """There is no cache."""
    cache_miss: StatisticDuration = StatisticDuration()


class BatchStatistics(BaseModel):
    """Device batches of one size, in views, whoever's they were."""

    batch_size: int
    compute_input: StatisticDuration
    """Counted; its time is that of the requests, since pixels are drawn by image."""
    compute_infer: StatisticDuration
    compute_output: StatisticDuration


class VersionStatistics(BaseModel):
    name: str
    version: str
    last_inference: int
    """Milliseconds since 1970; 0 before the first."""
    inference_count: int
    """Images."""
    execution_count: int
    """Device batches of this version, whoever's they were; of an ensemble, images."""
    inference_stats: InferStatistics
    response_stats: dict[str, object] = {}
    batch_stats: list[BatchStatistics]
    memory_usage: list[object] = []


class ModelStatistics(BaseModel):
    model_stats: list[VersionStatistics]


def tell(registry: ModelRegistry, statistics: Statistics, names: list[str], version: int | None) -> ModelStatistics:
    """Of the versions that serve under those names; of one version when it is given."""
    told = []
    for name in names:
        for number in v2_names.versions(registry, name) if version is None else [version]:
            try:
                named = v2_names.find(registry, name, number)
            except (ModelNotFoundError, ModelNotReadyError):  # gone since, or without that plan
                continue
            told.append(_version(named, statistics.of(name, number)))
    return ModelStatistics(model_stats=told)


def _version(named: Named, tally: Tally) -> VersionStatistics:
    batches = _batches(named)
    executions = sum(duration.count for duration in batches.values())
    return VersionStatistics(
        name=named.name,
        version=str(named.version),
        last_inference=tally.last_inference,
        inference_count=tally.inference_count,
        execution_count=executions if isinstance(named.found, ServedModel) else tally.inference_count,
        inference_stats=_stages(tally),
        batch_stats=[_batch(size, duration) for size, duration in batches.items()],
    )


def _stages(tally: Tally) -> InferStatistics:
    of = StatisticDuration.of
    return InferStatistics(
        success=of(tally.success),
        fail=of(tally.fail),
        queue=of(tally.queue),
        compute_input=of(tally.compute_input),
        compute_infer=of(tally.compute_infer),
        compute_output=of(tally.compute_output),
    )


def _batches(named: Named) -> dict[int, Duration]:
    return named.found.engine.batches if isinstance(named.found, ServedModel) else {}


def _batch(size: int, duration: Duration) -> BatchStatistics:
    none = StatisticDuration(count=duration.count)
    return BatchStatistics(
        batch_size=size, compute_input=none, compute_infer=StatisticDuration.of(duration), compute_output=none
    )
