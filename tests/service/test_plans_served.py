"""View plans over HTTP: what is looked at, what is told of it, and what is refused before anything is run."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import straight
from bundle import calibration
from bundle.calibration import Calibration, Measured, fingerprint
from bundle.plans import PUBLISHED
from fakes import COLOURS, write_colour_bundle
from live import encode, serve
from service.settings import Settings

RED = encode(Image.new("RGB", (20, 10), "red"))
PHOTO = Image.fromarray(np.random.default_rng(4).integers(0, 256, (16, 27, 3), np.uint8))


def calibrate(repository: Path, name: str, plan: str) -> None:
    measured = Measured(images=1, right=1, right_full=1, mean_views=1.0, mean_views_full=1.0)
    digest = write_colour_bundle(repository, name, resize=10) / "manifest.json"
    found = Calibration(
        plan_sha256=fingerprint(PUBLISHED[plan]),
        average="probabilities",
        temperatures=(1.0,),
        threshold=0.9,
        data="by hand",
        data_sha256="0" * 64,
        seed=0,
        validation=measured,
        test=measured,
    )
    calibration.keep(repository / name, hashlib.sha256(digest.read_bytes()).hexdigest(), plan, found)


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """small: 8 x 8 of a shorter side of 10. any: the same, of any size. imagenet: 224. heavy: 1000 GMAC a view."""
    repository = tmp_path_factory.mktemp("repository")
    calibrate(repository, "small", "ten_crop")
    write_colour_bundle(repository, "any", resize=10, dynamic=True)
    write_colour_bundle(repository, "imagenet", size=224, resize=256, dynamic=True, macs=4_000_000_000)
    write_colour_bundle(repository, "heavy", resize=10, macs=10**12)
    plans = repository / "small" / "plans"
    plans.mkdir()
    (plans / "ends.toml").write_text(
        'source = "Both ends."\nweights = [0.75, 0.25]\n[[parts]]\ncrops = "centre"\nmirror = true\n'
    )
    (plans / "fine.toml").write_text("[[parts]]\nscales = [4096]\n")
    (plans / "unequal.toml").write_text('base = "flips"\nweights = [0.75, 0.75]\n')
    (repository / "imagenet" / "plans").mkdir()
    (repository / "imagenet" / "plans" / "huge.toml").write_text(
        "[[parts]]\nscales = [1200]\ncrops = 16\nsize = 1100\nmirror = true\n"
    )
    with serve(Settings(repository=repository, port=0)) as client:
        yield client


def ask(client: httpx.Client, model: str, image: bytes, **params: str | int) -> dict[str, Any]:
    answer = client.post(f"/v1/models/{model}:classify", content=image, params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def vector(answer: dict[str, Any]) -> list[float]:
    found = {score["label"]: score["probability"] for score in answer["predictions"]}
    return [found[colour] for colour in COLOURS]


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    exponentials = np.exp(logits)
    return np.asarray(exponentials / exponentials.sum())


@pytest.mark.parametrize(
    "plan", ["shifts", "vgg_150", "dense", "dense_multiscale", "dense_five_scale", "multicrop_dense"]
)
def test_a_plan_of_any_shapes_is_the_mean_of_its_views(views: httpx.Client, plan: str) -> None:
    """Against resizing, cutting and averaging one view after the other."""
    seen = list(getattr(straight, plan)(PHOTO, 8, 10))
    posteriors = [softmax(10 * pixels.mean((0, 1)) / 255) for pixels, _ in seen]
    expected = np.average(posteriors, axis=0, weights=[weight for _, weight in seen])
    answer = ask(views, "any", encode(PHOTO), views=plan)
    assert vector(answer) == pytest.approx(list(expected), rel=5e-3)
    assert answer["views"]["planned"] == len(seen)


def test_views_of_another_size_are_counted(views: httpx.Client) -> None:
    def cold() -> float:
        lines = views.get("/metrics").text.splitlines()
        return float(
            next(line for line in lines if line.startswith('multicrop_cold_views_total{model="any"}')).split()[1]
        )

    before = cold()
    ask(views, "any", RED, views="center")
    assert cold() == before
    ask(views, "any", RED, views="dense_mirrored")
    assert cold() == before + 2


def test_each_view_is_told_of_when_asked(views: httpx.Client) -> None:
    """Left half red, right half blue, 20 x 10: the left crops show red, the right ones blue."""
    image = Image.new("RGB", (20, 10), "red")
    image.paste("blue", (10, 0, 20, 10))
    answer = ask(views, "small", encode(image), views="five_crop", detail="views")
    details = answer["views"]["details"]
    assert [detail["box"] for detail in details] == [
        [0, 0, 8, 8], [12, 0, 8, 8], [0, 2, 8, 8], [12, 2, 8, 8], [6, 1, 8, 8]
    ]  # fmt: skip
    assert [detail["top1"]["label"] for detail in details] == ["red", "blue", "red", "blue", "red"]
    assert details[0]["top1"]["probability"] == pytest.approx(softmax(np.array([10, 0, 0]))[0])
    assert {(*detail["resized"], *detail["size"], detail["mirrored"], detail["weight"]) for detail in details} == {
        (20, 10, 8, 8, False, 1.0)
    }
    assert "details" not in ask(views, "small", RED)["views"]


def test_near_views_are_merged_only_when_asked(views: httpx.Client) -> None:
    """The 144 of a square: the three squares coincide, and the whole square is nearly the same at its four scales."""
    image = encode(Image.new("RGB", (500, 500), "red"))
    same, near = (
        ask(views, "imagenet", image, views="googlenet_144", merge=merge, detail="views")["views"]
        for merge in ("identical", "near")
    )
    assert (same["planned"], same["computed"], near["planned"], near["computed"]) == (144, 48, 144, 42)
    assert {detail["weight"] for detail in same["details"]} == {3.0}
    assert sorted(detail["weight"] for detail in near["details"]) == [3.0] * 40 + [12.0] * 2


def test_exact_stops_once_the_rest_cannot_change_the_answer(views: httpx.Client) -> None:
    """Ten views of red: after six of ten the other four cannot make up for (0.99991 - 0.00005) x 0.6."""
    full, early = (ask(views, "small", RED, views="ten_crop", stop=stop) for stop in ("never", "exact"))
    assert (full["views"]["computed"], full["views"]["stopped"]) == (10, False)
    assert (early["views"]["computed"], early["views"]["stopped"], early["views"]["stop"]) == (6, True, "exact")
    assert early["predictions"][0]["label"] == full["predictions"][0]["label"]
    grey = encode(Image.new("RGB", (20, 10), "grey"))
    assert ask(views, "small", grey, views="ten_crop", stop="exact")["views"]["computed"] == 10


def test_confident_stops_at_the_calibrated_confidence(views: httpx.Client) -> None:
    sure = ask(views, "small", RED, views="ten_crop", stop="confident")["views"]
    assert (sure["computed"], sure["stop"], sure["stopped"]) == (1, "confident:0.9", True)
    never_sure = ask(views, "small", RED, views="ten_crop", stop="confident:1")["views"]
    assert (never_sure["computed"], never_sure["stop"], never_sure["stopped"]) == (10, "confident:1.0", False)
    assert views.get("/v1/models/small").json()["calibrated_views"] == ["ten_crop"]


def test_a_plan_of_the_users_own(views: httpx.Client) -> None:
    image = Image.new("RGB", (10, 10), "red")
    answer = ask(views, "small", encode(image), views="ends", detail="views")["views"]
    assert (answer["planned"], answer["computed"]) == (2, 2)
    assert [(detail["mirrored"], detail["weight"]) for detail in answer["details"]] == [(False, 0.75), (True, 0.25)]
    model = views.get("/v1/models/small").json()
    assert "ends" in model["views"]
    assert "the weights sum to 1.5" in model["refused_views"]["unequal"]
    assert model["versions"][0]["state"] == "READY"
    assert "unequal.toml" in model["versions"][0]["reason"]


REFUSED: dict[str, tuple[str, bytes, dict[str, str], str, str]] = {
    "a dense plan for one size": ("small", RED, {"views": "dense"}, "unknown_views", "takes any size"),
    "another paper's size": ("small", RED, {"views": "googlenet_144"}, "unknown_views", "published for inputs of 224"),
    "a plan whose weights do not sum to one": ("small", RED, {"views": "unequal"}, "unknown_views", "sum to 1.5"),
    "an unknown plan": ("small", RED, {"views": "eleven_crop"}, "unknown_views", "it has center, flips"),
    "no plan": ("small", RED, {"views": ""}, "unknown_views", "it has center, flips"),
    "an unknown stop": ("small", RED, {"stop": "maybe"}, "invalid_parameter", "never, exact, confident"),
    "confident of nothing": ("small", RED, {"stop": "confident:0"}, "invalid_parameter", "P above 0"),
    "exact of logits": (
        "small", RED, {"views": "ten_crop", "stop": "exact", "average": "logits"}, "invalid_parameter", "probabilities",
    ),
    "confident and not calibrated": (
        "small", RED, {"views": "flips", "stop": "confident"}, "invalid_parameter", "multicrop-export calibrate",
    ),
    "confident of another average": (
        "small", RED, {"views": "ten_crop", "average": "logits", "stop": "confident"}, "invalid_parameter", "not cal",
    ),
    "an unknown merge": ("small", RED, {"merge": "all"}, "invalid_parameter", "merge"),
    "an unknown detail": ("small", RED, {"detail": "all"}, "invalid_parameter", "detail"),
    "more work than allowed": ("heavy", RED, {"views": "ten_crop"}, "work_limit", "10 views of ten_crop cost 10,000"),
    "gigabytes of one view": (
        "imagenet", encode(Image.new("L", (2000, 100))), {"views": "dense_multiscale"}, "work_limit", "10240 x 512",
    ),
    "gigabytes of a resized image": (
        "small", encode(Image.new("L", (200, 10))), {"views": "fine"}, "work_limit", "to 335544320 pixels",
    ),
    "gigabytes of views": ("imagenet", RED, {"views": "huge"}, "work_limit", "512 views of huge have 619520000 pixels"),
    "21:1": ("small", encode(Image.new("L", (210, 10))), {}, "image_aspect_ratio", "20 : 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_and_nothing_is_run(views: httpx.Client, case: str) -> None:
    model, image, params, code, said = REFUSED[case]

    def batches() -> list[str]:
        lines = views.get("/metrics").text.splitlines()
        return [line for line in lines if line.startswith(f'multicrop_batch_views_count{{model="{model}"}}')]

    before = batches()
    answer = views.post(f"/v1/models/{model}:classify", content=image, params=params)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, code)
    assert said in problem["detail"]
    assert batches() == before
    assert ask(views, model, RED)["predictions"][0]["label"] == "red"


@pytest.mark.parametrize("plan", ["center", "ten_crop", "shifts", "dense_five_scale"])
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (200, 10), (10, 200)], ids=str)
def test_small_and_long_images_are_answered(views: httpx.Client, plan: str, size: tuple[int, int]) -> None:
    answer = ask(views, "any", encode(Image.new("RGB", size, "lime")), views=plan)
    assert answer["predictions"][0]["label"] == "green"


def test_the_geometry_of_a_plan_is_told_without_running_it(views: httpx.Client) -> None:
    """500 x 375, AlexNet's ten views: the offsets that are worked out in docs and papers."""
    answer = views.get("/v1/models/imagenet/views/ten_crop_square", params={"width": 500, "height": 375}).json()
    assert (answer["plan"], answer["image"], answer["planned"], answer["computed"]) == (
        "ten_crop_square", [500, 375], 10, 10
    )  # fmt: skip
    assert answer["gmacs"] == pytest.approx(40.0)
    assert answer["refusal"] is None
    assert [view["box"][:2] for view in answer["views"][::2]] == [[42, 0], [74, 0], [42, 32], [74, 32], [58, 16]]
    assert [view["mirrored"] for view in answer["views"]] == [False, True] * 5
    assert {tuple(view["resized"]) for view in answer["views"]} == {(341, 256)}
    assert "Krizhevsky" in answer["source"]


