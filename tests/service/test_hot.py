"""The route that everything is asked of, against FastAPI's own way to read a query."""

import asyncio
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from service.api.classify import Options
from service.api.hot import KEPT, LONGEST, HotRoute, ShortCut, _remembered, read_query
from service.errors import InvalidParameterError, ModelNotFoundError

QUERIES = [
    "",
    "views=ten_crop&top_k=3",
    "top_k=+3",
    "top_k=%33&stop=exact",
    "views=",
    "top_k=",
    "top_k=0",
    "top_k=1.5",
    "top_k=x&priority=7&merge=none",
    "colour=red",
    "views=%ff%00&detail=views",
    "timeout_ms=1e3",
    "average=logits;stop=never",
    "views=a%26b&&format=labels&",
]


def by_fastapi(query: str) -> Any:
    """The options, or the kinds of what is wrong with them and where."""
    app, seen = FastAPI(), []

    @app.get("/")
    async def read(options: Annotated[Options, Query()]) -> None:
        seen.append(options)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get(f"/?{query}")

    answer = asyncio.run(ask())
    if answer.status_code == 200:
        return seen[0]
    return sorted((one["type"], tuple(one["loc"])) for one in answer.json()["detail"])


def here(query: bytes) -> Any:
    try:
        return read_query(query, Options)
    except RequestValidationError as error:
        return sorted((one["type"], tuple(one["loc"])) for one in error.errors())


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_means_what_fastapi_takes_it_for(query: str) -> None:
    assert here(query.encode()) == by_fastapi(query)


@given(
    st.dictionaries(st.sampled_from([*Options.model_fields, "other"]), st.sampled_from(["1", "-1", "exact", "", "é"]))
)
def test_what_was_remembered_is_what_was_read(options: dict[str, str]) -> None:
    query = str(httpx.QueryParams(options)).encode()
    assert here(query) == here(query)
    _remembered.cache_clear()
    assert here(query) == here(query + b"&" * LONGEST)


def test_an_option_that_stands_there_twice_is_refused() -> None:
    for _ in range(2):
        with pytest.raises(InvalidParameterError, match="twice"):
            read_query(b"top_k=1&top_k=1", Options)


def test_queries_of_strangers_take_no_memory() -> None:
    _remembered.cache_clear()
    for number in range(1, 2 * KEPT):
        read_query(b"top_k=%d" % number, Options)
    assert _remembered.cache_info().currsize == KEPT
    read_query(b"views=" + b"x" * LONGEST, Options)
    assert _remembered.cache_info().currsize == KEPT


def ask(method: str, path: str) -> httpx.Response | None:
    """The answer of an application that has one hot route; None where the request went on to the router."""
    router, passed = APIRouter(route_class=HotRoute), []

    @router.post("/models/{name}")
    async def classify(
        name: str, options: Options, request: Request, registry: str, settings: str, request_id: str
    ) -> Response:
        if name == "gone":
            raise ModelNotFoundError("there is no model 'gone'")
        if name == "broken":
            raise ZeroDivisionError
        return Response(f"{name} {options.top_k} {request.scope['route'].path} {registry} {settings} {request_id}")

    async def on(scope: Scope, _: Receive, send: Send) -> None:
        passed.append(scope)
        await Response()(scope, _, send)

    app = FastAPI()
    app.state.registry, app.state.settings = "registry", "settings"
    short = ShortCut(on, router.routes)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await short({**scope, "app": app, "state": {"request_id": "id"}}, receive, send)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path)

    answer = asyncio.run(send())
    return None if passed else answer


def test_what_is_asked_of_a_hot_route_does_not_pass_the_router() -> None:
    answer = ask("POST", "/models/cats?top_k=3")
    assert answer is not None
    assert answer.text == "cats 3 /models/{name} registry settings id"


@pytest.mark.parametrize(("method", "path"), [("GET", "/models/cats"), ("POST", "/models"), ("POST", "/models/a/b")])
def test_everything_else_goes_on_to_the_router(method: str, path: str) -> None:
    assert ask(method, path) is None


def test_an_error_of_a_hot_route_is_a_problem_and_a_mistake_is_raised() -> None:
    answer = ask("POST", "/models/gone")
    assert answer is not None
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
    assert (refused := ask("POST", "/models/cats?top_k=0")) is not None
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_parameter")
    with pytest.raises(ZeroDivisionError):
        ask("POST", "/models/broken")
