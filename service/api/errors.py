"""The one table from errors to HTTP, and the problem documents that clients see (RFC 9457)."""

import math
import traceback
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from bundle.errors import BadImageError, ImageFormatError
from service import errors

STATUS: dict[type[Exception], tuple[int, str]] = {
    errors.JsonError: (400, "json_invalid"),
    errors.MultipartError: (400, "multipart_invalid"),
    errors.UnauthorizedError: (401, "unauthorized"),
    errors.ForbiddenError: (403, "forbidden"),
    errors.InferenceRequestError: (400, "request_invalid"),
    errors.InvalidTensorError: (400, "tensor_invalid"),
    errors.TensorSizeError: (400, "tensor_size_mismatch"),
    errors.ModelNotFoundError: (404, "model_not_found"),
    errors.LoadInProgressError: (409, "load_in_progress"),
    errors.BodyTooLargeError: (413, "body_too_large"),
    errors.TooManyImagesError: (413, "too_many_images"),
    errors.MediaTypeError: (415, "media_type_unsupported"),
    ImageFormatError: (415, "image_format_unsupported"),
    BadImageError: (422, "image_decode_failed"),  # each says its own code
    errors.InvalidParameterError: (422, "invalid_parameter"),
    errors.UnknownViewsError: (422, "unknown_views"),
    errors.WorkLimitError: (422, "work_limit"),
    errors.QuotaExceededError: (429, "rate_limited"),
    errors.BackendError: (500, "inference_failed"),
    errors.ModelOutputError: (500, "model_output_invalid"),
    errors.UnsupportedError: (501, "not_implemented"),
    errors.ModelNotReadyError: (503, "model_not_ready"),
    errors.QueueFullError: (503, "overloaded"),
    errors.ShuttingDownError: (503, "shutting_down"),
    errors.DeadlineExceededError: (504, "deadline_exceeded"),
}
"""Every error that a request can meet: its status and its code. Anything else is 500 `internal_error`."""

_HTTP_CODES = {404: "route_not_found", 405: "method_not_allowed"}
_MAX_FIELDS = 8


class Problem(BaseModel):
    """An error: `code` is one of a closed set, `detail` says what to do."""

    type: str = "about:blank"
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    code: str = Field(examples=["unknown_views"])
    detail: str = Field(examples=["resnet50 has no view plan 'eleven_crop'; it has center, ten_crop, ten_crop_square"])
    request_id: str


def to_problem(error: Exception, request_id: str) -> Problem:
    """What a client is told of an error: never a library's own words. Call it last, it frees what the error holds."""
    _release(error)
    for kind in type(error).__mro__:
        if kind in STATUS:
            status, code = STATUS[kind]
            code = error.code if isinstance(error, BadImageError) else code
            return problem(status, code, str(error), request_id)
    return problem(
        500, "internal_error", "the server failed; the log has the cause under this request's id", request_id
    )


def _release(error: BaseException | None) -> None:
    """Clears the frames that an error came through: they hold the image, in cycles that only the collector ends."""
    seen: set[int] = set()  # a chain of causes may lead back to its beginning
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def problem(status: int, code: str, detail: str, request_id: str) -> Problem:
    return Problem(title=HTTPStatus(status).phrase, status=status, code=code, detail=detail, request_id=request_id)


class ProblemResponse(JSONResponse):
    """Also tells its code to the request's line in the log; on /v2 it has `error`, all that its clients read."""

    def __init__(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        super().__init__(problem.model_dump(), problem.status, headers, "application/problem+json")
        self._code = problem.code
        self._error = {**problem.model_dump(), "error": problem.detail}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if told := scope.get("state", {}).get("told"):
            told.code = self._code
        if f"{scope['path']}/".startswith("/v2/"):
            self.body = self.render(self._error)
            self.headers["Content-Length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def respond(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    return ProblemResponse(problem, headers)


def refuse(request: Request, error: Exception) -> JSONResponse:
    """The answer to an error that this application knows."""
    headers = {"WWW-Authenticate": 'Bearer realm="multicrop"'} if isinstance(error, errors.UnauthorizedError) else {}
    return respond(to_problem(error, request.state.request_id), headers | retry_after(error))


def retry_after(error: Exception) -> dict[str, str]:
    """Retry-After in whole seconds, for what is over soon."""
    if isinstance(error, errors.QueueFullError | errors.QuotaExceededError):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    loading = isinstance(error, errors.ModelNotReadyError) and error.loading
    return {"Retry-After": "1"} if loading or isinstance(error, errors.ShuttingDownError) else {}


def install(app: FastAPI) -> None:
    """Makes every error of this application a problem document."""
    for kind in (*STATUS, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)


async def answer(request: Request, error: Exception) -> JSONResponse:
    """The problem document of an error; raises one that is none of this application again."""
    if isinstance(error, RequestValidationError):
        return _invalid(request, error)
    if isinstance(error, HTTPException):
        return _http(request, error)
    if isinstance(error, tuple(STATUS)):
        return refuse(request, error)
    raise error


def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """Names each parameter and what it should be; what was sent is not echoed."""
    found = error.errors()
    code = "unknown_parameter" if found[0]["type"] == "extra_forbidden" else "invalid_parameter"
    detail = "; ".join(f"{_name(item)} {_say(item)}" for item in found[:_MAX_FIELDS])
    return respond(problem(422, code, detail, request.state.request_id))


def _http(request: Request, error: HTTPException) -> JSONResponse:
    code = _HTTP_CODES.get(error.status_code, "bad_request")
    detail = {
        404: "there is nothing at this path; /docs lists the routes",
        405: "this path does not take this method; /docs lists the routes",
    }.get(error.status_code, "the request is not valid HTTP for this route")
    return respond(problem(error.status_code, code, detail, request.state.request_id), dict(error.headers or {}))


def _say(item: dict[str, Any]) -> str:
    """What is wrong with an option, in our words."""
    context = item.get("ctx", {})
    return {
        "extra_forbidden": "is no option of this route",
        "missing": "is missing",
        "greater_than_equal": f"has to be at least {context.get('ge')}",
        "less_than_equal": f"has to be at most {context.get('le')}",
        "int_parsing": "has to be a whole number",
        "int_from_float": "has to be a whole number",
        "literal_error": f"has to be one of {context.get('expected')}",
    }.get(item["type"], "has a value that is not accepted")


def _name(item: dict[str, Any]) -> str:
    return str(item["loc"][-1])[:64] if item["loc"] else "request"


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem answers of a route, for its OpenAPI page."""
    codes = {status: [code for number, code in STATUS.values() if number == status] for status in statuses}
    return {
        status: {
            "description": ", ".join(names) or HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
        }
        for status, names in codes.items()
    }