def test_the_geometry_counts_what_a_larger_view_costs(views: httpx.Client) -> None:
    answer = views.get("/v1/models/imagenet/views/dense", params={"width": 500, "height": 375}).json()
    assert answer["views"] == [
        {"resized": [341, 256], "box": [0, 0, 341, 256], "size": [341, 256], "mirrored": False, "weight": 1.0}
    ]
    assert answer["gmacs"] == pytest.approx(4 * 341 * 256 / 224**2)


def test_the_geometry_says_what_the_work_limit_refuses(views: httpx.Client) -> None:
    answer = views.get("/v1/models/heavy/views/ten_crop", params={"width": 20, "height": 10}).json()
    assert answer["computed"] == 10
    assert answer["gmacs"] == pytest.approx(10_000)
    assert "cost 10,000 GMAC, at most 4,000 are" in answer["refusal"]


def test_a_scale_counts_once_however_many_views_are_cut_of_it(views: httpx.Client) -> None:
    """Three resized images of a 20:1 photograph, 150 views."""
    answer = views.get("/v1/models/imagenet/views/vgg_150", params={"width": 2000, "height": 100}).json()
    assert (answer["computed"], answer["refusal"]) == (150, None)
    assert {tuple(view["resized"]) for view in answer["views"]} == {(5120, 256), (7680, 384), (10240, 512)}


