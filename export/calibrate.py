"""The command `calibrate`: when `stop=confident` is sure enough, chosen on one half of labelled images.

Waves are of the distinct views of each image, as the service runs them: an image whose views are partly identical has
fewer. The other half is read once, for the figures.
"""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from tqdm import tqdm

from bundle.aggregate import Average, average, sharpen
from bundle.calibration import Calibration, Measured, fingerprint, keep, read_calibrations
from bundle.labelled import Labelled, open_labelled
from bundle.plan import Plan
from bundle.stop import Confident, Never, Rule, doubling, replay
from export.errors import ExportError
from export.evaluate import Scores, Unread, choose, score
from export.evaluations import complaints, heading
from export.jobs import CalibrateJob
from export.target import Target, find_bundle

Probabilities = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

TEMPERATURES = (0.1, 10.0)
"""Between which a temperature is looked for; networks are over-confident by 1.5 to 3 (Guo et al., 2017, table 1)."""


def tell(job: CalibrateJob) -> str:
    """Calibrates a plan, keeps the calibration beside the bundle, and says both halves' figures.

    Raises:
        ExportError, BundleError, LabelledError: what is wrong; nothing was kept.
    """
    target = find_bundle(job.bundle)
    (plan,) = target.plans([job.views])
    how, _ = choose(target.bundle, plan, job.average)
    if len(plan) == 1:
        raise ExportError(f"{plan.name} has one view; there is nothing to stop early")
    data = open_labelled(job.data, target.bundle.labels, job.part)
    read_calibrations(target.folder, target.bundle.digest)  # a damaged file is named before hours of work, not after
    calibration, unread = calibrate(target, data, plan, how, loss=job.loss, seed=job.seed)
    path = keep(target.folder, target.bundle.digest, plan.name, calibration)
    temperatures = ", ".join(f"{temperature:.3g}" for temperature in calibration.temperatures)
    return "\n".join(
        [
            heading(target, data),
            f"{plan.name}, average={how}: threshold {calibration.threshold:.6g}, temperatures {temperatures}",
            _figures("validation", calibration.validation),
            _figures("test", calibration.test),
            *complaints(unread, "left out"),
            f"kept in {path}",
        ]
    )


def calibrate(
    target: Target, data: Labelled, plan: Plan, how: Average, *, loss: float, seed: int
) -> tuple[Calibration, tuple[Unread, ...]]:
    """The calibration of a plan, and the images that could not be read.

    Args:
        target: the bundle.
        data: all the images.
        plan: one that the bundle can run.
        how: over the views.
        loss: percent of the validation half that is right with all views and may become wrong.
        seed: of the halves.

    Raises:
        ExportError: no threshold keeps that much accuracy.
        LabelledError: the data cannot be split.
    """
    halves = data.split(seed)
    validation = _score(target, halves[0], plan)
    means = wave_means(validation, how)
    temperatures = fit_temperatures(means, validation.labels)
    confidences = [
        np.array([sharpen(mean, temperature).max() for mean, temperature in zip(of_one, temperatures, strict=False)])
        for of_one in means
    ]
    right = [of_one.argmax(axis=1) == label for of_one, label in zip(means, validation.labels, strict=True)]
    threshold = find_threshold(confidences, right, loss / 100 * len(validation))
    rule = Confident(threshold, temperatures)
    test = _score(target, halves[1], plan)
    calibration = Calibration(
        plan_sha256=fingerprint(plan),
        average=how,
        temperatures=temperatures,
        threshold=threshold,
        data=data.name,
        data_sha256=data.digest(),
        seed=seed,
        validation=_measured(validation, rule, how),
        test=_measured(test, rule, how),
    )
    return calibration, (*validation.unread, *test.unread)


def wave_means(scores: Scores, how: Average) -> list[Probabilities]:
    """Of each image the mean over the views so far after each wave of `Confident`: [waves, classes]."""
    return [
        np.stack([average(logits[:count], weights[:count], how) for count in doubling(len(weights))])
        for logits, weights in scores.each()
    ]


