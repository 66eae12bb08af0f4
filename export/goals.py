"""Which configuration to deploy: the Pareto line of error against cost, and the choice among those that meet goals.

Pure functions of what was measured.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pydantic import Field

from bundle.accuracy import Accuracy
from bundle.manifest import Facts, Sha256


class Configuration(Facts):
    """One version with one plan, average and stop, measured on the labelled images."""

    model: str
    version: int = Field(ge=1)
    digest: Sha256
    accuracy: Accuracy
    latency_ms: float = Field(gt=0)
    """Of one image alone, one thread: the median of a few, in milliseconds."""

    @property
    def error(self) -> float:
        """Top-1, in percent."""
        return self.accuracy.error()

    @property
    def title(self) -> str:
        result = self.accuracy
        odd = ["" if result.average == "probabilities" else ", mean of logits"]
        odd += ["" if result.stop == "never" else f", stop={result.stop}"]
        return f"{self.model}/{self.version} with {result.views}{''.join(odd)}"

    @property
    def figures(self) -> str:
        result, interval = self.accuracy, self.accuracy.interval()
        return (
            f"Top-1 error {self.error:.2f} % (95 %: {interval.low:.2f}-{interval.high:.2f}), "
            f"{number(result.gmacs)} GMAC, {number(result.images_per_second)} images/s, "
            f"{number(self.latency_ms)} ms alone."
        )


class Measure(NamedTuple):
    """Something that a goal can bound."""

    name: str
    unit: str
    of: Callable[[Configuration], float]
    more: bool = False
    """Whether more of it is better."""


ERROR = Measure("top-1 error", " %", lambda c: c.error)
COST = Measure("cost", " GMAC", lambda c: c.accuracy.gmacs)
LATENCY = Measure("latency", " ms", lambda c: c.latency_ms)
SPEED = Measure("throughput", " images/s", lambda c: c.accuracy.images_per_second, more=True)


class Bound(NamedTuple):
    """One goal."""

    measure: Measure
    limit: float

    def excess(self, configuration: Configuration) -> float:
        """How many times over the limit, or below it where more is better; at most 1 where the goal is met."""
        value = self.measure.of(configuration)
        return self.limit / value if self.measure.more else value / self.limit

    def __str__(self) -> str:
        return f"{self.measure.name} of at {'least' if self.measure.more else 'most'} {self.amount(self.limit)}"

    def amount(self, value: float) -> str:
        return f"{number(value)}{self.measure.unit}"


class Goals(Facts):
    """What the configuration to deploy must keep to; None asks for nothing."""

    error: float | None = Field(default=None, gt=0)
    """Top-1, in percent, at most."""
    gmacs: float | None = Field(default=None, gt=0)
    """For an image, at most."""
    latency_ms: float | None = Field(default=None, gt=0)
    """Of one image alone, at most."""
    throughput: float | None = Field(default=None, gt=0)
    """Images per second, at least."""

    def bounds(self) -> list[Bound]:
        limits = {ERROR: self.error, COST: self.gmacs, LATENCY: self.latency_ms, SPEED: self.throughput}
        return [Bound(measure, limit) for measure, limit in limits.items() if limit is not None]


class Answer(Facts):
    """What to deploy."""

    met: bool
    """Whether it keeps to all goals; else it is the one that came nearest."""
    configuration: Configuration
    said: tuple[str, ...]
    """Why it is this one, and how sure that is: a sentence each."""


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the points (cost, error) that no other one dominates, by ascending cost.

    A point dominates another when neither of its numbers is larger and one is smaller; equal points are all kept.
    """
    line: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: points[place]):
        if not line or points[place][1] < points[line[-1]][1] or points[place] == points[line[-1]]:
            line.append(place)
    return line


def decide(configurations: Sequence[Configuration], goals: Goals) -> Answer:
    """The configuration to deploy.

    Among those that meet all goals it is the one of the lowest error, of equal ones the cheaper; where an error is all
    that is asked for, it is the cheapest. Where none meets them, it is the one whose worst excess is the smallest.

    Args:
        configurations: measured on the same images; at least one.
        goals: at least one.
    """
    bounds = goals.bounds()
    meeting = [c for c in configurations if _meets(c, bounds)]
    if not meeting:
        return _nearest(configurations, bounds)
    if all(bound.measure is ERROR for bound in bounds):
        best, chosen = "the cheapest", min(meeting, key=lambda c: (c.accuracy.gmacs, c.error, *_rest(c)))
    else:
        best, chosen = "the lowest error", min(meeting, key=lambda c: (c.error, c.accuracy.gmacs, *_rest(c)))
    place = f"{best} of the {len(meeting)}" if len(meeting) > 1 else "the only one"
    why = f"Deploy {chosen.title}: {place} with a {_words(bounds)}, of {len(configurations)} measured."
    return Answer(met=True, configuration=chosen, said=(why, chosen.figures, *_doubts(chosen, configurations, bounds)))


def number(value: float) -> str:
    """Three digits, and no exponent for large ones."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"  # noqa: PLR2004 four digits


def _rest(configuration: Configuration) -> tuple[bool, float]:
    """Of equal ones the simpler: early exit that saves nothing is none."""
    return configuration.accuracy.stop != "never", configuration.latency_ms


def _meets(configuration: Configuration, bounds: Sequence[Bound]) -> bool:
    return all(bound.excess(configuration) <= 1 for bound in bounds)


def _nearest(configurations: Sequence[Configuration], bounds: Sequence[Bound]) -> Answer:
    nearest = min(configurations, key=lambda c: (max(bound.excess(c) for bound in bounds), c.error, c.accuracy.gmacs))
    missed = [bound for bound in bounds if bound.excess(nearest) > 1]
    found = " and a ".join(f"{bound.measure.name} of {bound.amount(bound.measure.of(nearest))}" for bound in missed)
    said = (
        f"None of {len(configurations)} configurations has a {_words(bounds)}.",
        f"{nearest.title} comes nearest, with a {found}.",
        nearest.figures,
    )
    return Answer(met=False, configuration=nearest, said=said)


def _doubts(chosen: Configuration, configurations: Sequence[Configuration], bounds: Sequence[Bound]) -> list[str]:
    """An error is an estimate: whether the bound on it may be missed, and whether something cheaper may be as good."""
    mine, said = chosen.accuracy.interval(), []
    if any(bound.measure is ERROR and mine.high > bound.limit for bound in bounds):
        said.append(f"The 95 % interval of its error reaches {mine.high:.2f} %, which is more than was asked for.")
    others = [bound for bound in bounds if bound.measure is not ERROR]
    rivals = [
        c
        for c in configurations
        if c.accuracy.gmacs < chosen.accuracy.gmacs and _meets(c, others) and c.accuracy.interval().low <= mine.high
    ]
    if rivals:
        rival = min(rivals, key=lambda c: (c.accuracy.gmacs, c.error))
        said.append(
            f"{rival.title} is cheaper: {number(rival.accuracy.gmacs)} GMAC, error {rival.error:.2f} %. The intervals "
            f"overlap: {chosen.accuracy.images:,} images do not settle that it is worse."
        )
    return said


def _words(bounds: Sequence[Bound]) -> str:
    return " and a ".join(map(str, bounds))
