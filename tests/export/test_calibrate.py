"""Calibration: temperatures that were put in, thresholds by trying each one, figures by evaluating."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from bundle.aggregate import softmax
from bundle.calibration import fingerprint, read_calibrations
from bundle.labelled import open_labelled
from bundle.plans import PUBLISHED
from bundle.stop import doubling
from bundle.store import open_bundle
from export.__main__ import main
from export.calibrate import find_threshold, fit_temperature, fit_temperatures, log_likelihood, wave_means
from export.errors import ExportError
from export.evaluate import Distinct, Scores, measure
from fakes import write_colour_bundle
from live import encode


def drawn(logits: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A label for each row, as likely as the row says."""
    return np.asarray((softmax(logits).cumsum(axis=1) > generator.random((len(logits), 1))).argmax(axis=1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20_000, 5))
    labels = drawn(logits, generator)
    assert fit_temperature(softmax(logits * temperature), labels) == pytest.approx(temperature, rel=0.03)


def test_log_likelihood_by_hand() -> None:
    probabilities = np.array([[0.8, 0.2], [0.5, 0.5]])
    assert log_likelihood(probabilities, np.array([1, 0]), 1.0) == pytest.approx((np.log(0.2) + np.log(0.5)) / 2)
    # At half the temperature the odds of 4 are 16.
    assert log_likelihood(probabilities, np.array([1, 0]), 0.5) == pytest.approx((np.log(1 / 17) + np.log(0.5)) / 2)


def test_certain_answers_have_a_bounded_temperature() -> None:
    certain = np.eye(3)
    assert fit_temperature(certain, np.array([0, 1, 2])) >= 0.1
    assert fit_temperature(certain, np.array([1, 2, 0])) == pytest.approx(10, rel=0.01)


def test_waves_are_of_distinct_views() -> None:
    """Three views of which the last repeats the first: it weighs double, and there are two waves."""
    logits = np.array([[[2, 0], [0, 1], [2, 0]], [[1, 0], [2, 0], [3, 0]]], np.float32)
    distinct = (Distinct([0, 1], [2.0, 1.0]), Distinct([0, 1, 2], [1.0, 1.0, 1.0]))
    means = wave_means(Scores(logits, np.array([0, 1]), distinct, ()), "logits")
    assert [len(of_one) for of_one in means] == [2, 3]
    assert means[0] == pytest.approx(softmax([[2.0, 0.0], [4 / 3, 1 / 3]]))
    assert means[1] == pytest.approx(softmax([[1.0, 0.0], [1.5, 0.0], [2.0, 0.0]]))


def test_each_wave_has_a_temperature_from_the_images_that_have_it() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(8_000, 4))
    labels = drawn(logits, generator)
    means = [softmax([one, 2 * one, 3 * one][: 2 + place % 2]) for place, one in enumerate(logits)]
    assert fit_temperatures(means, labels) == pytest.approx((1, 2, 3), rel=0.06)


def stops(confidences: np.ndarray, threshold: float) -> list[int]:
    """The wave after which each image stops."""
    last = confidences.shape[1] - 1
    return [next((w for w, c in enumerate(of_one) if c >= threshold), last) for of_one in confidences]


def lost(confidences: np.ndarray, right: np.ndarray, threshold: float) -> int:
    """Images that are right with all views and wrong where they stop."""
    return sum(
        bool(answers[-1] and not answers[wave])
        for answers, wave in zip(right, stops(confidences, threshold), strict=True)
    )


@given(st.data())
def test_the_threshold_is_the_one_that_trying_finds(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 4)))
    confidences = data.draw(arrays(np.float64, shape, elements=st.sampled_from([0.3, 0.4, 0.5, 0.6, 0.7])))
    right = data.draw(arrays(np.bool_, shape))
    allowed = data.draw(st.integers(0, 2))
    tried = 1.0
    for threshold in sorted(set(confidences.ravel()), reverse=True):
        if lost(confidences, right, threshold) > allowed:
            break
        tried = threshold
    found = find_threshold(list(confidences), list(right), allowed)
    assert found == 1 or found in confidences
    assert stops(confidences, found) == stops(confidences, tried)


