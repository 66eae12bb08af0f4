"""What a view plan looks at, without running anything."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from bundle.plans import PUBLISHED
from bundle.preprocess import ImageLimits, check_size
from bundle.views import Size
from service.answer import Shown
from service.api.context import RegistryDep, SettingsDep
from service.api.errors import documented
from service.ensemble import Ensemble
from service.errors import InvalidParameterError
from service.model import ServedModel
from service.work import Asked, over_limit

router = APIRouter(tags=["views"])


class PublishedPlan(BaseModel):
    name: str = Field(examples=["ten_crop"])
    description: str
    views: int = Field(examples=[10])


class ImageSize(BaseModel):
    """The query: of the upright image, in pixels."""

    model_config = ConfigDict(extra="forbid")

    width: int = Field(ge=1, le=65535, examples=[500])
    height: int = Field(ge=1, le=65535, examples=[375])
    version: str | None = Field(None, description="A number or an alias; the newest that serves when left out.")


class Geometry(BaseModel):
    """The views of an image of one size."""

    model: str = Field(examples=["resnet50"])
    version: int = Field(examples=[1])
    plan: str = Field(examples=["ten_crop"])
    source: str
    """What the plan is and who published it."""
    image: tuple[int, int] = Field(examples=[(500, 375)])
    """Width, height."""
    planned: int = Field(examples=[10])
    """Views of the plan."""
    computed: int = Field(examples=[10])
    """Views that differ, each of which is run once."""
    gmacs: float = Field(examples=[40.9])
    """10^9 multiply-adds of those."""
    refusal: str | None
    """Why a request for it would be answered with 422 `work_limit`."""
    views: list[Shown]


@router.get("/v1/views")
async def list_views() -> list[PublishedPlan]:
    """Every published view plan. A model may have others of its own; `GET /v1/models/{name}` says which it can run."""
    return [PublishedPlan(name=name, description=plan.source, views=len(plan)) for name, plan in PUBLISHED.items()]


@router.get("/v1/models/{name}/views/{plan}", responses=documented(404, 422, 503))
async def show_views(
    name: str, plan: str, image: Annotated[ImageSize, Query()], registry: RegistryDep, settings: SettingsDep
) -> Geometry:
    """Where a plan's views of an image of that size lie and what they cost; nothing is run."""
    model = registry.get(name, image.version)
    if isinstance(model, Ensemble):
        members = ", ".join(dict.fromkeys(member.model.name for member in model.members))
        raise InvalidParameterError(f"{name} is an ensemble; ask for the views of its members: {members}")
    size = Size(image.width, image.height)
    return await asyncio.to_thread(_geometry, model, plan, size, settings.image_limits, settings.max_gmacs)


def _geometry(model: ServedModel, plan: str, image: Size, limits: ImageLimits, max_gmacs: float) -> Geometry:
    check_size(image, limits)
    work = model.work(Asked(views=plan), image)
    return Geometry(
        model=model.name,
        version=model.version,
        plan=work.choice.plan.name,
        source=work.choice.plan.source,
        image=image,
        planned=len(work.choice.plan),
        computed=len(work.views),
        gmacs=work.gmacs,
        refusal=over_limit([work], max_gmacs),
        views=[Shown.of(view) for view in work.views],
    )
