"""What the picture of a frontier shows: its panels, their Pareto lines, the names of the points."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from export.goals import COST, SPEED, Configuration, Goals, Measure, pareto

HEADROOM = 1.6
"""The picture ends at so many times the highest interval of the Pareto lines; what lies above is drawn at its edge."""


class Panel(NamedTuple):
    """What one panel has across."""

    key: str
    title: str
    measure: Measure

    def across(self, configuration: Configuration) -> float:
        return self.measure.of(configuration)


PANELS = (
    Panel("cost", "GMAC per image (less is cheaper)", COST),
    Panel("speed", "images per second on this machine (more is faster)", SPEED),
)


def line(configurations: Sequence[Configuration], panel: Panel) -> list[int]:
    """The places on the Pareto line of a panel."""
    sign = -1 if panel.measure.more else 1
    return pareto([(sign * panel.across(c), c.error) for c in configurations])


def short_names(configurations: Sequence[Configuration]) -> list[str]:
    """For each what tells it from the others: the plan; model, version, mean of logits and stop where they differ."""
    models = len({c.model for c in configurations}) > 1
    versions = len({c.version for c in configurations}) > 1
    averages = len({c.accuracy.average for c in configurations}) > 1
    stops = len({c.accuracy.stop for c in configurations}) > 1
    names = []
    for c in configurations:
        result = c.accuracy
        words = [f"{c.model}/{c.version}" if models else str(c.version) if versions else "", result.views]
        words += ["logits"] * (averages and result.average == "logits")
        words += [result.stop] * (stops and result.stop != "never")
        names.append(" ".join(filter(None, words)))
    return names


@dataclass(frozen=True)
class Scene:
    """What is drawn."""

    configurations: Sequence[Configuration]
    """At least one, measured on the same images."""
    goals: Goals
    """Dashed lines where a panel has their axis."""
    chosen: Configuration | None
    """Marked."""

    @cached_property
    def ceiling(self) -> float:
        """The error at the upper edge: a few hopeless configurations must not press the others together."""
        members = {place for panel in PANELS for place in line(self.configurations, panel)}
        high = max(self.configurations[place].accuracy.interval().high for place in members)
        return max(HEADROOM * high, 1.1 * (self.goals.error or 0.0))

    @property
    def errors(self) -> tuple[float, float]:
        """At the lower and at the upper edge."""
        intervals = [c.accuracy.interval() for c in self.configurations]
        low, high = min(i.low for i in intervals), max(i.high for i in intervals)
        margin = 0.05 * (min(high, self.ceiling) - low)
        return max(low - margin, 0.0), min(high + margin, self.ceiling)

    def height(self, configuration: Configuration) -> float:
        return min(configuration.error, self.ceiling)

    @cached_property
    def versions(self) -> list[tuple[str, int]]:
        """Models and versions, in the order of their first configurations."""
        return list(dict.fromkeys((c.model, c.version) for c in self.configurations))