def test_what_turns_right_does_not_make_up_for_what_turns_wrong() -> None:
    confidences = [np.array([0.9, 1.0]), np.array([0.8, 1.0]), np.array([0.7, 1.0])]
    right = [np.array([False, False]), np.array([True, False]), np.array([False, True])]
    assert find_threshold(confidences, right, 0) == 0.8
    assert find_threshold(confidences, right, 1) == 0.7


def test_certain_and_wrong_has_no_threshold() -> None:
    with pytest.raises(ExportError, match="certain are answered wrongly; use stop=exact"):
        find_threshold([np.array([1.0, 0.5])], [np.array([False, True])], 0.5)
    assert find_threshold([np.array([0.99, 0.5])], [np.array([False, True])], 0.5) == 1


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_colour_bundle(folder, size=4, resize=8, scale=10.0)
    return folder


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images of noise, a class being the channel that is the brightest in the whole; some are 8 x 8."""
    folder, generator = tmp_path_factory.mktemp("noise"), np.random.default_rng(5)
    for index in range(120):
        size = (8, 8 if index % 3 else 12)
        pixels = generator.integers(0, 256, (*size, 3), np.uint8)
        name = ("red", "green", "blue")[int(pixels.mean((0, 1)).argmax())]
        (folder / name).mkdir(exist_ok=True)
        (folder / name / f"{index:03}.png").write_bytes(encode(Image.fromarray(pixels)))
    (folder / "red" / "cut.png").write_bytes(b"\x89PNG")
    return folder


def test_a_calibration_is_kept_and_its_figures_are_those_of_an_evaluation(
    models: Path, noise: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["calibrate", str(models / "colours"), "--data", str(noise), "--views", "ten_crop"]
    assert main([*asked, "--loss", "5", "--seed", "2"]) == 0
    said = capsys.readouterr().out
    bundle = open_bundle(models, "colours", 1)
    (name, found), *others = read_calibrations(models / "colours", bundle.digest).items()
    data = open_labelled(noise, bundle.labels)
    plan = PUBLISHED["ten_crop"]
    assert (name, others) == ("ten_crop", [])
    assert (found.data, found.data_sha256, found.seed) == (noise.name, data.digest(), 2)
    assert (found.plan_sha256, found.average) == (fingerprint(plan), "probabilities")
    assert len(found.temperatures) == len(doubling(10)) == 5
    assert found.validation.images + found.test.images == 120  # one cannot be read
    assert found.validation.right_full - found.validation.right <= 0.05 * found.validation.images
    for half, figures in zip(data.split(2), (found.validation, found.test), strict=True):
        early, full = (
            measure(bundle, half, plan, stop=stop, calibrations={"ten_crop": found}).accuracy
            for stop in ("confident", "never")
        )
        assert (early.top1, full.top1) == (figures.right, figures.right_full)
        assert (early.mean_views, full.mean_views) == pytest.approx((figures.mean_views, figures.mean_views_full))
        assert 1 < early.mean_views < full.mean_views
    assert f"ten_crop, average=probabilities: threshold {found.threshold:.6g}, temperatures " in said
    assert "1 image cannot be read, left out:\n  red/cut.png: " in said
    assert f"test: {found.test.images} images, top-1 error " in said
    assert main(["evaluate", str(models / "colours"), *asked[2:], "--stop", "confident"]) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--views center", "center has one view; there is nothing to stop early"),
        ("--views dense", "colours cannot run dense"),
        ("--views ten_crop --part 0:1", "cannot be split into validation and test"),
    ],
)
def test_what_cannot_be_calibrated_is_said(
    models: Path, noise: Path, capsys: pytest.CaptureFixture[str], options: str, words: str
) -> None:
    assert main(["calibrate", str(models / "colours"), "--data", str(noise), *options.split()]) == 1
    assert words in capsys.readouterr().err


def test_a_damaged_file_of_calibrations_is_named_before_hours_of_work(
    tmp_path: Path, noise: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_colour_bundle(tmp_path)
    kept = tmp_path / "colours" / "calibrations" / f"{open_bundle(tmp_path, 'colours', 1).digest}.json"
    kept.parent.mkdir()
    kept.write_text("{")
    monkeypatch.setattr("export.runner.run", None)
    assert main(["calibrate", str(tmp_path / "colours"), "--data", str(noise), "--views", "flips"]) == 1
    assert kept.name in capsys.readouterr().err
