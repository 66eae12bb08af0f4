"""The repository for its operator: what is there, and looking at it again. Served only with `--admin`."""

import asyncio

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.api.context import RegistryDep
from service.api.errors import documented
from service.api.models import Model, list_models

router = APIRouter(tags=["repository"])


class RepositoryChange(BaseModel):
    """What a reload did to a version, or to an ensemble."""

    model: str = Field(examples=["resnet50"])
    version: int | None = Field(examples=[2])
    """None of an ensemble."""
    outcome: str = Field(examples=["loaded"])
    """loaded; changed: the same bundle, with what lies beside it now; refused; retired."""
    reason: str | None = None
    """Why it was refused."""


class Repository(BaseModel):
    models: list[Model]
    changes: list[RepositoryChange] = []
    """Of this reload, in order."""


@router.get("/v1/repository", responses=documented(401, 403))
async def show_repository(registry: RegistryDep) -> Repository:
    """Every model, version and ensemble, with the reason where one does not serve."""
    return Repository(models=await list_models(registry))


@router.post("/v1/repository/reload", responses=documented(401, 403, 503))
async def reload_repository(registry: RegistryDep) -> Repository:
    """Look at the repository again; the answer comes when everything is loaded, and requests are served meanwhile.

    What was refused before is tried again.
    """
    changes = await asyncio.wrap_future(registry.reload())
    told = [
        RepositoryChange(
            model=change.name, version=change.version, outcome=change.outcome, reason=change.reason or None
        )
        for change in changes
    ]
    return Repository(models=await list_models(registry), changes=told)
