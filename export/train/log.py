"""What the folder of a run says of its training: what was asked for, and how it went."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, JsonValue, ValidationError

from export.errors import ExportError

METRICS, RUN = "metrics.csv", "run.json"

ROUNDING = 1e-6
"""More than the log's float32 is off: of 5 % it says 0.05000000074505806."""


class Series(NamedTuple):
    """A column of the log, where it has a value."""

    steps: tuple[int, ...]
    """Steps done."""
    values: tuple[float, ...]


class Best(NamedTuple):
    """The epoch that a training would publish."""

    error: float
    """Of the validation part, a fraction."""
    loss: float
    epoch: int
    """From 1."""
    step: int
    """Steps done at its end."""
    train_error: float | None
    """The mean over the epoch."""


class Parts(BaseModel):
    train: int
    validation: int


class Length(BaseModel):
    batch: int
    epochs: int | None = None
    iterations: int | None = None


class Asked(BaseModel):
    """The part of run.json that is needed to understand the log."""

    network: str
    data: str
    split: Parts
    recipe: Length

    @property
    def steps_per_epoch(self) -> int:
        return max(self.split.train // self.recipe.batch, 1)

    @property
    def epochs(self) -> int:
        return self.recipe.epochs or -(-(self.recipe.iterations or 1) // self.steps_per_epoch)


@dataclass(frozen=True)
class Run:
    name: str
    asked: Asked
    facts: Mapping[str, JsonValue]
    """Everything that was asked for, flat: recipe.optimizer.momentum and so on."""
    columns: Mapping[str, Series]
    layers: tuple[str, ...]
    """The activations that were watched, as the network calls them."""

    def column(self, name: str) -> Series:
        return self.columns.get(name, Series((), ()))

    @property
    def epochs_done(self) -> int:
        """Those that were validated."""
        return len(self.column("validation_error").steps)

    @property
    def whole(self) -> bool:
        return self.epochs_done >= self.asked.epochs

    def best(self) -> Best | None:
        """The epoch of the smallest error, then of the smallest loss; None before the first was validated."""
        errors, losses = self.column("validation_error"), self.column("validation_loss")
        trained = dict(zip(*self.column("train_error_epoch"), strict=True))
        found = [
            Best(error, loss, step // self.asked.steps_per_epoch, step, trained.get(step))
            for step, error, loss in zip(errors.steps, errors.values, losses.values, strict=False)
            if math.isfinite(error)
        ]
        return min(found, default=None)

    def reached(self, error: float) -> int | None:
        """Steps done when a validation error of at most `error` was first seen; it is measured once an epoch."""
        errors, bound = self.column("validation_error"), error + ROUNDING
        return next((step for step, seen in zip(*errors, strict=True) if seen <= bound), None)


def read_run(folder: Path, name: str) -> Run:
    """The run in a folder, which may still be going on, or have been killed.

    Args:
        folder: that was given to `train --run`.
        name: for people.

    Raises:
        ExportError: it holds no run, or one without a row.
    """
    if not (folder / RUN).is_file():
        raise ExportError(f"{folder} holds no run; name a folder that was given to train --run")
    try:
        facts = json.loads((folder / RUN).read_text(encoding="utf-8"))
        asked = Asked.model_validate(facts)
    except (ValidationError, ValueError) as error:
        raise ExportError(f"{folder / RUN} is not what train --run wrote; the run cannot be understood") from error
    columns = _columns(folder / METRICS)
    if not columns:
        raise ExportError(f"{folder} has no row in {METRICS} yet; wait for the run's first epoch")
    layers = tuple(column.partition("/")[2] for column in columns if column.startswith("saturated/"))
    return Run(name, asked, flat(facts), columns, layers)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a log. A last line that a killed process did not finish is left out.

    Raises:
        ExportError: another line is no row of it.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text[: text.rfind("\n") + 1].splitlines()
    rows = list(csv.DictReader(lines))
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values() or not row.get("step", "").isdigit():
            raise ExportError(f"line {number} of {path} is no row of a log; delete it, or the file")
    return rows


def flat(values: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    """A value in an inner object under its keys, joined by points."""
    found: dict[str, JsonValue] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _columns(path: Path) -> dict[str, Series]:
    rows = read_rows(path)
    names = [name for name in (rows[0] if rows else ()) if name not in ("step", "epoch")]
    try:
        columns = {name: _series(rows, name) for name in names}
    except ValueError as error:
        raise ExportError(f"{path} holds what is no number: {error}; delete that line") from error
    return {name: series for name, series in columns.items() if series.steps}


def _series(rows: Sequence[Mapping[str, str]], name: str) -> Series:
    found = [(int(row["step"]) + 1, float(row[name])) for row in rows if row[name]]
    return Series(tuple(step for step, _ in found), tuple(value for _, value in found))
