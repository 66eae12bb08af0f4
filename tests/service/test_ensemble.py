"""Ensembles over HTTP: the mean of the members worked out from what each says by itself, and members that fail."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest
from PIL import Image

from bundle.errors import BadImageError
from bundle.plans import PUBLISHED
from bundle.preprocess import ImageLimits
from bundle.stop import Never
from bundle.views import Size
from fakes import COLOURS, write_colour_bundle
from live import encode, serve
from samples import manifest
from service import model
from service.answer import Answered
from service.engine.cpu import CpuBackend
from service.engine.entry import Pixels, Scores
from service.ensemble import Ensemble, EnsembleMember
from service.errors import QueueFullError
from service.model import ServedModel
from service.settings import Settings
from service.work import Asked, Bounds, Choice, Work, work_of

PHOTO = encode(Image.fromarray(np.random.default_rng(4).integers(0, 256, (16, 27, 3), np.uint8)))
RED = encode(Image.new("RGB", (20, 10), "red"))

FILES = {
    "three": """
        members = [
            {model = "small", weight = 0.5, views = "ten_crop"},
            {model = "large", weight = 0.3},
            {model = "any", weight = 0.2, version = 1, views = "dense"},
        ]""",
    "equal": 'members = [{model = "small"}, {model = "large"}]',
    "twice": 'partial = true\nmembers = [{model = "small"}, {model = "small", views = "flips"}]',
    "nested": 'members = [{model = "three"}, {model = "small"}]',
    "itself": 'members = [{model = "itself"}]',
    "missing": 'members = [{model = "nobody"}, {model = "small"}]',
    "no-version": 'members = [{model = "small", version = 7}]',
    "refused": 'members = [{model = "small"}, {model = "broken"}]',
    "mixed": 'members = [{model = "small"}, {model = "animals"}]',
    "plan": 'members = [{model = "small", views = "dense"}]',
    "unequal": 'members = [{model = "small", weight = 0.5}, {model = "large", weight = 0.6}]',
    "half": 'members = [{model = "small", weight = 0.5}, {model = "large"}]',
    "empty": "members = []",
    "garbage": "members = ",
    "heavy": 'members = [{model = "costly"}, {model = "costly"}, {model = "costly"}]',
}

REASONS = {
    "nested": "three is an ensemble itself",
    "itself": "itself is an ensemble itself",
    "missing": "there is no model 'nobody'",
    "no-version": "small has no version 7",
    "refused": "version 1 of broken was refused: model.onnx",
    "mixed": "the labels of animals version 1 are not those of small: class 1 is 'cat', not 'green'",
    "plan": "small cannot run dense: it needs a network that takes any size",
    "unequal": "the members' weights sum to 1.1",
    "half": "some members have a weight",
    "empty": "members",
    "garbage": "ensemble.toml is no TOML file",
}


def write_ensembles(repository: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (repository / name).mkdir()
        (repository / name / "ensemble.toml").write_text(content)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository")
    write_colour_bundle(repository, "small", resize=10, scale=4.0)
    write_colour_bundle(repository, "large", size=16, resize=20, scale=9.0)
    write_colour_bundle(repository, "any", resize=12, dynamic=True, scale=6.0)
    write_colour_bundle(repository, "any", resize=12, dynamic=True, scale=1.0)
    write_colour_bundle(repository, "costly", macs=1500 * 10**9)
    write_colour_bundle(repository, "animals", labels=("red", "cat", "dog"))
    (write_colour_bundle(repository, "broken") / "model.onnx").unlink()
    (repository / "large" / "serving.toml").write_text('views = "flips"\nstop = "exact"')
    write_ensembles(repository, FILES)
    return repository


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[httpx.Client]:
    with serve(Settings(repository=repository, port=0)) as client:
        yield client


def ask(client: httpx.Client, model: str, image: bytes = PHOTO, **params: str | int) -> dict[str, Any]:
    answer = client.post(f"/v1/models/{model}:classify", content=image, params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def vector(answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    found = {score["label"]: score["probability"] for score in answer["predictions"]}
    return np.array([found[colour] for colour in COLOURS])


def test_the_answer_is_the_weighted_mean_of_its_members(client: httpx.Client) -> None:
    answer = ask(client, "three")
    alone = [ask(client, "small", views="ten_crop"), ask(client, "large"), ask(client, "any", views="dense", version=1)]
    expected = 0.5 * vector(alone[0]) + 0.3 * vector(alone[1]) + 0.2 * vector(alone[2])
    assert vector(answer) == pytest.approx(expected, abs=1e-12)
    assert np.ptp([vector(one) for one in alone], axis=0).min() > 0.001, "members that agree would prove nothing"
    assert (answer["model"], answer["version"]) == ("three", None)
    assert "views" not in answer
    for member, one, weight in zip(answer["members"], alone, (0.5, 0.3, 0.2), strict=True):
        assert (member["weight"], member["problem"]) == (weight, None)
        assert {key: member[key] for key in ("model", "version", "digest")} == {
            key: one[key] for key in ("model", "version", "digest")
        }
        assert member["views"]["plan"] == one["views"]["plan"]
    stages = answer["timings_ms"]
    assert sum(value for stage, value in stages.items() if stage != "total") <= stages["total"] + 0.01


def test_the_stop_of_a_member_is_not_that_of_the_ensemble(client: httpx.Client) -> None:
    """The model `large` has stop = "exact" of its own, which could leave views out of the mean."""
    assert [member["views"]["stop"] for member in ask(client, "equal")["members"]] == ["never", "never"]


def test_options_of_the_request_are_those_of_every_member(client: httpx.Client) -> None:
    answer = ask(client, "three", views="five_crop", average="logits", detail="views", merge="near", top_k=2)
    assert len(answer["predictions"]) == 2
    for member in answer["members"]:
        assert (member["views"]["plan"], member["views"]["average"]) == ("five_crop", "logits")
        assert len(member["views"]["details"]) == member["views"]["computed"]
    shapes = [member["views"]["details"][0]["size"] for member in answer["members"]]
    assert shapes == [[8, 8], [16, 16], [8, 8]], "each has its own input"


def test_an_ensemble_says_what_it_is(client: httpx.Client) -> None:
    detail = client.get("/v1/models/three").json()
    assert [(one["model"], one["version"], one["weight"], one["views"]) for one in detail["members"]] == [
        ("small", 1, 0.5, "ten_crop"), ("large", 1, 0.3, "flips"), ("any", 1, 0.2, "dense")
    ]  # fmt: skip
    assert (detail["labels"], detail["partial"]) == (list(COLOURS), False)
    assert detail["digest"] == ask(client, "three")["digest"]
    index = {one["name"]: one["versions"] for one in client.get("/v1/models").json()}
    assert index["three"] == [{"version": None, "state": "READY", "digest": detail["digest"], "reason": None}]
    digests = {index[name][0]["digest"] for name in ("three", "equal", "twice", "small")}
    assert len(digests) == 4
    assert 'multicrop_model_ready{model="three",version="ensemble"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize("name", REASONS)
def test_an_ensemble_that_does_not_fit_is_refused_by_reason(client: httpx.Client, name: str) -> None:
    index = {one["name"]: one["versions"] for one in client.get("/v1/models").json()}
    (line,) = index[name]
    assert line["state"] == "UNAVAILABLE"
    assert REASONS[name] in line["reason"]
    answer = client.post(f"/v1/models/{name}:classify", content=RED)
    assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready")
    assert REASONS[name] in answer.json()["detail"]
    assert ask(client, "three", RED)["predictions"][0]["label"] == "red"


@pytest.mark.parametrize(
    ("params", "image", "status", "code", "said"),
    [
        ({"version": 1}, RED, 422, "invalid_parameter", "three is an ensemble, which has no versions"),
        ({"stop": "exact"}, RED, 422, "invalid_parameter", "three is an ensemble; stop=exact would hold"),
        ({"stop": "sometimes"}, RED, 422, "invalid_parameter", "confident:P"),
        ({"views": "dense"}, RED, 422, "unknown_views", "small cannot run dense"),
        ({"views": ""}, RED, 422, "unknown_views", "small has no view plan ''"),
        ({"top_k": 4}, RED, 422, "invalid_parameter", "three has 3 classes"),
        ({}, b"text", 415, "image_format_unsupported", "JPEG"),
        ({}, PHOTO[:200], 422, "image_truncated", "whole file"),
    ],
    ids=["version", "exact", "unknown stop", "refused plan", "no plan", "top_k", "text", "cut short"],
)
def test_bad_requests_fail_the_answer(
    client: httpx.Client, params: dict[str, str], image: bytes, status: int, code: str, said: str
) -> None:
    for name in ("three", "twice"):  # the other is partial
        answer = client.post(f"/v1/models/{name}:classify", content=image, params=params)
        if (name, code) == ("twice", "unknown_views") or name == "three":
            assert said in answer.json()["detail"]
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert ask(client, name, RED)["predictions"][0]["label"] == "red"


def test_never_is_a_stop_that_ensembles_take(client: httpx.Client) -> None:
    assert ask(client, "three", stop="never")["predictions"]


def test_members_that_average_otherwise_are_another_ensemble(tmp_path: Path) -> None:
    def digest(serving: str) -> str:
        (tmp_path / "small" / "serving.toml").write_text(serving)
        with serve(Settings(repository=tmp_path, port=0)) as client:
            return str(client.get("/v1/models/pair").json()["digest"])

    write_colour_bundle(tmp_path, "small", resize=10)
    write_ensembles(tmp_path, {"pair": 'members = [{model = "small", views = "ten_crop"}, {model = "small"}]'})
    assert digest("") == digest('average = "probabilities"') != digest('average = "logits"')


def test_an_ensemble_beside_versions_is_not_read_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_colour_bundle(tmp_path, "both").parent
    (folder / "ensemble.toml").write_text('members = [{model = "both"}]')
    with serve(Settings(repository=tmp_path, port=0)) as client:
        assert "members" not in ask(client, "both", RED)
    assert "both has versions: it is a model, and its ensemble.toml is not read" in caplog.text


def test_the_work_of_all_members_counts(client: httpx.Client) -> None:
    """Three times 1,500 GMAC: each may be asked, all together may not."""
    assert ask(client, "costly", RED)["predictions"][0]["label"] == "red"
    answer = client.post("/v1/models/heavy:classify", content=RED)
    assert (answer.status_code, answer.json()["code"]) == (422, "work_limit")
    assert "3 views of center cost 4,500 GMAC" in answer.json()["detail"]


def test_the_geometry_is_that_of_the_members(client: httpx.Client) -> None:
    answer = client.get("/v1/models/three/views/center", params={"width": 20, "height": 10})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert "small, large, any" in answer.json()["detail"]


def test_each_file_of_a_multipart_body_is_answered(client: httpx.Client) -> None:
    files = [("images", ("a.png", RED)), ("images", ("b.txt", b"no image"))]
    first, second = client.post("/v1/models/three:classify", files=files).json()["results"]
    assert (first["predictions"][0]["label"], len(first["members"])) == ("red", 3)
    assert second["code"] == "image_format_unsupported"


class Stub:
    """A model that fails as it is told to."""

    def __init__(self, error: Exception) -> None:
        self.name, self.version, self.digest, self.labels = "stub", 1, "0" * 64, COLOURS
        self.wishes = SimpleNamespace(plan=lambda name: PUBLISHED[name], choose=self._choose)
        self._error = error

    def _choose(self, asked: Asked) -> Choice:
        return Choice(PUBLISHED[asked.views or ""], "probabilities", Never(), "never", "identical", detail=False)

    def work(self, asked: Asked, image: Size) -> Work:
        return work_of(self._choose(asked), image, manifest())

    async def run(self, *_: object) -> Answered:
        raise self._error


def test_what_is_wrong_with_the_image_is_told_first() -> None:
    """Also by an ensemble that does without a member, when another one has no room."""
    errors = [QueueFullError("full", 1.0), BadImageError("image_truncated", "cut short")]
    members = [EnsembleMember(cast(ServedModel, Stub(error)), 0.5, "center") for error in errors]
    ensemble, bounds = Ensemble("all", members, partial=True), Bounds(ImageLimits(), 4000.0, 1.0)
    with pytest.raises(BadImageError):
        asyncio.run(ensemble.answer(RED, Asked(), bounds, 1.0))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Says the edge of the inputs for which devices fail from now on; 0: for none."""
    broken = [0]

    class Failing(CpuBackend):
        def run(self, images: Pixels, *, alone: bool = False) -> Scores:
            if images.shape[1] == broken[0] or broken[0] < 0:
                raise RuntimeError("address 0xdeadbeef")
            return super().run(images, alone=alone)

    monkeypatch.setattr(model, "open_backend", lambda graph, macs, *_: Failing(graph, macs))

    def fail(edge: int) -> None:
        broken[0] = edge

    return fail


