"""The registry and what is said of it: good bundles serve beside damaged ones."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from bundle.manifest import FileRecord, Manifest
from bundle.plans import PUBLISHED
from fakes import COLOURS, write_colour_bundle
from live import serve
from service.app import create_app
from service.settings import Settings

Plain = Callable[..., bytes]


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def damage_manifest(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({**values, **changes}))


def relabel(folder: Path, classes: int) -> None:
    """Labels and manifest of one accord, and another one than the graph's."""
    (folder / "labels.txt").write_text("\n".join(map(str, range(classes))))
    files = json.loads((folder / "manifest.json").read_bytes())["files"]
    files["labels.txt"] = FileRecord.of((folder / "labels.txt").read_bytes()).model_dump()
    damage_manifest(folder, classes=classes, files=files)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "model": (lambda folder: flip_a_byte(folder / "model.onnx"), "model.onnx is not the file that was exported"),
    "labels": (lambda folder: flip_a_byte(folder / "labels.txt"), "labels.txt is not the file that was exported"),
    "golden": (lambda folder: flip_a_byte(folder / "golden.npz"), "golden.npz is not the file that was exported"),
    "missing": (lambda folder: (folder / "model.onnx").unlink(), "model.onnx cannot be read"),
    "no-manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json cannot be read"),
    "garbage": (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json"),
    "unknown-field": (lambda folder: damage_manifest(folder, surprise=1), "surprise"),
    "classes": (lambda folder: damage_manifest(folder, classes=4), "3 labels for 4 classes"),
    "classes-and-labels": (lambda folder: relabel(folder, 4), "not 3 times 4 finite numbers"),
}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    repository = tmp_path_factory.mktemp("repository")
    write_colour_bundle(repository, "good")
    write_colour_bundle(repository, "good", scale=20.0)
    for name, (damage, _) in DAMAGES.items():
        damage(write_colour_bundle(repository, name))
    wrong = write_colour_bundle(repository, "golden-off")
    other = write_colour_bundle(repository, "good", scale=5.0)
    golden = (other / "golden.npz").read_bytes()
    (wrong / "golden.npz").write_bytes(golden)
    records = json.loads((other / "manifest.json").read_bytes())["files"]
    files = json.loads((wrong / "manifest.json").read_bytes())["files"] | {"golden.npz": records["golden.npz"]}
    damage_manifest(wrong, files=files)
    flip_a_byte(other / "model.onnx")
    (repository / ".partial-x").mkdir()
    with serve(Settings(repository=repository, port=0)) as client:
        yield client


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_bundle_is_refused_by_name_and_reason(damaged: httpx.Client, name: str, plain: Plain) -> None:
    reason = DAMAGES[name][1]
    index = {model["name"]: model["versions"] for model in damaged.get("/v1/models").json()}
    assert index[name][0]["state"] == "UNAVAILABLE"
    assert reason in index[name][0]["reason"]
    answer = damaged.post(f"/v1/models/{name}:classify", content=plain())
    assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready")
    assert reason in answer.json()["detail"]
    assert "retry-after" not in answer.headers, "it would be refused again"


def test_golden_answers_that_are_not_met_refuse_the_bundle(damaged: httpx.Client) -> None:
    versions = {model["name"]: model["versions"] for model in damaged.get("/v1/models").json()}["golden-off"]
    assert versions[0]["state"] == "UNAVAILABLE"
    assert "the answers are off by 1 of the largest" in versions[0]["reason"]


def test_the_others_still_serve(damaged: httpx.Client, plain: Plain) -> None:
    assert damaged.get("/readyz").status_code == 200
    answer = damaged.post("/v1/models/good:classify", content=plain("green")).json()
    assert answer["predictions"][0]["label"] == "green"
    assert answer["version"] == 2, "the newest version that serves; 3 is damaged"


def test_a_version_can_be_asked_for(damaged: httpx.Client, plain: Plain) -> None:
    first, second = (
        damaged.post("/v1/models/good:classify", content=plain("red"), params={"version": version}).json()
        for version in (1, 2)
    )
    assert (first["version"], second["version"]) == (1, 2)
    assert first["digest"] != second["digest"]
    assert first["predictions"][0]["probability"] < second["predictions"][0]["probability"]
    for path, query in (("", {}), ("/views/center", {"width": 8, "height": 8})):
        answer = damaged.get(f"/v1/models/good{path}", params={"version": 1, **query}).json()
        assert answer["version"] == 1
    third = damaged.post("/v1/models/good:classify", content=plain(), params={"version": 3})
    assert (third.status_code, third.json()["code"]) == (503, "model_not_ready")


def test_no_reason_names_a_path(damaged: httpx.Client) -> None:
    for model in damaged.get("/v1/models").json():
        for version in model["versions"]:
            assert "/" not in (version["reason"] or "")


def test_a_model_says_what_it_is(damaged: httpx.Client) -> None:
    detail = damaged.get("/v1/models/good").json()
    assert (detail["version"], detail["provider"], detail["labels"]) == (2, "cpu", list(COLOURS))
    assert detail["default_views"] == "center"
    assert detail["views"] == [
        "center", "flips", "shifts", "five_crop", "ten_crop", "ten_crop_square", "inception_144", "inception_12",
        "vgg_50", "vgg_150",
    ]  # fmt: skip
    assert detail["refused_views"].keys() == PUBLISHED.keys() - set(detail["views"])
    assert detail["refused_views"]["dense"] == "it needs a network that takes any size; this one takes 8 x 8 alone"
    assert "inputs of 224 x 224; the network's is 8 x 8" in detail["refused_views"]["googlenet_144"]
    assert detail["calibrated_views"] == []
    assert Manifest.model_validate(detail["manifest"]).classes == 3


def test_the_models_are_counted(damaged: httpx.Client) -> None:
    text = damaged.get("/metrics").text
    assert 'multicrop_model_ready{model="good",version="2"} 1.0' in text
    assert 'multicrop_model_ready{model="good",version="3"} 0.0' in text


def test_views_are_listed(damaged: httpx.Client) -> None:
    """The numbers are those of the papers."""
    plans = damaged.get("/v1/views").json()
    assert {plan["name"]: plan["views"] for plan in plans} == {
        "center": 1, "flips": 2, "shifts": 9, "five_crop": 5, "ten_crop": 10, "ten_crop_square": 10, "larger_center": 1,
        "googlenet_144": 144, "inception_144": 144, "inception_12": 12, "vgg_50": 50, "vgg_150": 150, "dense": 1,
        "dense_mirrored": 2, "dense_multiscale": 6, "dense_five_scale": 10, "multicrop_dense": 156,
    }  # fmt: skip
    assert "(He et al., 2015)" in next(plan["description"] for plan in plans if plan["name"] == "ten_crop")


def test_an_empty_repository_is_not_ready(tmp_path: Path) -> None:
    with serve(Settings(repository=tmp_path, port=0)) as client:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "no model"})
        assert client.get("/livez").status_code == 200
        assert client.get("/v1/models").json() == []


def test_openapi_has_examples_and_every_problem() -> None:
    schema = create_app(Settings()).openapi()
    operation = schema["paths"]["/v1/models/{name}:classify"]["post"]
    assert {"400", "404", "413", "415", "422", "500", "503", "504"} <= operation["responses"].keys()
    assert operation["requestBody"]["content"].keys() == {
        "image/jpeg", "image/png", "image/webp", "multipart/form-data", "application/json"
    }  # fmt: skip
    assert schema["components"]["schemas"]["Score"]["properties"]["label"]["examples"] == ["tabby cat"]
