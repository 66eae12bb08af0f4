"""What is served: models, their versions, and the view plans."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from bundle.manifest import Manifest
from bundle.views import PLANS, Size
from service.api.context import RegistryDep
from service.api.errors import documented
from service.registry import State

router = APIRouter(tags=["models"])

_EXAMPLE = Size(500, 375)


class ModelVersion(BaseModel):
    """A version and whether it answers."""

    version: int = Field(examples=[1])
    state: State
    digest: str | None = None
    """sha256 of the bundle's manifest."""
    reason: str | None = None
    """Why it does not answer."""


class Model(BaseModel):
    name: str = Field(examples=["resnet50"])
    versions: list[ModelVersion]


class ModelDetail(Model):
    """The version that answers when none is named."""

    version: int
    provider: str = Field(examples=["cpu"])
    max_batch_size: int
    """In views."""
    views: list[str]
    labels: list[str]
    manifest: Manifest


class Plan(BaseModel):
    name: str = Field(examples=["ten_crop"])
    description: str
    views: int = Field(examples=[10])
    """Views of a 500 x 375 image."""


@router.get("/v1/models")
async def list_models(registry: RegistryDep) -> list[Model]:
    """Every model of the repository, with the reason where one does not serve."""
    return [Model(name=name, versions=_versions(registry, name)) for name in registry.index()]


@router.get("/v1/models/{name}", responses=documented(404, 503))
async def describe_model(name: str, registry: RegistryDep) -> ModelDetail:
    """What a model is: input, classes, labels, parity with torch, accuracy, valid view plans."""
    model = registry.get(name)
    return ModelDetail(
        name=name,
        versions=_versions(registry, name),
        version=model.version,
        provider=model.backend.provider,
        max_batch_size=model.backend.max_batch_size,
        views=model.plans,
        labels=list(model.labels),
        manifest=model.manifest,
    )


@router.get("/v1/views")
async def list_views() -> list[Plan]:
    """Every view plan."""
    return [
        Plan(name=name, description=plan.__doc__ or "", views=len(plan(_EXAMPLE, Size(224, 224), 256)))
        for name, plan in PLANS.items()
    ]


def _versions(registry: RegistryDep, name: str) -> list[ModelVersion]:
    return [
        ModelVersion(
            version=number,
            state=found.state,
            digest=found.model.digest if found.model else None,
            reason=found.reason or None,
        )
        for number, found in registry.index()[name].items()
    ]
