"""What a batch did: a row for each model, as a table for the terminal, as JSON and as an HTML page."""

from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bundle.beside import write_atomically
from bundle.manifest import Manifest
from export.exports import TOOLS, Export
from export.jobs import FreezeJob
from pages.html import render_page

State = Literal["done", "skipped", "failed"]

COLUMNS = ("model", "state", "parameters", "folded", "GMAC", "MB", "parity", "allowed", "BN", "seconds", "peak MiB")
LEFT = (True, True, *(False for _ in COLUMNS[2:]))
"""Text stands left, numbers right."""


class Row(BaseModel):
    """One model; what a failed one never reached is None."""

    model_config = ConfigDict(frozen=True)

    network: str
    name: str
    version: int | None
    state: State
    reason: str = ""
    """Why it failed."""
    parameters: int | None = None
    folded_parameters: int | None = None
    macs: int | None = None
    """Multiply-adds of one view at native size."""
    bytes: int | None = None
    """Of all files that the manifest names."""
    max_rel: float | None = None
    """The worst parity case: the largest |difference| from torch by the largest |logit|."""
    tolerance: float | None = None
    batchnorm_nodes: int | None = None
    """In the graph."""
    seconds: float | None = None
    """From the start of the process to its end; of a skipped bundle when it was made."""
    peak_mib: float | None = None
    """The largest resident memory of the process; likewise."""
    digest: str | None = None

    @classmethod
    def of(cls, job: FreezeJob, state: State, number: int, digest: str, manifest: Manifest, export: Export) -> "Row":
        """The row of a bundle."""
        return cls(
            network=manifest.architecture,
            name=job.model,
            version=number,
            state=state,
            parameters=manifest.parameters,
            folded_parameters=manifest.folded_parameters,
            macs=manifest.macs,
            bytes=sum(file.size for file in manifest.files.values()),
            max_rel=max(case.max_rel for case in manifest.parity.cases),
            tolerance=manifest.parity.tolerance,
            batchnorm_nodes=export.batchnorm_nodes,
            seconds=export.seconds,
            peak_mib=export.peak_mib,
            digest=digest,
        )

    @classmethod
    def failed(cls, job: FreezeJob, reason: str, seconds: float | None) -> "Row":
        """The row of a model without a bundle."""
        return cls(
            network=job.network or job.module or job.model,
            name=job.model,
            version=job.version,
            state="failed",
            reason=reason,
            seconds=seconds,
        )

    @property
    def model(self) -> str:
        return self.name if self.version is None else f"{self.name}/{self.version}"

    def cells(self) -> tuple[str, ...]:
        """Its text in each of `COLUMNS`."""
        return (
            self.model,
            self.state,
            _whole(self.parameters),
            _whole(self.folded_parameters),
            _fixed(self.macs, 4, 1e9),
            _fixed(self.bytes, 1, 1e6),
            _small(self.max_rel),
            _small(self.tolerance),
            _whole(self.batchnorm_nodes),
            _fixed(self.seconds, 1),
            _fixed(self.peak_mib, 0),
        )


class Report(BaseModel):
    """A whole run."""

    model_config = ConfigDict(frozen=True)

    file: str
    """The list."""
    repository: str
    workers: int
    seconds: float
    """Of the whole run."""
    rows: tuple[Row, ...]
    tools: dict[str, str] = {}

    def count(self, state: State) -> int:
        return Counter(row.state for row in self.rows)[state]

    @property
    def largest_mib(self) -> float | None:
        return max((row.peak_mib for row in self.rows if row.peak_mib is not None), default=None)

    @property
    def summary(self) -> str:
        counts = ", ".join(f"{self.count(state)} {state}" for state in ("done", "skipped", "failed"))
        return f"{len(self.rows)} models: {counts}, in {duration(self.seconds)}"

    def table(self) -> str:
        """Aligned columns, then the reasons of failures, then a summary."""
        lines = [COLUMNS, *(row.cells() for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(map(_pad, line, widths, LEFT)).rstrip() for line in lines]
        reasons = [f"{row.model} failed: {row.reason}" for row in self.rows if row.state == "failed"]
        return "\n".join([*text, *reasons, self.summary])

    def html(self) -> str:
        """One file without anything from elsewhere."""
        filters = {"whole": _whole, "fixed": _fixed, "small": _small, "duration": duration}
        return render_page("export", "report.html", filters, report=self)


def write_report(report: Report, folder: Path) -> None:
    """`report.json` and `report.html`, each old or new and never half."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "report.json", report.model_dump_json(indent=1).encode() + b"\n")
    write_atomically(folder / "report.html", report.html().encode())


def tools() -> dict[str, str]:
    return {tool: version(tool) for tool in TOOLS}


def duration(seconds: float) -> str:
    """42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004 a minute
        return f"{whole} s"
    if whole < 3600:  # noqa: PLR2004 an hour
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _pad(cell: str, width: int, left: bool) -> str:
    return cell.ljust(width) if left else cell.rjust(width)


def _whole(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _fixed(value: float | None, digits: int, unit: float = 1) -> str:
    return "" if value is None else f"{value / unit:,.{digits}f}"


def _small(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}".replace("e-0", "e-")
