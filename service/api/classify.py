"""POST /v1/models/{name}:classify"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from bundle.aggregate import Average
from service.answer import Fault, Prediction
from service.api import body
from service.api.context import CLIENT_CLOSED_REQUEST, RegistryDep, RequestIdDep, SettingsDep
from service.api.errors import Problem, documented, to_problem
from service.classify import check, classify
from service.errors import InvalidParameterError
from service.work import Asked, Bounds, Merge

router = APIRouter(tags=["classify"])


class Options(BaseModel):
    """The query."""

    model_config = ConfigDict(extra="forbid")

    views: str | None = Field(
        None,
        description="A view plan; GET /v1/models/{name} lists those of a model. Its default_views when left out.",
        examples=["ten_crop"],
    )
    average: Average | None = Field(
        None,
        description="The mean over the views: of probabilities, or of logits. When left out, what the operator or the "
        "plan says, or probabilities.",
    )
    stop: str | None = Field(
        None,
        description="Early exit: never; exact, when the views that are left cannot change the best class; confident, "
        "or confident:P, at the calibrated confidence P. What the operator says, or never, when left out.",
        examples=["exact"],
    )
    merge: Merge = Field(
        "identical",
        description="Which views are run once: identical ones, or also those that show nearly the same.",
    )
    detail: Literal["views"] | None = Field(None, description="views: tell of each view that was run.")
    top_k: int | None = Field(None, ge=1, description="Number of classes in the answer; 5 when left out.")
    version: int | None = Field(None, ge=1, description="Of the model; the newest one when left out.")

    def asked(self) -> Asked:
        return Asked(self.views, self.average, self.stop, self.merge, self.detail == "views", self.top_k)


class Results(BaseModel):
    """Of a multipart request: one answer or one problem for each file, in order."""

    results: list[Prediction | Problem]


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One encoded image as it is, or several files in the multipart field `images`.",
        "content": {
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/jpeg", "image/png")},
            "image/webp": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [body.FIELD],
                    "properties": {body.FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
        },
    }
}


@router.post(
    "/v1/models/{name}:classify",
    response_model=Prediction | Results,
    responses=documented(400, 404, 413, 415, 422, 500, 503, 504),
    openapi_extra=_BODY,
)
async def classify_image(
    name: str,
    options: Annotated[Options, Query()],
    request: Request,
    registry: RegistryDep,
    settings: SettingsDep,
    request_id: RequestIdDep,
) -> Response:
    """Classify one image, or several in one multipart body."""
    _require_single(request)
    found, asked = registry.get(name, options.version), options.asked()
    check(found, asked)
    body.check_media_type(request)
    one = functools.partial(
        classify,
        found,
        asked=asked,
        bounds=Bounds(settings.image_limits, settings.max_gmacs, settings.timeout),
        explain=_explain,
        request_id=request_id,
    )
    if body.is_multipart(request):
        images = await body.read_images(request, settings.max_body_bytes, settings.max_image_bytes, settings.max_images)
        return await _unless_left(request, _each(one, images, request_id))
    return await _unless_left(request, one(await body.read(request, settings.max_image_bytes)))


def _explain(error: Exception) -> Fault:
    told = to_problem(error, "")
    return Fault(code=told.code, detail=told.detail)


def _require_single(request: Request) -> None:
    keys = [key for key, _ in request.query_params.multi_items()]
    if len(keys) > len(set(keys)):
        raise InvalidParameterError("an option stands in the query twice; give each once")


async def _each(one: Callable[[bytes], Awaitable[Prediction]], images: list[bytes], request_id: str) -> Results:
    """A bad image costs its own answer only."""
    found = await asyncio.gather(*map(one, images), return_exceptions=True)
    results: list[Prediction | Problem] = []
    for item in found:
        if isinstance(item, Prediction):
            results.append(item)
        elif isinstance(item, Exception):
            results.append(to_problem(item, request_id))
        else:  # a cancellation
            raise item
    return Results(results=results)


async def _unless_left(request: Request, work: Coroutine[Any, Any, BaseModel]) -> Response:
    """The answer as JSON; when the client leaves first, the work is cancelled and its views leave the queue."""
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return Response(task.result().model_dump_json(), media_type="application/json")
    finally:
        task.cancel()
        left.cancel()


async def _left(request: Request) -> None:
    """Returns when the client has closed the connection; its body is read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
