"""Reloads over HTTP: the admin API, aliases, and requests in flight while names are swapped under them."""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from fakes import write_colour_bundle
from live import encode, serve, wait_for
from service import classify as classify_module
from service.settings import Settings

RED = encode(Image.new("RGB", (8, 8), "red"))
SCALES = {1: 1.0, 2: 2.0}
SWAPS = 6
CLIENTS = 6


def probability(scale: float) -> float:
    """Of red for a red image: the logits are `scale`, 0 and 0."""
    return float(np.exp(scale) / (np.exp(scale) + 2))


def wish(repository: Path, text: str) -> None:
    (repository / "colours" / "serving.toml").write_text(text)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for scale in SCALES.values():
        write_colour_bundle(tmp_path, scale=scale)
    return tmp_path


@pytest.fixture
def admin(models: Path) -> Iterator[httpx.Client]:
    with serve(Settings(repository=models, port=0, admin=True)) as client:
        yield client


def classify(client: httpx.Client, **query: str | int) -> httpx.Response:
    return client.post("/v1/models/colours:classify", content=RED, params=query)


def test_the_admin_api_is_off_unless_the_operator_wants_it(client: httpx.Client) -> None:
    for answer in (client.get("/v1/repository"), client.post("/v1/repository/reload")):
        assert (answer.status_code, answer.json()["code"]) == (404, "route_not_found")


def test_a_reload_tells_what_it_did(admin: httpx.Client, models: Path) -> None:
    assert admin.post("/v1/repository/reload").json()["changes"] == []
    write_colour_bundle(models, "new")
    broken = write_colour_bundle(models, "broken")
    (broken / "model.onnx").write_bytes(b"")
    answer = admin.post("/v1/repository/reload").json()
    told = {change["model"]: (change["version"], change["outcome"], change["reason"]) for change in answer["changes"]}
    assert told["new"] == (1, "loaded", None)
    assert told["broken"][:2] == (1, "refused")
    assert "model.onnx is not the file that was exported" in told["broken"][2]
    assert answer["models"] == admin.get("/v1/repository").json()["models"] == admin.get("/v1/models").json()
    metrics = admin.get("/metrics").text
    assert 'multicrop_reloads_total{outcome="loaded"} 3.0' in metrics
    assert 'multicrop_reloads_total{outcome="refused"} 1.0' in metrics
    assert 'multicrop_model_ready{model="new",version="1"} 1.0' in metrics


def test_a_version_that_is_retired_leaves_the_metrics(admin: httpx.Client, models: Path) -> None:
    wish(models, "versions = [2]")
    admin.post("/v1/repository/reload")
    metrics = admin.get("/metrics").text
    assert 'multicrop_model_ready{model="colours",version="2"} 1.0' in metrics
    assert 'multicrop_model_ready{model="colours",version="1"}' not in metrics


def test_an_alias_is_a_version(admin: httpx.Client, models: Path) -> None:
    for stable in (1, 2):
        wish(models, f"aliases = {{stable = {stable}, gone = 7}}")
        admin.post("/v1/repository/reload")
        assert classify(admin, version="stable").json()["version"] == stable
        assert admin.get("/v1/models/colours", params={"version": "stable"}).json()["version"] == stable
        views = admin.get("/v1/models/colours/views/center", params={"version": "stable", "width": 8, "height": 8})
        assert views.json()["version"] == stable
    assert admin.get("/v1/models").json()[0]["aliases"] == {"stable": 2, "gone": 7}


@pytest.mark.parametrize(
    ("version", "status", "said"),
    [
        ("canary", 404, "no alias 'canary'; of its serving.toml it has stable = 1, gone = 7"),
        ("gone", 404, "no version 7"),
        ("7", 404, "no version 7"),
        ("0", 422, "neither a number"),
        ("-1", 422, "neither a number"),
        ("1.5", 422, "neither a number"),
        ("", 422, "neither a number"),
        ("9" * 5000, 422, "neither a number"),
        ("../1", 422, "neither a number"),
        ("\u0661", 422, "neither a number"),
    ],
)
def test_what_is_no_version_is_told_so(models: Path, version: str, status: int, said: str) -> None:
    wish(models, "aliases = {stable = 1, gone = 7}")
    with serve(Settings(repository=models, port=0)) as client:
        for answer in (
            classify(client, version=version),
            client.get("/v1/models/colours", params={"version": version}),
            client.get("/v1/models/colours/views/center", params={"version": version, "width": 8, "height": 8}),
        ):
            assert answer.status_code == status
            assert said in answer.json()["detail"]


def lanes() -> int:
    return sum(thread.name.startswith("lane-") for thread in threading.enumerate())


def answers_while(address: str, act: Callable[[], object]) -> list[httpx.Response]:
    """What clients in a closed loop are answered from before `act` until after it."""
    ended, answers = threading.Event(), list[httpx.Response]()
    begun = threading.Barrier(CLIENTS + 1)

    def ask() -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            answers.append(classify(client))
            begun.wait()
            while not ended.is_set():
                answers.append(classify(client))
                answers.append(classify(client, version="stable"))

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    begun.wait()
    try:
        act()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    return answers


def test_no_request_fails_or_mixes_because_of_a_swap(admin: httpx.Client, models: Path) -> None:
    """Each answer is wholly of one version: its number, its digest and its probability, worked out by hand."""
    digests = {version: classify(admin, version=version).json()["digest"] for version in SCALES}
    wish(models, "versions = [1]\naliases = {stable = 1}")
    admin.post("/v1/repository/reload")
    before = lanes()

    def swap() -> None:
        for version in itertools.islice(itertools.cycle((2, 1)), SWAPS):
            wish(models, f"versions = [{version}]\naliases = {{stable = {version}}}")
            outcomes = [change["outcome"] for change in admin.post("/v1/repository/reload").json()["changes"]]
            assert outcomes == ["loaded", "retired"]

    answers = answers_while(str(admin.base_url), swap)
    assert {answer.status_code for answer in answers} == {200}
    seen = set()
    for answer in (answer.json() for answer in answers):
        seen.add(answer["version"])
        assert answer["digest"] == digests[answer["version"]]
        expected = probability(SCALES[answer["version"]])
        assert answer["predictions"][0]["probability"] == pytest.approx(expected, abs=1e-6)
    assert seen == {1, 2}
    wait_for(lambda: lanes() <= before)  # the engines of the old ones end


def test_a_request_whose_body_is_on_its_way_is_answered_by_what_it_looked_up(
    admin: httpx.Client, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up, swapped = threading.Event(), threading.Event()

    def check(*what: Any) -> None:
        classify_module.check(*what)
        looked_up.set()

    monkeypatch.setattr("service.api.classify.check", check)

    def body() -> Iterator[bytes]:
        yield RED[:10]
        assert swapped.wait(20)
        yield RED[10:]

    answers = []

    def ask() -> None:
        answers.append(httpx.post(f"{admin.base_url}/v1/models/colours:classify", content=body(), timeout=60))

    thread = threading.Thread(target=ask)
    thread.start()
    assert looked_up.wait(20)
    wish(models, "versions = [1]")
    changes = admin.post("/v1/repository/reload").json()["changes"]
    assert changes[-1] == {"model": "colours", "version": 2, "outcome": "retired", "reason": None}
    assert classify(admin).json()["version"] == 1
    swapped.set()
    thread.join()
    assert (answers[0].status_code, answers[0].json()["version"]) == (200, 2)
