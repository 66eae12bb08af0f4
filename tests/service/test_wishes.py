"""What the operator wishes: serving.toml, plans and calibrations beside the versions, good and damaged."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from fakes import write_colour_bundle
from live import encode, serve
from service.settings import Settings

RED = encode(Image.new("RGB", (20, 10), "red"))

SERVING = {
    "all": "",
    "latest": 'versions = "latest"',
    "listed": "versions = [1, 3, 9]",
    "defaults": 'views = "ten_crop"\naverage = "logits"',
    "early": 'views = "ten_crop"\nstop = "exact"',
    "uncalibrated": 'views = "ten_crop"\nstop = "confident"',
    "contrary": 'average = "logits"\nstop = "exact"',
    "own-average": 'views = "mine"\nstop = "exact"',
    "own-plan": 'views = "mine"',
    "not-toml": "views = ",
    "unknown-key": 'view = "center"',
    "bad-stop": 'stop = "sometimes"',
    "bad-version": "versions = [0]",
    "no-plan": 'views = "eleven_crop"',
    "not-runnable": 'views = "dense"',
    "damaged-plan": 'views = "unequal"',
    "damaged-calibration": "",
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    repository = tmp_path_factory.mktemp("repository")
    for name, content in SERVING.items():
        for scale in (10.0, 20.0, 30.0)[: 3 if name in ("all", "latest", "listed") else 1]:
            folder = write_colour_bundle(repository, name, resize=10, scale=scale).parent
        (folder / "serving.toml").write_text(content)
    write_plan(repository / "own-plan", "mine", 'base = "flips"\nweights = [0.75, 0.25]\naverage = "logits"')
    shutil.copytree(repository / "own-plan" / "plans", repository / "own-average" / "plans")
    write_plan(repository / "damaged-plan", "unequal", 'base = "flips"\nweights = [0.5, 0.4]')
    write_plan(repository / "all", "Loud", 'base = "flips"')
    write_plan(repository / "all", "center", 'base = "flips"')
    with serve(Settings(repository=repository, port=0)) as client:
        digest = index(client)["damaged-calibration"][0]["digest"]
    calibrations = repository / "damaged-calibration" / "calibrations"
    calibrations.mkdir()
    (calibrations / f"{digest}.json").write_text("{")
    with serve(Settings(repository=repository, port=0)) as client:
        yield client


def write_plan(folder: Path, name: str, content: str) -> None:
    (folder / "plans").mkdir(exist_ok=True)
    (folder / "plans" / f"{name}.toml").write_text(content)


def index(client: httpx.Client) -> dict[str, list[dict[str, Any]]]:
    return {model["name"]: model["versions"] for model in client.get("/v1/models").json()}


def looked(client: httpx.Client, name: str, **params: str) -> dict[str, Any]:
    answer = client.post(f"/v1/models/{name}:classify", content=RED, params=params)
    assert answer.status_code == 200, answer.text
    views: dict[str, Any] = answer.json()["views"]
    return views


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("all", {1: "READY", 2: "READY", 3: "READY"}),
        ("latest", {3: "READY"}),
        ("listed", {1: "READY", 3: "READY", 9: "UNAVAILABLE"}),
    ],
)
def test_the_operator_chooses_the_versions(client: httpx.Client, name: str, states: dict[int, str]) -> None:
    lines = index(client)[name]
    assert {line["version"]: line["state"] for line in lines} == states
    assert client.post(f"/v1/models/{name}:classify", content=RED).json()["version"] == 3


def test_a_listed_version_that_is_not_there_is_refused(client: httpx.Client) -> None:
    assert "it is not there" in index(client)["listed"][-1]["reason"]
    answer = client.post("/v1/models/listed:classify", content=RED, params={"version": 9})
    assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready")
    answer = client.post("/v1/models/listed:classify", content=RED, params={"version": 2})
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("not-toml", "serving.toml is no TOML file"),
        ("unknown-key", "serving.toml: view: "),
        ("bad-stop", "serving.toml: stop: stop is never, exact, confident"),
        ("bad-version", "serving.toml: versions"),
        ("no-plan", "serving.toml: views = 'eleven_crop': there is no such plan; choose one of center"),
        ("contrary", "serving.toml: stop"),
        ("not-runnable", "serving.toml: views = 'dense': it needs a network that takes any size"),
        ("damaged-plan", "serving.toml: views = 'unequal': unequal.toml: the weights sum to 0.9"),
    ],
)
def test_wishes_that_cannot_be_met_refuse_the_model(client: httpx.Client, name: str, said: str) -> None:
    (line,) = index(client)[name]
    assert line["state"] == "UNAVAILABLE"
    assert said in line["reason"]
    assert "/" not in line["reason"]
    answer = client.post(f"/v1/models/{name}:classify", content=RED)
    assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready")
    assert looked(client, "all")["plan"] == "center"


def test_defaults_are_those_of_requests_that_say_nothing(client: httpx.Client) -> None:
    views = looked(client, "defaults")
    assert (views["plan"], views["average"], views["stop"]) == ("ten_crop", "logits", "never")
    views = looked(client, "defaults", views="flips", average="probabilities")
    assert (views["plan"], views["average"]) == ("flips", "probabilities")
    assert client.get("/v1/models/defaults").json()["default_views"] == "ten_crop"


def test_early_exit_may_be_the_default(client: httpx.Client) -> None:
    views = looked(client, "early")
    assert (views["stop"], views["stopped"], views["computed"]) == ("exact", True, 6)
    assert looked(client, "early", stop="never")["computed"] == 10


def test_a_default_stop_that_does_not_hold_runs_all_views(client: httpx.Client) -> None:
    """The client asked for nothing of the kind, and the answer says what was done."""
    assert looked(client, "early", average="logits")["stop"] == "never"
    assert looked(client, "own-average")["stop"] == "never"
    assert looked(client, "uncalibrated")["stop"] == "never"
    for name, said in (("uncalibrated", "is not calibrated"), ("own-average", "average=probabilities alone")):
        (line,) = index(client)[name]
        assert line["state"] == "READY"
        assert said in line["reason"]


def test_exact_is_refused_where_the_operators_average_contradicts_it(client: httpx.Client) -> None:
    for name in ("defaults", "own-average"):
        answer = client.post(f"/v1/models/{name}:classify", content=RED, params={"stop": "exact"})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
        assert looked(client, name, stop="exact", average="probabilities")["stop"] == "exact"


def test_a_plan_brings_its_own_average(client: httpx.Client) -> None:
    views = looked(client, "own-plan")
    assert (views["plan"], views["planned"], views["average"]) == ("mine", 2, "logits")
    assert looked(client, "own-plan", average="probabilities")["average"] == "probabilities"


def test_damaged_plans_and_calibrations_keep_nothing_from_serving(client: httpx.Client) -> None:
    (line,) = index(client)["damaged-calibration"]
    assert line["state"] == "READY"
    assert f"{line['digest']}.json" in line["reason"]
    assert looked(client, "damaged-calibration", views="ten_crop")["computed"] == 10
    answer = client.post("/v1/models/damaged-calibration:classify", content=RED, params={"stop": "confident"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert all("Loud.toml" in line["reason"] and "center.toml" in line["reason"] for line in index(client)["all"])
    assert looked(client, "all", views="center")["planned"] == 1, "a file does not take a published plan's name"


def test_damage_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture, plain: Callable[..., bytes]) -> None:
    folder = write_colour_bundle(tmp_path).parent
    write_plan(folder, "unequal", 'base = "flips"\nweights = [0.5, 0.4]')
    with serve(Settings(repository=tmp_path, port=0)) as client:
        assert client.post("/v1/models/colours:classify", content=plain()).status_code == 200
    assert "colours version 1: unequal.toml: the weights sum to 0.9" in caplog.text
