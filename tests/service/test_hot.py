"""The route that everything is asked of, against FastAPI's own way to read a query."""

import asyncio
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st

from service.api.classify import Options
from service.api.hot import KEPT, LONGEST, _remembered, read_query
from service.errors import InvalidParameterError

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
