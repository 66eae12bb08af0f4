"""Learned weights: on scores whose best weights are known, and as a plan that is written, read and evaluated."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.aggregate import softmax
from bundle.labelled import open_labelled
from bundle.plans import PUBLISHED, read_plan
from bundle.store import open_bundle
from bundle.views import Size
from export.__main__ import main
from export.evaluate import Scores, measure
from export.learn import Way, errors, joined, judge, learn, plain_weights
from fakes import write_colour_bundle
from live import encode

COLOURS = ("red", "green", "blue")

THREE = np.full(3, 1 / 3)


def scores(logits: np.ndarray, labels: np.ndarray) -> Scores:
    return Scores(logits.astype(np.float32), labels, (), ())


def tilted(images: int, seed: int) -> Scores:
    """Of three views and four classes the first sees the label, the second nothing, the third the next class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, images)
    logits = generator.normal(size=(images, 3, 4))
    logits[np.arange(images), 0, labels] += 2
    logits[np.arange(images), 2, (labels + 1) % 4] += 1
    return scores(logits, labels)


def likelihood(weights: np.ndarray, of: Scores) -> float:
    mixed = softmax(np.einsum("nvc,v->nc", of.logits, weights))
    return float(np.log(mixed[np.arange(len(of)), of.labels]).mean())


def test_a_view_that_sees_weighs_most_and_one_that_misleads_nothing() -> None:
    weights = learn(tilted(2000, 0), THREE, 0)
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0
    assert weights[0] > 0.9
    assert weights[2] == 0
    assert (weights == learn(tilted(2000, 0), THREE, 0)).all()


def test_there_are_no_better_weights_of_the_same_sharpness() -> None:
    """All weights in steps of a tenth, each at its own best sharpness: none is likelier by more than a trifle."""
    learned_from = tilted(2000, 1)

    def best(weights: np.ndarray) -> float:
        return max(likelihood(sharpness * weights, learned_from) for sharpness in np.geomspace(0.25, 8, 40))

    grid = [np.array([a, b, 10 - a - b]) / 10 for a in range(11) for b in range(11 - a)]
    assert best(learn(learned_from, THREE, 0)) >= max(map(best, grid)) - 2e-3


def test_identical_views_weigh_the_same() -> None:
    twice = tilted(300, 2)
    weights = learn(scores(twice.logits[:, [0, 1, 0]], twice.labels), THREE, 0)
    assert weights[0] == pytest.approx(weights[2], rel=1e-5)


def test_a_verdict_by_hand() -> None:
    """One view; 3 of 4 are right. The temperature that makes 3 of 4 likeliest makes the odds 3."""
    logits, labels = np.array([[[1.0, 0.0]]] * 4), np.array([0, 0, 0, 1])
    same = scores(logits, labels)
    verdict = judge(Way("one", np.ones(1), "logits"), same, same)
    assert verdict.right == 3
    assert verdict.log_likelihood == pytest.approx(0.75 * np.log(0.75) + 0.25 * np.log(0.25), abs=1e-4)
    assert judge(Way("one", np.ones(1), "logits"), same, scores(-logits, labels)).right == 1


def test_errors_are_of_all_images_of_both() -> None:
    sees, misleads = (
        Way("sees", np.array([1.0, 0, 0]), "logits"),
        Way("misleads", np.array([0, 0, 1.0]), "probabilities"),
    )
    first, second = tilted(150, 3), tilted(50, 4)
    found = errors([sees, misleads], joined(first, second))
    wrong = [int((part.logits[:, 0].argmax(1) != part.labels).sum()) for part in (first, second)]
    assert found["images"] == 200
    assert found["sees"] == sum(wrong) / 2
    assert isinstance(found["misleads"], float)
    assert found["misleads"] > 80


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_colour_bundle(tmp_path / "models", size=8, resize=16, scale=10.0)
    return tmp_path / "models" / "colours"


def images(folder: Path, *, misleading: bool) -> Path:
    """Noise with the colour of the class in the middle; if misleading, the left shows the next class, brighter."""
    generator = np.random.default_rng(7)
    for index in range(96):
        pixels = generator.integers(0, 120, (16, 16, 3), np.uint8)
        pixels[4:12, 4:12, index % 3] += 40
        if misleading:
            pixels[:, :4, (index + 1) % 3] = 255
        path = folder / COLOURS[index % 3] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(Image.fromarray(pixels)))
    return folder


