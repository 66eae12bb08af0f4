"""Which rule a request gets, and when a calibration no longer stands for its plan."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bundle.calibration import Calibration, Measured, find_rule, fingerprint, keep, read_calibrations
from bundle.errors import BundleError
from bundle.plan import Part, Plan
from bundle.plans import PUBLISHED
from bundle.stop import Confident, Exact, Never, StopOption

TEN, DIGEST = PUBLISHED["ten_crop"], "a" * 64
PART = Measured(images=100, right=90, right_full=91, mean_views=3.5, mean_views_full=10)


def calibration(plan: Plan = TEN, **changes: Any) -> Calibration:
    facts: dict[str, Any] = {
        "plan_sha256": fingerprint(plan),
        "average": "probabilities",
        "temperatures": (1.2, 0.9),
        "threshold": 0.95,
        "data": "digits",
        "data_sha256": "b" * 64,
        "seed": 0,
        "validation": PART,
        "test": PART,
    }
    return Calibration(**{**facts, **changes})


def stop(text: str) -> StopOption:
    return StopOption.parse(text)


def test_never_and_exact_need_no_calibration() -> None:
    assert find_rule(stop("never"), TEN, "probabilities", {}) == Never()
    assert find_rule(stop("never"), TEN, "logits", {}) == Never()
    assert find_rule(stop("exact"), TEN, "probabilities", {}) == Exact()


def test_exact_is_of_probabilities_alone() -> None:
    with pytest.raises(
        ValueError, match=r"^ten_crop has average=logits; stop=exact holds for average=probabilities alone, "
    ):
        find_rule(stop("exact"), TEN, "logits", {"ten_crop": calibration()})


def test_confident_has_the_calibrated_threshold_or_its_own() -> None:
    found = {"ten_crop": calibration()}
    assert find_rule(stop("confident"), TEN, "probabilities", found) == Confident(0.95, (1.2, 0.9))
    assert find_rule(stop("confident:0.8"), TEN, "probabilities", found) == Confident(0.8, (1.2, 0.9))


OTHER = TEN.model_copy(update={"name": "flips"})


@pytest.mark.parametrize(
    ("found", "plan"),
    [
        ({}, TEN),
        ({"ten_crop": calibration(average="logits")}, TEN),
        ({"flips": calibration()}, TEN),
        ({"ten_crop": calibration(PUBLISHED["ten_crop_square"])}, TEN),
        ({"ten_crop": calibration()}, TEN.model_copy(update={"weights": (0.1,) * 10})),
    ],
)
def test_confident_without_its_calibration_is_refused(found: dict[str, Calibration], plan: Plan) -> None:
    said = "ten_crop with average=probabilities is not calibrated; run multicrop-export calibrate, or use stop=exact"
    for text in ("confident", "confident:0.9"):
        with pytest.raises(ValueError, match=f"^{said}$"):
            find_rule(stop(text), plan, "probabilities", found)


def mine(*parts: Part, **changes: Any) -> Plan:
    return Plan(name="mine", source="", parts=parts, **changes)


def test_a_plan_that_was_changed_has_another_fingerprint() -> None:
    plans = [
        mine(Part(mirror=True), weights=(0.5, 0.5)),
        mine(Part(mirror=True), weights=(0.25, 0.75)),
        mine(Part(mirror=True, scales=(256,))),
        mine(Part(mirror=True, scales=(256,)), native=224),
        mine(Part(), Part()),
        mine(Part(crops=2)),
        *PUBLISHED.values(),  # flips is the first without its weights
    ]
    assert len({fingerprint(plan) for plan in plans}) == len(plans)


def test_words_and_the_default_average_do_not_change_it() -> None:
    plan = mine(Part(mirror=True))
    renamed = Plan(name="other", source="Said in other words.", parts=plan.parts, average="logits")
    assert fingerprint(renamed) == fingerprint(plan)


def test_calibrations_are_kept_by_bundle_and_plan(tmp_path: Path) -> None:
    assert read_calibrations(tmp_path, DIGEST) == {}
    keep(tmp_path, DIGEST, "ten_crop", calibration(threshold=0.5))
    keep(tmp_path, DIGEST, "flips", calibration())
    path = keep(tmp_path, DIGEST, "ten_crop", calibration(threshold=0.7))
    keep(tmp_path, "c" * 64, "ten_crop", calibration(threshold=0.9))
    assert path == tmp_path / "calibrations" / f"{DIGEST}.json"
    assert read_calibrations(tmp_path, DIGEST) == {"ten_crop": calibration(threshold=0.7), "flips": calibration()}


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    path = keep(tmp_path, DIGEST, "ten_crop", calibration())
    path.write_text(path.read_text().replace('"threshold": 0.95', '"threshold": 1.95'))
    with pytest.raises(BundleError, match=rf"^{DIGEST}\.json: plans\.ten_crop\.threshold: .* less than or equal to 1"):
        read_calibrations(tmp_path, DIGEST)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperatures": ()},
        {"temperatures": (1.0, 0.0)},
        {"temperatures": (-1.0,)},
        {"threshold": 0},
        {"average": "max"},
    ],
)
def test_what_no_rule_could_use_is_refused(changes: dict[str, Any]) -> None:
    """A temperature of 0 divides by it."""
    with pytest.raises(ValidationError):
        calibration(**changes)


def test_confident_of_a_single_view_is_not_sent_to_calibrate_which_refuses_it() -> None:
    with pytest.raises(ValueError, match=r"^center has one view; there is nothing to stop early, use stop=never$"):
        find_rule(stop("confident"), PUBLISHED["center"], "probabilities", {})
