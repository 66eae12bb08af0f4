"""The Open Inference Protocol v2 with Triton's extensions, as docs/oip.md says."""

import asyncio
import time
from importlib.metadata import version as installed
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from service.api import body, v2_codec, v2_names
from service.api.context import CLIENT_CLOSED_REQUEST, RegistryDep, SettingsDep
from service.api.errors import documented
from service.api.gate import caller_of
from service.api.left import unless_left
from service.api.v2_infer import Body, Inferred, infer
from service.api.v2_types import ModelConfig, ModelMetadata, ModelReady, ServerMetadata
from service.errors import ModelNotFoundError, ModelNotReadyError
from service.logs import Told
from service.statistics import Statistics
from service.work import Bounds

router = APIRouter(tags=["open inference protocol"])

EXTENSIONS = [
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
]
"""What is done here, and nothing else: clients ask for what is listed."""

HEAD = 16 << 10
"""Bytes beside an image: the JSON before it."""

JSON_LENGTH = "Inference-Header-Content-Length"

NOT_READY = 400
"""The protocol's own for its probes."""


def _number(version: str | None = None) -> int | None:
    """The version in the path; Triton's are digits too."""
    if version is None:
        return None
    if not (version.isascii() and version.isdecimal() and len(version) < 10):  # noqa: PLR2004 versions are below 10^9
        raise ModelNotFoundError("a version is a number, such as 1; GET /v2/models/NAME lists them")
    return int(version)


async def _statistics(request: Request) -> Statistics:
    found: Statistics = request.app.state.statistics
    return found


VersionDep = Annotated[int | None, Depends(_number)]
StatisticsDep = Annotated[Statistics, Depends(_statistics)]


@router.get("/v2")
async def describe_server() -> ServerMetadata:
    """Which extensions there are."""
    return ServerMetadata(version=installed("multicrop"), extensions=EXTENSIONS)


@router.get("/v2/health/live")
async def live() -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@router.get("/v2/health/ready")
async def ready(request: Request, registry: RegistryDep) -> Response:
    """As /readyz."""
    serves = not request.app.state.draining and registry.state == "ready"
    return JSONResponse({"ready": serves}, 200 if serves else NOT_READY)


@router.get("/v2/models/{name}/ready", responses=documented(404))
@router.get("/v2/models/{name}/versions/{version}/ready", responses=documented(404))
async def model_ready(name: str, number: VersionDep, registry: RegistryDep) -> Response:
    """Whether requests for it would be answered."""
    try:
        v2_names.find(registry, name, number)
    except ModelNotReadyError:
        return JSONResponse(ModelReady(name=name, ready=False).model_dump(), NOT_READY)
    return JSONResponse(ModelReady(name=name, ready=True).model_dump())


@router.get("/v2/models/{name}", responses=documented(404, 503))
@router.get("/v2/models/{name}/versions/{version}", responses=documented(404, 503))
async def describe_model(name: str, number: VersionDep, registry: RegistryDep) -> ModelMetadata:
    """The tensors that go in and come out."""
    return v2_names.metadata(v2_names.find(registry, name, number), v2_names.versions(registry, name))


@router.get("/v2/models/{name}/config", responses=documented(404, 503))
@router.get("/v2/models/{name}/versions/{version}/config", responses=documented(404, 503))
async def configure_model(name: str, number: VersionDep, registry: RegistryDep) -> ModelConfig:
    """The same as Triton's configuration."""
    return v2_names.config(v2_names.find(registry, name, number))


_INFER: dict[str, Any] = {
    "response_class": Response,
    "responses": documented(400, 401, 403, 404, 413, 415, 422, 429, 500, 501, 503, 504),
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "description": "JSON; or JSON and the bytes of tensors; or, with that length 0, an image.",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
}


@router.post("/v2/models/{name}/infer", **_INFER)
@router.post("/v2/models/{name}/versions/{version}/infer", **_INFER)
async def infer_model(
    name: str,
    number: VersionDep,
    request: Request,
    registry: RegistryDep,
    settings: SettingsDep,
    statistics: StatisticsDep,
) -> Response:
    """Classify tensors (NAME) or one encoded image (NAME-PLAN)."""
    named = v2_names.find(registry, name, number)
    told: Told = request.state.told
    told.model, told.version, told.plan = named.found.name, named.found.version, named.plan
    started, inferred = time.monotonic(), None
    try:
        limit = settings.max_image_bytes + HEAD if named.tensors is None else settings.max_body_bytes
        content = await _read(request, limit)
        bounds = Bounds(settings.image_limits, settings.max_gmacs, settings.timeout, caller_of(request).charge)
        inferred = await unless_left(request, infer(named, content, bounds))
    finally:
        seconds = time.monotonic() - started
        if inferred is None:
            statistics.failed(name, named.version, seconds)
        else:
            ran = inferred.ran
            statistics.succeeded(name, named.version, ran.images, seconds, inferred.stages)
            told.images, told.views = ran.images, ran.views
            told.parts.append(ran.seconds)
    return Response(status_code=CLIENT_CLOSED_REQUEST) if inferred is None else _respond(inferred)


async def _read(request: Request, limit: int) -> Body:
    """The body, unpacked. Its content type is not looked at: tritonclient sends none."""
    packed = await body.read(request, limit)
    encoding = request.headers.get("content-encoding")
    content = await asyncio.to_thread(v2_codec.inflate, packed, encoding, limit) if encoding else packed
    request.state.hold(len(content))
    return Body(content, v2_codec.header_length(request.headers.get(JSON_LENGTH), len(content)))


def _respond(inferred: Inferred) -> Response:
    if inferred.json is None:
        return Response(inferred.content, media_type="application/json")
    return Response(inferred.content, headers={JSON_LENGTH: str(inferred.json)}, media_type="application/octet-stream")
