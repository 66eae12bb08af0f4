"""What `stop=confident` needs to know of a bundle, kept in NAME/calibrations/DIGEST.json.

Everything in it is chosen on the validation part of some labelled images; the test part is read once, for the figures.
"""

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from bundle.aggregate import Average
from bundle.beside import read_json, write_text
from bundle.manifest import Facts, Sha256
from bundle.plan import Plan
from bundle.stop import Confident, Exact, Never, Rule, StopOption

FOLDER = "calibrations"


class Measured(Facts):
    """On one part of the images."""

    images: int = Field(ge=1)
    right: int = Field(ge=0)
    """With early exit."""
    right_full: int = Field(ge=0)
    """With all views."""
    mean_views: float = Field(gt=0)
    """Views that early exit ran for an image, on average."""
    mean_views_full: float = Field(gt=0)


class Calibration(Facts):
    """Of one plan."""

    plan_sha256: Sha256
    """See `fingerprint`: a plan that was changed has to be calibrated again."""
    average: Average
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    """See `Confident`."""
    threshold: float = Field(gt=0, le=1)
    data: str
    data_sha256: Sha256
    seed: int
    """Of the split into validation and test part."""
    validation: Measured
    test: Measured


class Calibrations(Facts):
    """Of one bundle, by the name of the plan."""

    digest: Sha256
    plans: dict[str, Calibration] = Field(default_factory=dict)


def fingerprint(plan: Plan) -> str:
    """The sha256 of what makes the views of a plan."""
    return hashlib.sha256(plan.model_dump_json(exclude={"name", "source", "average"}).encode()).hexdigest()


def read_calibrations(folder: Path, digest: str) -> dict[str, Calibration]:
    """By the name of the plan; empty where there are none.

    Raises:
        BundleError: the file is damaged.
    """
    found = read_json(folder / FOLDER / f"{digest}.json", Calibrations)
    return {} if found is None else found.plans


def keep(folder: Path, digest: str, plan: str, calibration: Calibration) -> Path:
    """Adds the calibration of a plan to those of a bundle, in the place of an older one."""
    path = folder / FOLDER / f"{digest}.json"
    plans = {**read_calibrations(folder, digest), plan: calibration}
    write_text(path, Calibrations(digest=digest, plans=plans).model_dump_json(indent=1) + "\n")
    return path


def find_rule(stop: StopOption, plan: Plan, average: Average, calibrations: dict[str, Calibration]) -> Rule:
    """The rule that a request asks for.

    Raises:
        ValueError: `exact` with another average than that of probabilities, or `confident` without a calibration for
            this plan and average, or with a plan of one view.
    """
    if stop.kind == "never":
        return Never()
    if stop.kind == "exact":
        if average != "probabilities":
            raise ValueError(
                f"{plan.name} has average={average}; stop=exact holds for average=probabilities alone, ask for both"
            )
        return Exact()
    if len(plan) == 1:  # which `calibrate` refuses
        raise ValueError(f"{plan.name} has one view; there is nothing to stop early, use stop=never")
    found = calibrations.get(plan.name)
    if found is None or found.plan_sha256 != fingerprint(plan) or found.average != average:
        raise ValueError(
            f"{plan.name} with average={average} is not calibrated; run multicrop-export calibrate, or use stop=exact"
        )
    return Confident(found.threshold if stop.threshold is None else stop.threshold, found.temperatures)
