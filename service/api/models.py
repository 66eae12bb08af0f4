"""What is served: models, their versions, ensembles."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from bundle.manifest import Manifest
from service.api.context import RegistryDep
from service.api.errors import documented
from service.ensemble import Ensemble
from service.model import ServedModel
from service.registry import Line, State

router = APIRouter(tags=["models"])


class ModelVersion(BaseModel):
    """A version and whether it answers."""

    version: int | None = Field(examples=[1])
    """None of an ensemble."""
    state: State
    digest: str | None = None
    """sha256 of the bundle's manifest."""
    reason: str | None = None
    """Why it does not answer; of one that answers, which of its plans or calibrations are left out, or why it is not
    what lies on the disk now."""


class Model(BaseModel):
    name: str = Field(examples=["resnet50"])
    versions: list[ModelVersion]
    aliases: dict[str, int] = Field({}, examples=[{"stable": 1}])
    """Other names of versions."""


class ModelDetail(Model):
    """One version: the one asked for, or the one that answers when none is named."""

    version: int
    provider: str = Field(examples=["cpu"])
    devices: tuple[str, ...] = Field(examples=[("cuda:0", "cuda:1")])
    """Of each session."""
    max_batch_size: int
    """In views."""
    views: list[str]
    """The view plans that it can run, of those that the operator offers."""
    default_views: str
    """The plan of requests that name none."""
    refused_views: dict[str, str]
    """Why it cannot run the others; empty where the operator lists those on offer."""
    calibrated_views: list[str]
    """The plans that stop=confident may be asked of."""
    labels: list[str]
    manifest: Manifest


class MemberDetail(BaseModel):
    model: str = Field(examples=["resnet50"])
    version: int = Field(examples=[1])
    digest: str
    weight: float = Field(examples=[0.5])
    views: str = Field(examples=["ten_crop"])
    """Its plan for requests that name none."""


class EnsembleDetail(Model):
    """Several models that answer as one."""

    digest: str
    """sha256 of the members' digests, weights, plans and averages."""
    members: list[MemberDetail]
    partial: bool
    """Whether the others answer when a member fails."""
    labels: list[str]


@router.get("/v1/models")
async def list_models(registry: RegistryDep) -> list[Model]:
    """Every model of the repository, with the reason where one does not serve."""
    index = registry.index()
    return [Model(name=name, versions=_told(line), aliases=registry.aliases(name)) for name, line in index.items()]


@router.get("/v1/models/{name}", responses=documented(404, 422, 503))
async def describe_model(
    name: str, registry: RegistryDep, version: Annotated[str | None, Query()] = None
) -> ModelDetail | EnsembleDetail:
    """What a model is: input, classes, labels, parity with torch, accuracy, view plans. Or who is in an ensemble."""
    found = registry.get(name, version)
    versions = _told(registry.index().get(name, {}))
    if isinstance(found, Ensemble):
        return _ensemble(found, versions)
    return _model(found, versions, registry.aliases(name))


def _model(model: ServedModel, versions: list[ModelVersion], aliases: dict[str, int]) -> ModelDetail:
    return ModelDetail(
        name=model.name,
        versions=versions,
        aliases=aliases,
        version=model.version,
        provider=model.engine.provider,
        devices=model.engine.devices,
        max_batch_size=model.engine.max_batch_size,
        views=list(model.wishes.plans),
        default_views=model.wishes.serving.views,
        refused_views=model.wishes.refused,
        calibrated_views=model.wishes.calibrated,
        labels=list(model.labels),
        manifest=model.manifest,
    )


def _ensemble(ensemble: Ensemble, versions: list[ModelVersion]) -> EnsembleDetail:
    members = [
        MemberDetail(
            model=member.model.name,
            version=member.model.version,
            digest=member.model.digest,
            weight=member.weight,
            views=member.views,
        )
        for member in ensemble.members
    ]
    return EnsembleDetail(
        name=ensemble.name,
        versions=versions,
        digest=ensemble.digest,
        members=members,
        partial=ensemble.partial,
        labels=list(ensemble.labels),
    )


def _told(line: Line) -> list[ModelVersion]:
    return [
        ModelVersion(
            version=number,
            state=found.state,
            digest=found.model.digest if found.model else None,
            reason=found.reason or None,
        )
        for number, found in line.items()
    ]
