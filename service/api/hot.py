"""The route that everything is asked of: documented as any other, and taken apart without FastAPI's machinery.

FastAPI resolves each argument of each request anew: 15 % of the samples that py-spy took of the event loop at work on
requests for a network that costs nothing. What leads to the endpoint costs nearly as much: see `ShortCut`.
"""

from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache
from typing import Any, TypeVar, get_type_hints
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import answer
from service.errors import InvalidParameterError

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Query = TypeVar("Query", bound=BaseModel)

KEPT = 256
"""Queries that are remembered: clients send the same options again and again."""
LONGEST = 512
"""Bytes of one that is."""


class ShortCut:
    """Pure ASGI, innermost: takes what is asked of a hot route to its endpoint, and everything else to the router.

    8 clients get 1,057 images a second of ResNet-20 on two cores with it and 933 without, of ResNet-18 in int8 217 and
    210 (docs/benchmarks.md).
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = [(route, route.get_route_handler()) for route in routes if isinstance(route, HotRoute)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for route, handle in self._routes:
                match, found = route.matches(scope)
                if match is Match.FULL:
                    scope.update(found)
                    await _respond(handle, scope, receive, send)
                    return
        await self._app(scope, receive, send)


async def _respond(handle: Handler, scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive, send)
    try:
        response = await handle(request)
    except Exception as error:  # noqa: BLE001 of what is none of ours it raises
        response = await answer(request, error)
    await response(scope, receive, send)


class HotRoute(APIRoute):
    """Of an endpoint that takes `name` from the path, `options` from the query, and what `api.context` hands out.

    Every option may stand in the query once.
    """

    def get_route_handler(self) -> Handler:
        endpoint, options = self.endpoint, get_type_hints(self.endpoint)["options"]

        async def handle(request: Request) -> Response:
            state = request.app.state
            response: Response = await endpoint(
                name=request.path_params["name"],
                options=read_query(request.scope["query_string"], options),
                request=request,
                registry=state.registry,
                settings=state.settings,
                request_id=request.state.request_id,
            )
            return response

        return handle


def read_query(query: bytes, kind: type[Query]) -> Query:
    """The options in a query.

    Raises:
        RequestValidationError: as FastAPI's own, where an option is not one of these.
        InvalidParameterError: one stands there twice.
    """
    return (_remembered if len(query) <= LONGEST else _read)(query, kind)  # type: ignore[return-value] # of that kind


def _read(query: bytes, kind: type[BaseModel]) -> BaseModel:
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    try:
        found = kind.model_validate(dict(pairs))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise RequestValidationError([{**one, "loc": ("query", *one["loc"])} for one in problems]) from error
    if len(dict(pairs)) < len(pairs):
        raise InvalidParameterError("an option stands in the query twice; give each once")
    return found


_remembered = lru_cache(KEPT)(_read)