def test_an_improvement_is_written_as_a_plan_with_its_figures(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = images(tmp_path / "squares", misleading=True)
    (data / "red" / "cut.png").write_bytes(b"\x89PNG")
    asked = ["learn-weights", str(models), "--data", str(data), "--views", "five_crop", "--seed", "1"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    path = models / "plans" / "five_crop_learned.toml"
    assert said.endswith(f"written to {path}\n")
    assert "1 image cannot be read" in said

    plan, content = read_plan(path), tomllib.loads(path.read_text())
    assert (content["base"], plan.average, len(plan)) == ("five_crop", "logits", 5)
    assert plan.parts == PUBLISHED["five_crop"].parts
    weights = np.array(plan.weights)
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    assert weights[[0, 2]].max() < 0.05 < weights[[1, 3, 4]].min()  # the left corners show another class

    bundle = open_bundle(models.parent, "colours", 1)
    labelled = open_labelled(data, bundle.labels)
    learned = content["learned"]
    assert (learned["bundle"], learned["data"], learned["seed"]) == (bundle.digest, "squares", 1)
    assert learned["data_sha256"] == labelled.digest()
    for half, part in zip(labelled.split(1), ("validation", "test"), strict=True):
        found = measure(bundle, half, plan)
        read = len(half) - len(found.unread)
        plain = measure(bundle, half, PUBLISHED["five_crop"])
        assert learned[part]["images"] == read
        assert learned[part]["learned"] == pytest.approx(100 * (1 - found.accuracy.top1 / read), abs=1e-4)
        assert learned[part]["plain_probabilities"] == pytest.approx(100 * (1 - plain.accuracy.top1 / read), abs=1e-4)
    assert learned["test"]["learned"] < learned["test"]["plain_logits"]

    assert main([*asked[:-1], "2"]) == 0  # what was learned is learned again
    assert tomllib.loads(path.read_text())["learned"]["seed"] == 2


def test_no_improvement_is_said_and_nothing_is_written(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every view of an image of one colour says the same, so that all weights do."""
    for index in range(24):
        path = tmp_path / "squares" / COLOURS[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(Image.new("RGB", (16, 16), COLOURS[index % 3])))
    asked = ["learn-weights", str(models), "--data", str(tmp_path / "squares"), "--views", "five_crop"]
    assert main(asked) == 0
    assert capsys.readouterr().out.endswith("no improvement; no plan was written\n")
    assert sorted(entry.name for entry in models.iterdir()) == ["1"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--views center", "center has one view; learn the weights of another plan"),
        ("--views mine", "mine is a plan of the model's own; learn the weights of a published one"),
        ("--views five_crop --name mine", "mine.toml is there and was not learned; choose another --name"),
        ("--views five_crop --name flips", "flips is a published plan; choose another --name"),
        ("--views dense", "colours cannot run dense"),
    ],
)
def test_what_cannot_be_learned_is_said(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, words: str
) -> None:
    (models / "plans").mkdir()
    (models / "plans" / "mine.toml").write_text('base = "flips"\n')
    data = images(tmp_path / "squares", misleading=False)
    assert main(["learn-weights", str(models), "--data", str(data), *options.split()]) == 1
    assert words in capsys.readouterr().err
    assert (models / "plans" / "mine.toml").read_text() == 'base = "flips"\n'


def test_plain_weights_are_those_of_the_plan(models: Path) -> None:
    """150 crops and 6 dense views, half each, as the service weighs them."""
    wanted = open_bundle(models.parent, "colours", 1).manifest.input.model_copy(update={"dynamic": True})
    for name, expected in (("flips", [1 / 2] * 2), ("multicrop_dense", [1 / 300] * 150 + [1 / 12] * 6)):
        plan = PUBLISHED[name]
        drawn = np.array([view.weight for view in plan.views(Size(50, 40), wanted)])
        assert plain_weights(plan) == pytest.approx(expected)
        assert plain_weights(plan) == pytest.approx(drawn / drawn.sum())
