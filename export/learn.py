"""The command `learn-weights`: one weight for each view of a plan, learned on one half of labelled images.

The method is AugTTA (Shanmugam et al., ICCV 2021, "Better Aggregation in Test-Time Augmentation"): weights of at least
0 on temperature-scaled logits. Learned weights are not always better than the plan's own, so a part of that half
decides; the other half of the images is read once, for the figures, and only if there is a plan to write.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tomli_w
import torch
from pydantic import JsonValue
from torch import nn
from tqdm import tqdm

from bundle.aggregate import Average, average
from bundle.beside import read_toml, write_text
from bundle.labelled import Labelled, open_labelled
from bundle.plan import Plan
from bundle.plans import FOLDER, PUBLISHED, CustomPlan
from export.calibrate import Probabilities, fit_temperature, log_likelihood
from export.errors import ExportError
from export.evaluate import Scores, score
from export.evaluations import complaints, heading
from export.jobs import LearnWeightsJob
from export.target import Target, find_bundle
from export.verify import one_thread

Weights = npt.NDArray[np.float64]
"""[views]; they sum to 1."""

EPOCHS, BATCH, RATE, MOMENTUM, DECAY = 30, 32, 0.01, 0.9, 1e-4
"""The paper's, but for the batch, which is ours."""

DECIMALS = 10
"""Of a weight in the file: 2048 of them still sum to 1 within 1e-6."""


class Way(NamedTuple):
    """How the views of an image become one answer."""

    name: str
    weights: Weights
    how: Average


class Verdict(NamedTuple):
    """What decides between ways: right answers, then likelihood."""

    right: int
    log_likelihood: float
    """The mean of the labels, at the best temperature: sharpness alone is no advantage. To 4 decimals."""


def tell(job: LearnWeightsJob) -> str:
    """Learns the weights of a plan, writes them beside the bundle if they are an improvement, and says so either way.

    Raises:
        ExportError, BundleError, LabelledError: what is wrong; nothing was written.
    """
    target = find_bundle(job.bundle)
    plan = _base(target, job.views)
    path = _free(target, job.name or f"{plan.name}_learned")
    data = open_labelled(job.data, target.bundle.labels, job.part)
    validation, test = data.split(job.seed)
    fit, check = (_score(target, part, plan) for part in validation.split(job.seed))
    plain = plain_weights(plan)
    ways = _ways(plain, learn(fit, plain, job.seed))
    verdicts = [judge(way, fit, check) for way in ways]
    lines = [heading(target, data), f"{plan.name}, decided on {len(check)} images of the validation half:"]
    for way, (right, likelihood) in zip(ways, verdicts, strict=True):
        lines.append(f"  {way.name}: {right} right, log-likelihood {likelihood:.4f}")
    if max(verdicts[:-1]) >= verdicts[-1]:
        lines += complaints([*fit.unread, *check.unread], "left out")
        return "\n".join([*lines, "no improvement; no plan was written"])
    whole, last = joined(fit, check), _score(target, test, plan)
    ways = _ways(plain, learn(whole, plain, job.seed))
    figures = {"validation": errors(ways, whole), "test": errors(ways, last)}
    _write(path, plan, ways[-1].weights, target, data, {"seed": job.seed, **figures})
    lines += [f"{path.stem}, learned on the whole half; top-1 error %:"]
    lines += [f"  {part}: {_text(figure)}" for part, figure in figures.items()]
    return "\n".join([*lines, *complaints([*whole.unread, *last.unread], "left out"), f"written to {path}"])


