"""POST /v1/models/{name}:classify"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, RootModel

from bundle.aggregate import Average
from service.answer import Fault, Prediction
from service.api import body
from service.api.context import CLIENT_CLOSED_REQUEST, RegistryDep, RequestIdDep, SettingsDep
from service.api.errors import Problem, documented, to_problem
from service.api.gate import caller_of
from service.api.hot import HotRoute
from service.api.left import unless_left
from service.classify import check, classify
from service.errors import InvalidParameterError
from service.logs import Told
from service.settings import Settings
from service.work import Asked, Bounds, Merge

router = APIRouter(tags=["classify"], route_class=HotRoute)


class Options(BaseModel):
    """The query."""

    model_config = ConfigDict(extra="forbid", frozen=True)  # it is remembered

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
    format: Literal["labels"] | None = Field(
        None, description="labels: a plain list of label and score, as Hugging Face's pipelines answer."
    )
    top_k: int | None = Field(None, ge=1, description="Number of classes in the answer; 5 when left out.")
    version: str | None = Field(
        None,
        description="A number, or an alias of the operator's; the newest that serves when left out.",
        examples=["2"],
    )

    timeout_ms: int | None = Field(
        None, ge=1, description="Milliseconds until the answer is of no use; at most, and by default, the operator's."
    )
    priority: int | None = Field(
        None,
        ge=-1,
        le=1,
        description="Of the views among those that wait: 1 before, -1 after those of other requests. What the operator "
        "says, or 0, when left out.",
    )

    def asked(self) -> Asked:
        detail = self.detail == "views"
        return Asked(self.views, self.average, self.stop, self.merge, detail, self.top_k, self.priority)

    def timeout(self, usual: float | None, most: float) -> float:
        """In seconds; raises InvalidParameterError when it is more than the operator allows."""
        if self.timeout_ms is None:
            return usual or most
        if self.timeout_ms > 1000 * most:
            raise InvalidParameterError(f"timeout_ms has to be at most {1000 * most:g}, the server's own limit")
        return self.timeout_ms / 1000


class Results(BaseModel):
    """Of several images: one answer or one problem for each, in order."""

    results: list[Prediction | Problem]


class Label(BaseModel):
    label: str = Field(examples=["tabby cat"])
    score: float = Field(ge=0, le=1, examples=[0.83])


class Labels(RootModel[list[Label]]):
    """With format=labels: the most probable classes, the best first."""

    @classmethod
    def of(cls, prediction: Prediction) -> "Labels":
        return cls([Label(label=score.label, score=score.probability) for score in prediction.predictions])


class LabelResults(RootModel[list[Labels | Problem]]):
    """With format=labels, of several images."""

    @classmethod
    def of(cls, answers: Results) -> "LabelResults":
        return cls([Labels.of(each) if isinstance(each, Prediction) else each for each in answers.results])


def _only(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": [name], "properties": {name: schema}, "additionalProperties": False}


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One encoded image as it is, files in the multipart field `images`, or JSON with base64.",
        "content": {
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/jpeg", "image/png")},
            "image/webp": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {
                "schema": {
                    "oneOf": [
                        _only("image", {"type": "string", "format": "byte"}),
                        _only(body.FIELD, {"type": "array", "items": {"type": "string", "format": "byte"}}),
                    ]
                }
            },
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
    response_model=Prediction | Results | Labels | LabelResults,
    responses=documented(400, 401, 403, 404, 413, 415, 422, 429, 500, 503, 504),
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
    """Classify one image, or several in one multipart or JSON body."""
    found, asked = registry.get(name, options.version), options.asked()
    told: Told = request.state.told
    told.model, told.version = found.name, found.version
    check(found, asked)
    if options.format == "labels" and asked.detail:
        raise InvalidParameterError("format=labels has no place for detail; leave one of them out")
    body.check_encoding(request)
    timeout = options.timeout(found.usual_timeout, settings.timeout)
    one = functools.partial(
        classify,
        found,
        asked=asked,
        bounds=Bounds(settings.image_limits, settings.max_gmacs, timeout, caller_of(request).charge),
        explain=_explain,
        request_id=request_id,
    )
    sent = await _read(request, settings)
    told.images = len(sent) if isinstance(sent, list) else 1
    work = _each(one, sent, request_id, told) if isinstance(sent, list) else _alone(one, sent, told)
    return await _unless_left(request, _plain(work) if options.format == "labels" else work)


async def _read(request: Request, settings: Settings) -> bytes | list[bytes]:
    """One image, or several. The bytes of a raw body decide, whatever its type says: curl calls everything a form."""
    limits = settings.max_body_bytes, settings.max_image_bytes, settings.max_images
    if body.is_multipart(request):
        return await body.read_images(request, *limits)
    if body.is_json(request):
        return await body.read_json(request, *limits)
    return await body.read(request, settings.max_image_bytes)


def _explain(error: Exception) -> Fault:
    told = to_problem(error, "")
    return Fault(code=told.code, detail=told.detail)


async def _alone(one: Callable[[bytes], Awaitable[Prediction]], image: bytes, told: Told) -> Prediction:
    prediction = await one(image)
    told.answered(prediction)
    return prediction


async def _plain(work: Awaitable[Prediction | Results]) -> Labels | LabelResults:
    answer = await work
    return Labels.of(answer) if isinstance(answer, Prediction) else LabelResults.of(answer)


async def _each(
    one: Callable[[bytes], Awaitable[Prediction]], images: list[bytes], request_id: str, told: Told
) -> Results:
    """A bad image costs its own answer only."""
    found = await asyncio.gather(*map(one, images), return_exceptions=True)
    results: list[Prediction | Problem] = []
    for item in found:
        if isinstance(item, Prediction):
            told.answered(item)
            results.append(item)
        elif isinstance(item, Exception):
            problem = to_problem(item, request_id)
            told.refused(problem.code)
            results.append(problem)
        else:  # a cancellation
            raise item
    return Results(results=results)


async def _unless_left(request: Request, work: Coroutine[Any, Any, BaseModel]) -> Response:
    """The answer as JSON, or 499 for nobody."""
    answer = await unless_left(request, work)
    if answer is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return Response(answer.model_dump_json(), media_type="application/json")
