"""What surrounds a request: its id, its measurement, and what routes are handed."""

import logging
import re
import time
import uuid
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import respond, to_problem
from service.logs import Told, log_request
from service.metrics import Metrics
from service.registry import ModelRegistry
from service.settings import Settings

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""Nobody reads it; the metrics count it (the number is nginx's)."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = {"GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"}


class RequestContext:
    """Pure ASGI, outermost of ours: gives the request an id, counts and times it, answers what nobody caught."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        state = scope.setdefault("state", {})
        told: Told = state.setdefault("told", Told(_request_id(Request(scope))))  # one when it is refused by now
        request_id = state["request_id"] = told.id
        status = 0

        async def count() -> Message:
            message = await receive()
            told.bytes_in += len(message.get("body", b""))
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if scope["app"].state.draining:
                    headers["Connection"] = "close"
            told.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, count, send_with_id)
        except ClientDisconnect:
            status = scope["state"].get("refused", CLIENT_CLOSED_REQUEST)  # by the connection, for its body
        except Exception as error:
            logger.exception("request %s failed", request_id)
            if status:  # the answer has begun; the connection is cut
                raise
            await respond(to_problem(error, request_id))(scope, receive, send_with_id)
        finally:
            self._measure(scope, told, status, time.monotonic() - started)

    def _measure(self, scope: Scope, told: Told, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(route, method, status).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        log_request(told, method, route, status, seconds)
        if told.model is None:
            return
        if status == HTTPStatus.OK and not told.nothing_answered:
            spent = told.seconds
            stages = (seconds, spent.queue, spent.decode, spent.compute, spent.merge)
            self._metrics.triton.succeeded(told.model, told.version, *stages)
        else:
            code = told.code or ("cancelled" if status == CLIENT_CLOSED_REQUEST else "internal_error")
            self._metrics.triton.failed(told.model, told.version, code)


def _request_id(request: Request) -> str:
    """The client's own if it is a plain token, so that it may stand in logs and headers; else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


async def _registry(request: Request) -> ModelRegistry:
    registry: ModelRegistry = request.app.state.registry
    return registry


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _id(request: Request) -> str:
    return str(request.state.request_id)


RegistryDep = Annotated[ModelRegistry, Depends(_registry)]
SettingsDep = Annotated[Settings, Depends(_settings)]
RequestIdDep = Annotated[str, Depends(_id)]
