"""The rate at a step, as a pure function of how far the training is: nothing to save, nothing to restore wrongly."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from export.train.recipe import Constant, Exponential, OneCycle, Plateau, Polynomial, Recipe, Schedule, Steps, Unit


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    step: int
    """Steps done."""
    steps: int
    """In all."""
    steps_per_epoch: int
    errors: Sequence[float] = ()
    """Of the validation part, one for each epoch done."""

    def done(self, unit: Unit) -> float:
        return self.step if unit == "iteration" else self.step / self.steps_per_epoch


def factor(schedule: Schedule, at: Progress) -> float:
    """What the highest rate is multiplied by for the step that comes after `at.step` steps."""
    match schedule:
        case Constant():
            return 1.0
        case Steps():
            return schedule.factor ** sum(milestone <= at.done(schedule.unit) for milestone in schedule.at)
        case Exponential():
            # 8 epochs of 1/6 each are 1.333...: a sum of rounded steps must not fall short of its milestone
            return schedule.factor ** math.floor(at.done(schedule.unit) / schedule.every + 1e-9)
        case Polynomial():
            return float((1 - at.step / at.steps) ** schedule.power)
        case Plateau():
            return schedule.factor ** drops(schedule, at.errors)
        case OneCycle():
            return _one_cycle(at.step, at.steps)


def drops(schedule: Plateau, errors: Sequence[float]) -> int:
    """How often the rate has been lowered after these validation errors."""
    best, waited, count = math.inf, 0, 0
    for error in errors:
        best, waited = (error, 0) if error < best else (best, waited + 1)
        if waited >= schedule.patience and count < schedule.times:
            count, waited = count + 1, 0
    return count


def _one_cycle(step: int, steps: int) -> float:
    """Cosines from 1/25 to 1 at 30 % of the steps and down to 1/250,000, as torch's OneCycleLR."""
    start, end = 1 / 25, 1 / 25 / 1e4
    top = max(0.3 * steps - 1, 1e-9)
    if step <= top:
        return _cosine(start, 1.0, step / top)
    return _cosine(1.0, end, min((step - top) / max(steps - 1 - top, 1e-9), 1.0))


def _cosine(begin: float, end: float, fraction: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * fraction)) / 2


@dataclass
class Rate:
    """The rate of a recipe, with its warm-up; what it remembers is plain, and goes into a checkpoint."""

    recipe: Recipe
    errors: list[float] = field(default_factory=list)
    """Of the validation part."""
    warm: bool = False
    """The warm-up is over."""
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    """Training errors of the last batches, while the warm-up lasts."""

    def at(self, step: int, steps: int, steps_per_epoch: int) -> float:
        if self.warming:
            assert self.recipe.warm_up is not None  # noqa: S101 `warming` says so
            return self.recipe.warm_up.rate
        return self.recipe.rate * factor(self.recipe.schedule, Progress(step, steps, steps_per_epoch, self.errors))

    @property
    def warming(self) -> bool:
        return self.recipe.warm_up is not None and not self.warm

    def saw(self, error: float) -> None:
        """A batch's training error."""
        if self.recipe.warm_up is not None and not self.warm:
            self.recent.append(error)
            full = len(self.recent) == self.recent.maxlen
            self.warm = full and sum(self.recent) / len(self.recent) < self.recipe.warm_up.error

    def state(self) -> dict[str, object]:
        return {"errors": list(self.errors), "warm": self.warm, "recent": list(self.recent)}

    def restore(self, state: dict[str, list[float]]) -> None:
        self.errors, self.warm = list(state["errors"]), bool(state["warm"])
        self.recent.extend(state["recent"])
