"""What a frontier found: as a page, as a table for the terminal, as the serving.toml to deploy."""

import json

from markupsafe import Markup
from pydantic import Field

from bundle.accuracy import TOP
from bundle.manifest import Facts, Sha256
from export.goals import Answer, Configuration, Goals, number
from export.scene import PANELS, line
from pages.html import render_page
from pages.svg import inline


class LeftOut(Facts):
    """What was not measured."""

    model: str
    """NAME/VERSION."""
    views: str
    reason: str


class Frontier(Facts):
    """A whole run."""

    data: str
    data_sha256: Sha256
    images: int
    unread: int = 0
    """Images that cannot be read; they count as wrong."""
    cores: int
    """Of the machine."""
    threads: int
    """That images per second were measured on."""
    alone: int
    """Images whose latency was measured, at most."""
    configurations: tuple[Configuration, ...] = Field(min_length=1)
    """By ascending cost."""
    left_out: tuple[LeftOut, ...] = ()
    goals: Goals = Goals()
    answer: Answer | None = None
    """None where no goal was given."""
    tools: dict[str, str] = Field(default_factory=dict)
    """The versions of what decodes, draws and runs: speed depends on them."""

    @property
    def lines(self) -> dict[str, list[int]]:
        """The places on the Pareto line of each panel."""
        return {panel.key: line(self.configurations, panel) for panel in PANELS}

    def html(self, svg: str) -> str:
        """One file without anything from elsewhere; `svg` is the picture."""
        errors = [edge for c in self.configurations for edge in c.accuracy.interval()]
        return render_page(
            "export",
            "frontier.html",
            {"number": number},
            report=self,
            picture=Markup(inline(svg)),  # noqa: S704 our own, and its texts are escaped
            names=sorted({c.model for c in self.configurations}),
            low=min(errors),
            span=max(errors) - min(errors) or 1.0,
            top=TOP,
        )

    def table(self) -> str:
        """Aligned columns, by ascending cost; a star marks what is on the Pareto line of cost."""
        head = (
            "",
            "model",
            "views",
            "average",
            "stop",
            "top-1 error % (95 %)",
            "views",
            "GMAC",
            "images/s",
            "ms alone",
        )
        on_line = self.lines["cost"]
        rows = [("*" if index in on_line else "", *_cells(c)) for index, c in enumerate(self.configurations)]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        words = 5
        return "\n".join(
            "  ".join(
                cell.ljust(width) if place < words else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (head, *rows)
        )

    def text(self) -> str:
        """For the terminal."""
        said = self.answer.said if self.answer else ()
        left = [f"not measured: {one.model} with {one.views}: {one.reason}" for one in self.left_out]
        return "\n".join([self.table(), *left, *said])

    def serving(self) -> str:
        """The serving.toml of the configuration to deploy; call it where the goals are met."""
        assert self.answer  # noqa: S101 see above
        chosen = self.answer.configuration
        result = chosen.accuracy
        return "\n".join(
            [
                f"# For the model {chosen.model}: copy this file into its folder, beside the versions.",
                f"# {chosen.figures}",
                f"# On {result.images} images, sha256:{result.data_sha256}",
                f"versions = [{chosen.version}]",
                f"views = {json.dumps(result.views)}",
                f"average = {json.dumps(result.average)}",
                f"stop = {json.dumps(result.stop)}",
                "",
            ]
        )


def _cells(configuration: Configuration) -> tuple[str, ...]:
    result, interval = configuration.accuracy, configuration.accuracy.interval()
    return (
        f"{configuration.model}/{configuration.version}",
        result.views,
        result.average,
        result.stop,
        f"{configuration.error:.2f} ({interval.low:.2f}-{interval.high:.2f})",
        number(result.mean_views),
        number(result.gmacs),
        number(result.images_per_second),
        number(configuration.latency_ms),
    )
