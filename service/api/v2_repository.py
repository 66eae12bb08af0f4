"""The rest of the Open Inference Protocol: the repository, statistics, and what is not done here."""

import asyncio

from fastapi import APIRouter, Request

from service.api import body, v2_codec, v2_names
from service.api.context import RegistryDep, SettingsDep
from service.api.errors import documented
from service.api.v2 import StatisticsDep, VersionDep
from service.api.v2_statistics import ModelStatistics, tell
from service.api.v2_types import ControlRequest, IndexRequest, RepositoryModel
from service.errors import UnsupportedError
from service.settings import Settings

router = APIRouter(tags=["open inference protocol"])

MAX_BYTES = 64 << 10
"""Of a request about the repository."""


@router.post("/v2/repository/index", responses=documented(400))
async def index(request: Request, registry: RegistryDep) -> list[RepositoryModel]:
    """Every version of every model, and every ensemble, with the reason where one does not serve."""
    content = await body.read(request, MAX_BYTES)
    asked = v2_codec.read(IndexRequest, content) if content else IndexRequest()
    return [
        RepositoryModel(
            name=name, version=str(number or v2_names.ENSEMBLE_VERSION), state=found.state, reason=found.reason
        )
        for name, line in registry.index().items()
        for number, found in line.items()
        if found.state == "READY" or not asked.ready
    ]


@router.post("/v2/repository/models/{name}/load", responses=documented(400, 404, 409, 501, 503))
async def load(name: str, request: Request, registry: RegistryDep, settings: SettingsDep) -> dict[str, str]:
    """Load a model that is in the repository, or bring it up to date."""
    await _permit(request, settings)
    await asyncio.wrap_future(registry.load(name))
    return {}


@router.post("/v2/repository/models/{name}/unload", responses=documented(400, 404, 501))
async def unload(name: str, request: Request, registry: RegistryDep, settings: SettingsDep) -> dict[str, str]:
    """End a model once its requests in flight are answered."""
    await _permit(request, settings)
    await asyncio.wrap_future(registry.unload(name))
    return {}


@router.get("/v2/models/stats")
async def all_statistics(registry: RegistryDep, statistics: StatisticsDep) -> ModelStatistics:
    """Of every model, and of every NAME-PLAN that was asked."""
    names = sorted({*registry.index(), *(name for name, _ in statistics.names())})
    return tell(registry, statistics, names, None)


@router.get("/v2/models/{name}/stats", responses=documented(404, 503))
@router.get("/v2/models/{name}/versions/{version}/stats", responses=documented(404, 503))
async def model_statistics(
    name: str, number: VersionDep, registry: RegistryDep, statistics: StatisticsDep
) -> ModelStatistics:
    """Counts and nanoseconds of each version that serves, or of the one asked for."""
    v2_names.find(registry, name, number)
    return tell(registry, statistics, [name], number)


async def not_done() -> None:
    """Shared memory, trace and logging: not done here."""
    raise UnsupportedError("this extension is not done here; GET /v2 lists those that are")


for _path in (
    "/v2/systemsharedmemory/{rest:path}",
    "/v2/cudasharedmemory/{rest:path}",
    "/v2/models/{name}/trace/setting",
    "/v2/trace/setting",
    "/v2/logging",
):
    for _method in ("GET", "POST"):
        router.add_api_route(_path, not_done, methods=[_method], responses=documented(501))


async def _permit(request: Request, settings: Settings) -> None:
    """Raises UnsupportedError: the operator has not allowed it, or a model is sent along."""
    content = await body.read(request, MAX_BYTES)
    if not settings.admin:
        raise UnsupportedError("loading and unloading are off; the operator turns them on with --admin")
    asked = v2_codec.read(ControlRequest, content) if content else ControlRequest()
    if any(name == "config" or name.startswith("file:") for name in asked.parameters):
        raise UnsupportedError("models and configurations are not taken over HTTP; put them into the repository")