@one_thread()
def learn(scores: Scores, start: Weights, seed: int) -> Weights:
    """The weights that make the labels most likely, by gradient descent.

    Args:
        scores: of the images to learn from.
        start: the weights to begin with.
        seed: of the order of the images.
    """
    temperature = fit_temperature(pooled(Way("", start, "logits"), scores), scores.labels)
    inputs, truths = torch.from_numpy(scores.logits / np.float32(temperature)), torch.from_numpy(scores.labels)
    weights = torch.tensor(start, dtype=torch.float32, requires_grad=True)
    descent = torch.optim.SGD([weights], lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        order = torch.randperm(len(truths), generator=generator)
        for first in range(0, len(order), BATCH):
            batch = order[first : first + BATCH]
            descent.zero_grad()
            loss = nn.functional.cross_entropy(torch.einsum("nvc,v->nc", inputs[batch], weights), truths[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            descent.step()
            weights.data.clamp_(min=0)
    found = weights.detach().double().numpy()
    total = found.sum()
    return np.asarray(found / total) if total > 0 else start


def pooled(way: Way, scores: Scores) -> Probabilities:
    """The answer for each image: [images, classes]."""
    return np.stack([average(logits, way.weights, way.how) for logits in scores.logits])


def judge(way: Way, fit: Scores, check: Scores) -> Verdict:
    """How good a way is on images that it was not learned from; the temperature is that of the others."""
    temperature = fit_temperature(pooled(way, fit), fit.labels)
    answers = pooled(way, check)
    return Verdict(_right(answers, check), round(log_likelihood(answers, check.labels, temperature), 4))


def errors(ways: list[Way], scores: Scores) -> dict[str, JsonValue]:
    """The number of images, and the top-1 error of each way in percent."""
    images = len(scores)
    found: dict[str, JsonValue] = {"images": images}
    return found | {way.name: round(100 * (1 - _right(pooled(way, scores), scores) / images), 4) for way in ways}


def joined(first: Scores, second: Scores) -> Scores:
    """The scores of two sets of images, one after the other."""
    return Scores(
        np.concatenate([first.logits, second.logits]),
        np.concatenate([first.labels, second.labels]),
        first.distinct + second.distinct,
        first.unread + second.unread,
    )


def plain_weights(plan: Plan) -> Weights:
    """Those of a published plan: equal, unless its parts have weights."""
    weights = np.concatenate([np.full(len(part), part.weight / len(part) if part.weight else 1) for part in plan.parts])
    return np.asarray(weights / weights.sum())


def _ways(plain: Weights, learned: Weights) -> list[Way]:
    """What there is without learning, then the learned weights."""
    return [
        Way("plain_probabilities", plain, "probabilities"),
        Way("plain_logits", plain, "logits"),
        Way("learned", learned, "logits"),
    ]


def _right(answers: Probabilities, scores: Scores) -> int:
    return int((answers.argmax(axis=1) == scores.labels).sum())


def _base(target: Target, name: str) -> Plan:
    (plan,) = target.plans([name])
    if name not in PUBLISHED:
        raise ExportError(f"{name} is a plan of the model's own; learn the weights of a published one, as ten_crop")
    if len(plan) == 1:
        raise ExportError(f"{name} has one view; learn the weights of another plan, as ten_crop")
    return plan


def _free(target: Target, name: str) -> Path:
    """Where the plan goes: a file of that name that somebody wrote by hand is not replaced."""
    path = target.folder / FOLDER / f"{name}.toml"
    if name in PUBLISHED:
        raise ExportError(f"{name} is a published plan; choose another --name")
    if path.exists() and read_toml(path, CustomPlan, lambda custom: custom.learned) is None:
        raise ExportError(f"{path.name} is there and was not learned; choose another --name")
    return path


def _score(target: Target, part: Labelled, plan: Plan) -> Scores:
    with tqdm(total=len(part), desc=part.name, unit="image", disable=None) as bar:
        return score(target.bundle, part, plan, bar.update)


def _write(
    path: Path, plan: Plan, weights: Weights, target: Target, data: Labelled, figures: dict[str, JsonValue]
) -> None:
    origin: dict[str, JsonValue] = {
        "bundle": target.bundle.digest,
        "data": data.name,
        "data_sha256": data.digest(),
    }
    custom = CustomPlan(
        source=f"The views of {plan.name} with weights learned from {data.name} (Shanmugam et al., 2021).",
        base=plan.name,
        average="logits",
        weights=tuple(np.round(weights, DECIMALS).tolist()),
        learned=origin | figures,
    )
    custom.plan(path.stem)  # what is written can be read
    write_text(path, tomli_w.dumps(custom.model_dump(mode="json", exclude_none=True)))


def _text(figure: dict[str, JsonValue]) -> str:
    return ", ".join(f"{key} {value}" for key, value in figure.items())