def test_what_is_wrong_with_the_size_of_an_image_is_said(views: httpx.Client) -> None:
    for params, said in {
        (("width", 0), ("height", 1)): "width has to be at least 1",
        (("width", 65536), ("height", 1)): "width has to be at most 65535",
        (("width", 10),): "height is missing",
        (("width", 10), ("height", 1.5)): "height has to be a whole number",
    }.items():
        answer = views.get("/v1/models/small/views/center", params=dict(params))
        assert (answer.status_code, answer.json()["detail"]) == (422, said)


@pytest.mark.parametrize(
    ("path", "params", "status", "code"),
    [
        ("small/views/center", {"width": 0, "height": 1}, 422, "invalid_parameter"),
        ("small/views/center", {"width": 65536, "height": 1}, 422, "invalid_parameter"),
        ("small/views/center", {"width": 10}, 422, "invalid_parameter"),
        ("small/views/center", {"width": 10, "height": 10, "depth": 3}, 422, "unknown_parameter"),
        ("small/views/center", {"width": 210, "height": 10}, 422, "image_aspect_ratio"),
        ("small/views/center", {"width": 65535, "height": 65535}, 422, "image_too_large"),
        ("small/views/dense", {"width": 10, "height": 10}, 422, "unknown_views"),
        ("small/views/nope", {"width": 10, "height": 10}, 422, "unknown_views"),
        ("nope/views/center", {"width": 10, "height": 10}, 404, "model_not_found"),
    ],
)
def test_geometry_that_cannot_be_told(
    views: httpx.Client, path: str, params: dict[str, int], status: int, code: str
) -> None:
    answer = views.get(f"/v1/models/{path}", params=params)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_the_work_limit_is_a_setting(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path, macs=10**9)
    with serve(Settings(repository=tmp_path, port=0, max_gmacs=1.5)) as client:
        assert client.post("/v1/models/colours:classify", content=RED).status_code == 200
        answer = client.post("/v1/models/colours:classify", content=RED, params={"views": "flips"})
        assert (answer.status_code, answer.json()["code"]) == (422, "work_limit")
        assert "2 views of flips cost 2 GMAC, at most 1.5" in answer.json()["detail"]
