"""The table of errors, and what nobody foresaw."""

import asyncio
import inspect
from pathlib import Path

import httpx
import pytest

from bundle import errors as bundle_errors
from service import errors
from service.api.errors import STATUS, to_problem
from service.app import create_app
from service.settings import Settings

NEVER_IN_A_REQUEST = {errors.ServiceError, errors.ProviderError}
"""The root, and one that only loading meets."""


def test_every_error_of_a_request_has_its_status() -> None:
    kinds = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}
    assert kinds - NEVER_IN_A_REQUEST == {kind for kind in STATUS if kind.__module__ == "service.errors"}
    assert {bundle_errors.ImageFormatError, bundle_errors.BadImageError} <= STATUS.keys()


def test_codes_are_not_shared() -> None:
    codes = [code for _, code in STATUS.values()]
    assert len(codes) == len(set(codes))


def test_a_library_error_is_not_repeated() -> None:
    problem = to_problem(RuntimeError("broken at 0x7f11 in /srv/secret"), "id")
    assert (problem.status, problem.code) == (500, "internal_error")
    assert "secret" not in problem.detail


def test_what_nobody_caught_is_a_problem_document_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def index(self) -> None:
            raise RuntimeError("at 0x7f11")

    app = create_app(Settings(repository=tmp_path))
    app.state.registry = Broken()

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get("/v1/models", headers={"X-Request-Id": "mine"})

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"] == "mine"
    assert "0x7f11" not in answer.text
    assert "0x7f11" in caplog.text
    assert (
        app.state.metrics.registry.get_sample_value(
            "multicrop_http_requests_total", {"route": "/v1/models", "method": "GET", "status": "500"}
        )
        == 1
    )