def test_a_member_that_fails(tmp_path: Path, repository: Path, failing: Callable[[int], None]) -> None:
    for name in ("small", "large", "any"):
        shutil.copytree(repository / name, tmp_path / name)
    members = FILES["three"]
    write_ensembles(tmp_path, {"whole": members, "some": f"partial = true\n{members}"})
    with serve(Settings(repository=tmp_path, port=0)) as client:
        before = vector(ask(client, "whole"))
        assert vector(ask(client, "some")) == pytest.approx(before)
        failing(16)  # large
        refused = client.post("/v1/models/whole:classify", content=PHOTO)
        assert (refused.status_code, refused.json()["code"]) == (500, "inference_failed")
        answer = ask(client, "some")
        small, any_ = ask(client, "small", views="ten_crop"), ask(client, "any", views="dense", version=1)
        assert vector(answer) == pytest.approx((0.5 * vector(small) + 0.2 * vector(any_)) / 0.7, abs=1e-12)
        left_out = answer["members"][1]
        assert (left_out["views"], left_out["weight"]) == (None, 0.0)
        assert left_out["problem"]["code"] == "inference_failed"
        assert "0xdeadbeef" not in json.dumps(answer)
        assert [one["weight"] for one in answer["members"]] == pytest.approx([0.5 / 0.7, 0.0, 0.2 / 0.7])
        failing(-1)
        refused = client.post("/v1/models/some:classify", content=PHOTO)
        assert (refused.status_code, refused.json()["code"]) == (500, "inference_failed")
        damaged = client.post("/v1/models/some:classify", content=PHOTO[:200])
        assert (damaged.status_code, damaged.json()["code"]) == (422, "image_truncated")
        failing(0)
        assert vector(ask(client, "some")) == pytest.approx(before)


def test_a_member_that_hangs_costs_its_own_part_alone(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, released = threading.Event(), threading.Event()

    class Hanging(CpuBackend):
        def run(self, images: Pixels, *, alone: bool = False) -> Scores:
            if images.shape[1] == 16 and hangs.is_set():  # large
                released.wait(20)
            return super().run(images, alone=alone)

    monkeypatch.setattr(model, "open_backend", lambda graph, macs, *_: Hanging(graph, macs))
    for name in ("small", "large"):
        shutil.copytree(repository / name, tmp_path / name)
    write_ensembles(tmp_path, {"whole": FILES["equal"], "some": f"partial = true\n{FILES['equal']}"})
    with serve(Settings(repository=tmp_path, port=0)) as client:
        hangs.set()
        try:
            answer = ask(client, "some", timeout_ms=1000)
            assert [one["weight"] for one in answer["members"]] == [1.0, 0.0]
            assert answer["members"][1]["problem"]["code"] == "deadline_exceeded"
            refused = client.post("/v1/models/whole:classify", content=PHOTO, params={"timeout_ms": 300})
            assert (refused.status_code, refused.json()["code"]) == (504, "deadline_exceeded")
        finally:
            released.set()
