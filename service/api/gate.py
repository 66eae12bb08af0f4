"""Who may ask: the key of a request, looked at before its body is read."""

from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service import auth
from service.api.errors import refuse
from service.auth import ANYBODY, Caller, KeyFile
from service.errors import ForbiddenError, UnauthorizedError

OPEN = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""Asked by what starts and stops the process, which has no key; they say yes or no."""

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

_ADMIN = ("/v1/repository", "/v2/repository/models/")


def scope_of(path: str) -> auth.Scope | None:
    """What a key needs for a path, also for one that is no route; None where none is asked for."""
    if path in OPEN:
        return None
    if path == "/metrics":
        return "metrics"
    return "admin" if path.startswith(_ADMIN) else "infer"


class Gate:
    """Pure ASGI, inside `RequestContext`: the caller goes into the request's state, or gets 401 or 403."""

    def __init__(self, app: ASGIApp, keys: KeyFile) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        needed = scope_of(scope["path"]) if scope["type"] == "http" else None
        if needed is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            caller = self._keys.find(_key(request))
            request.state.told.key = caller.name
            caller.require(needed)
        except (UnauthorizedError, ForbiddenError) as error:
            await refuse(request, error)(scope, receive, send)
            return
        request.state.caller = caller
        await self._app(scope, receive, send)


def declare(app: FastAPI) -> None:
    """Adds to the OpenAPI document which routes ask for a key, and how it is sent."""
    plain = app.openapi

    def with_keys() -> dict[str, Any]:
        document = plain()
        document.setdefault("components", {})["securitySchemes"] = _SCHEMES
        for path, operations in document["paths"].items():
            for operation in operations.values() if scope_of(path) else ():
                operation["security"] = [{scheme: []} for scheme in _SCHEMES]
        return document

    app.openapi = with_keys  # type: ignore[method-assign] # the way that FastAPI's own pages tell


def caller_of(request: Request) -> Caller:
    """Who asks; `charge` the views of an image to it before they are queued."""
    caller: Caller = getattr(request.state, "caller", ANYBODY)
    return caller


def _key(request: Request) -> str | None:
    """The one that was sent; none where several were."""
    given = request.headers.getlist("x-api-key")
    for value in request.headers.getlist("authorization"):
        scheme, _, rest = value.partition(" ")
        if scheme.lower() == "bearer":
            given.append(rest.strip())
    return given[0] if len(given) == 1 else None