def fit_temperatures(means: Sequence[Probabilities], labels: Labels) -> tuple[float, ...]:
    """One for each wave, from the images that have so many.

    Args:
        means: of each image, [waves, classes].
        labels: [images]
    """
    waves = max(map(len, means))
    having = [[image for image, of_one in enumerate(means) if len(of_one) > wave] for wave in range(waves)]
    return tuple(
        fit_temperature(np.stack([means[image][wave] for image in images]), labels[images])
        for wave, images in enumerate(having)
    )


def fit_temperature(probabilities: Probabilities, labels: Labels) -> float:
    """The temperature at which sharpened probabilities make the labels most likely, see `TEMPERATURES`.

    Args:
        probabilities: [images, classes]
        labels: [images]
    """
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda log: -log_likelihood(probabilities, labels, float(np.exp(log))), bounds=(low, high), method="bounded"
    )
    return float(np.exp(found.x))


def log_likelihood(probabilities: Probabilities, labels: Labels, temperature: float) -> float:
    """The mean logarithm of the label's probability after `sharpen`."""
    logs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    sharpened = log_softmax(logs / temperature, axis=1)
    return float(sharpened[np.arange(len(labels)), labels].mean())


class _Step(NamedTuple):
    """Below this threshold one image stops at an earlier wave."""

    threshold: float
    lost: int
    """Right answers that become wrong: 1, or 0, or -1 where that wave is right again."""


def find_threshold(confidences: Sequence[Probabilities], right: Sequence[npt.NDArray[np.bool_]], loss: float) -> float:
    """The smallest threshold at which, and above which, early exit turns no more right answers wrong than allowed.

    Wrong answers that it turns right do not make up for them, and a smaller threshold that does well below others that
    do not is not taken: both are luck. Of ResNet-20 with `flips` on 500 images, halves drawn 30 times, the balance of
    both cost 0.34 points on the other half (2.4 at worst) with 1.09 views, this 0.01 (0.6 at worst) with 1.13.

    Args:
        confidences: of each image, after each wave.
        right: likewise, whether the answer is right.
        loss: right answers with all views that may become wrong.

    Raises:
        ExportError: even certainty loses more.
    """
    steps = sorted(
        (step for of_one, answers in zip(confidences, right, strict=True) for step in _steps(of_one, answers)),
        reverse=True,
    )
    found, lost = None, 0
    for threshold, together in groupby(steps, key=attrgetter("threshold")):
        lost += sum(step.lost for step in together)
        if lost > loss:
            break
        found = float(threshold)
    if found is None and steps and steps[0].threshold >= 1:
        raise ExportError("images of which the network is certain are answered wrongly; use stop=exact")
    return 1.0 if found is None else found


def _steps(confidences: Probabilities, right: npt.NDArray[np.bool_]) -> list[_Step]:
    """As the threshold falls: first with all views, then at the wave of the highest confidence, and so on down."""
    found = []
    highest = np.maximum.accumulate(np.concatenate([[0.0], confidences[:-1]]))
    lost = right[-1] & ~right  # at each wave, of the answer with all views
    after = 0
    for wave in reversed(range(len(confidences) - 1)):
        if confidences[wave] > highest[wave]:  # else an earlier wave has already stopped it
            found.append(_Step(float(confidences[wave]), int(lost[wave]) - after))
            after = int(lost[wave])
    return found


def _score(target: Target, half: Labelled, plan: Plan) -> Scores:
    with tqdm(total=len(half), desc=half.name, unit="image", disable=None) as bar:
        return score(target.bundle, half, plan, bar.update)


def _measured(scores: Scores, rule: Rule, how: Average) -> Measured:
    def run(rule: Rule) -> tuple[int, float]:
        answers = [replay(logits, weights, rule, how) for logits, weights in scores.each()]
        right = sum(int(mean.argmax() == label) for (mean, _), label in zip(answers, scores.labels, strict=True))
        return right, sum(views for _, views in answers) / len(answers)

    (right, views), (right_full, views_full) = run(rule), run(Never())
    return Measured(
        images=len(scores), right=right, right_full=right_full, mean_views=views, mean_views_full=views_full
    )


def _figures(part: str, measured: Measured) -> str:
    full, early = (100 * (1 - right / measured.images) for right in (measured.right_full, measured.right))
    return (
        f"{part}: {measured.images} images, top-1 error {early:.2f} % after {measured.mean_views:.4g} views, "
        f"{full:.2f} % after all {measured.mean_views_full:.4g}"
    )
