"""The table of errors, and what nobody foresaw."""

import asyncio
import gc
import inspect
import weakref
from pathlib import Path

import httpx
import pytest

from bundle import errors as bundle_errors
from service import errors
from service.api.errors import STATUS, to_problem
from service.app import create_app
from service.settings import Settings

NEVER_IN_A_REQUEST = {errors.ServiceError, errors.ProviderError, errors.NotEnoughMemoryError}
"""The root, and those that only loading meets."""


def test_every_error_of_a_request_has_its_status() -> None:
    kinds = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}
    assert kinds - NEVER_IN_A_REQUEST == {kind for kind in STATUS if kind.__module__ == "service.errors"}
    assert {bundle_errors.ImageFormatError, bundle_errors.BadImageError} <= STATUS.keys()


def test_codes_are_not_shared() -> None:
    codes = [code for _, code in STATUS.values()]
    assert len(codes) == len(set(codes))


class Upload:
    """Can be asked whether it is still there."""


def read(image: Upload) -> None:
    error = OSError(f"{image} is damaged")  # the frame holds the error, which holds the frame
    raise error


def decode(image: Upload) -> None:
    try:
        read(image)
    except OSError as error:
        raise bundle_errors.BadImageError("image_truncated", "cut short") from error


def test_an_error_that_is_told_holds_no_image_any_more() -> None:
    """Uploads of megabytes would wait for the collector in the frames that their errors came through."""
    upload = Upload()
    alive = weakref.ref(upload)
    gc.disable()
    try:
        with pytest.raises(bundle_errors.BadImageError) as raised:
            decode(upload)
        del upload
        assert alive() is not None, "held by the frames"
        to_problem(raised.value, "id")
        assert alive() is None
    finally:
        gc.enable()


def test_errors_that_cause_each_other_are_told_too() -> None:
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    assert to_problem(first, "id").code == "internal_error"


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


@pytest.mark.parametrize("path", ["/v2/health/live/", "/v1/models/"])
def test_a_slash_too_many_is_no_route_and_sends_nobody_elsewhere(client: httpx.Client, path: str) -> None:
    answer = client.get(path, headers={"Host": "elsewhere"})
    assert (answer.status_code, answer.json()["code"]) == (404, "route_not_found")
