"""What a load test found: as a table for the terminal, as JSON; `page` makes the HTML of it."""

from datetime import datetime

from pydantic import Field

from bundle.manifest import Facts
from service.loadtest.arrivals import Arrivals
from service.loadtest.figures import PERCENTILES, Figures
from service.loadtest.sample import STAGES
from service.loadtest.sweep import bracket

LATE_MS = 10.0
"""The p99 by which a generator may be behind before its figures are doubted."""
BUSY = 0.9
"""Of a core, likewise."""


class Report(Facts):
    """A whole run."""

    when: datetime
    host: str
    """Of the server, with its port."""
    model: str
    version: int | None
    """That answered; None of an ensemble."""
    digest: str | None
    options: dict[str, str]
    """Of the requests, as they were sent."""
    images: int
    image_bytes: int
    """Of all together."""
    arrivals: Arrivals | None
    """None in a closed loop."""
    deadline_ms: int | None
    warmup: float
    """Seconds before each step."""
    duration: float
    """Seconds that each step was to be measured."""
    sweep: bool
    interrupted: bool
    """Ended by hand: the last step is shorter, and what was under way does not count."""
    steps: tuple[Figures, ...] = Field(min_length=1)
    """By ascending load."""

    @property
    def knee(self) -> Figures | None:
        """The highest load that the server bears; None where it bears none, or it was not searched for."""
        return bracket(self.steps).holds if self.sweep else None

    @property
    def best(self) -> Figures:
        """The step with the most answers in time per second."""
        return max(self.steps, key=lambda step: step.goodput)

    @property
    def lost(self) -> int:
        """Requests of all steps without any answer."""
        return sum(sum(step.errors.values()) for step in self.steps)

    def said(self) -> list[str]:
        """The result in sentences."""
        return [*(self._capacity() if self.sweep else ()), *self._doubts()]

    def table(self) -> str:
        """Aligned columns, a row a step."""
        head = (self.of, "sent", "answered", "refused", "errors", "answers/s", "in time/s",
                *(f"p{which:g}" for which in PERCENTILES), "max ms", *STAGES, "late p99")  # fmt: skip
        rows = [head, *map(cells, self.steps)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)

    def causes(self) -> list[str]:
        """Why requests have no answer, a line a step that has such."""
        return [
            f"{load_of(step)}: "
            + ", ".join(f"{count} x {code}" for code, count in {**step.refused, **step.errors}.items())
            for step in self.steps
            if step.refused or step.errors
        ]

    def text(self) -> str:
        """For the terminal."""
        return "\n".join([self.table(), *self.causes(), *self.said()])

    @property
    def of(self) -> str:
        """What the load is counted in."""
        return "requests/s" if self.arrivals else "clients"

    def _capacity(self) -> list[str]:
        within = f" within {self.deadline_ms} ms" if self.deadline_ms else ""
        knee, best = self.knee, self.best
        if knee is None:
            lowest = self.steps[0]
            part = f"{100 * lowest.on_time:.1f} %"
            return [f"no capacity found{within}: already at {load_of(lowest)} only {part} were answered so"]
        p99, top = knee.percentile(99), max(step.load for step in self.steps)
        tail = "p99 unknown (too few answers: give a longer --duration)" if p99 is None else f"p99 {number(p99)} ms"
        said = f"capacity {number(best.goodput)} answers/s{within}; {tail} at {load_of(knee)}"
        return [said if knee.load < top else f"{said}; it was not found out how much more it bears"]

    def _doubts(self) -> list[str]:
        """Why not to believe a figure."""
        late = max((step.late_p99_ms or 0.0 for step in self.steps), default=0.0)
        said = []
        if late > LATE_MS:
            said.append(
                f"the load generator was behind by up to {number(late)} ms (p99): it shares its machine with too much,"
                " or the rate is beyond it; do not trust the latencies of those steps"
            )
        if any(step.cores > BUSY for step in self.steps):
            said.append("the load generator kept a core busy: it may be what limits the answers per second")
        if self.interrupted:
            said.append("interrupted: what was under way does not count")
        return said


def number(value: float) -> str:
    """Three digits, and all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 three digits


def cells(step: Figures) -> tuple[str, ...]:
    """The texts of a step in the columns of the table; what is not known is a dash."""
    percentiles = map(step.percentile, PERCENTILES)
    stages = map(step.server_ms.get, STAGES)
    return (
        number(step.load),
        str(step.sent),
        str(step.answered),
        str(sum(step.refused.values())),
        str(sum(step.errors.values())),
        *map(_cell, (step.throughput, step.goodput, *percentiles, step.max_ms, *stages, step.late_p99_ms)),
    )


def _cell(value: float | None) -> str:
    return "-" if value is None else number(value)


def load_of(step: Figures) -> str:
    """Its load, in words."""
    if step.rate is not None:
        return f"{number(step.rate)}/s"
    return "1 client" if step.concurrency == 1 else f"{step.concurrency} clients"
