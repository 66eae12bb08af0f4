"""What serves, by name and version. One thread writes, any thread reads."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bundle.serving import ALIAS, MAX_VERSION, SERVING
from service.ensemble import Ensemble
from service.errors import InvalidParameterError, ModelNotFoundError, ModelNotReadyError
from service.model import ServedModel
from service.repository import Stamp

State = Literal["LOADING", "READY", "UNAVAILABLE"]


@dataclass(frozen=True, slots=True)
class Version:
    """One line of the index."""

    state: State
    model: ServedModel | Ensemble | None = None
    reason: str = ""
    """Why it does not serve; of one that serves, what of its plans or calibrations is left out, or why it is not what
    lies on the disk now."""
    stamp: Stamp | None = None
    """What was tried last."""
    refused: bool = False
    """What was tried last does not serve; what was there before may."""


Line = dict[int | None, Version]
"""The versions of a model by their numbers; an ensemble has one line, without a number."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload did to a line of the index."""

    name: str
    version: int | None
    outcome: str
    """One of `metrics.RELOADS`."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """A name, in one piece: whoever reads an alias finds its version in the same line."""

    line: Line
    aliases: dict[str, int]
    """Other names of versions."""


class Index:
    """Its dictionaries are replaced and never changed: a reader sees what was before or after, never between."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}

    @property
    def names(self) -> set[str]:
        return set(self._known)

    def line(self, name: str) -> Line:
        """Empty where there is none; not to be changed."""
        known = self._known.get(name)
        return known.line if known else {}

    def aliases(self, name: str) -> dict[str, int]:
        known = self._known.get(name)
        return known.aliases if known else {}

    def publish(self, name: str, line: Line, aliases: dict[str, int] | None = None) -> None:
        """From here on requests get what this line says; an empty one ends the name. Without aliases they stay."""
        others = {other: known for other, known in self._known.items() if other != name}
        kept = self.aliases(name) if aliases is None else aliases
        self._known = {**others, name: Known(line, kept)} if line else others

    def sorted(self) -> dict[str, Line]:
        """Every version of every model, the oldest first, and every ensemble."""
        return {name: dict(_in_order(known.line)) for name, known in sorted(self._known.items())}

    def holds(self, wanted: Callable[[ServedModel | Ensemble], bool]) -> bool:
        return any(found.model and wanted(found.model) for each in self._known.values() for found in each.line.values())

    def get(self, name: str, version: int | str | None = None) -> ServedModel | Ensemble:
        """As `ModelRegistry.get`."""
        known = self._known.get(name)
        if not known:
            there = ", ".join(self._known) or "nothing yet"
            raise ModelNotFoundError(f"there is no model {name[:64]!r}; this server has {there}")
        line = known.line
        if version is not None and None in line:
            raise InvalidParameterError(f"{name} is an ensemble, which has no versions; leave version out")
        number = _number(name, version, known.aliases) if isinstance(version, str) else version
        if number is None:
            served = next((found.model for _, found in reversed(_in_order(line)) if found.model), None)
            if served:
                return served
            number = _in_order(line)[-1][0]
        if number not in line:
            raise ModelNotFoundError(f"{name} has no version {number}; it has {', '.join(map(str, line))}")
        return _served(name, number, line[number])


def _number(name: str, version: str, aliases: dict[str, int]) -> int:
    if re.fullmatch(r"[1-9][0-9]{0,9}", version) and int(version) < MAX_VERSION:
        return int(version)
    if not ALIAS.fullmatch(version):
        raise InvalidParameterError("version is neither a number, such as 3, nor an alias, such as stable")
    if version not in aliases:
        known = ", ".join(f"{alias} = {number}" for alias, number in aliases.items()) or "none"
        raise ModelNotFoundError(f"{name} has no alias {version!r}; of its {SERVING} it has {known}")
    return aliases[version]


def _served(name: str, number: int | None, found: Version) -> ServedModel | Ensemble:
    if found.model is not None:
        return found.model
    what = name if number is None else f"version {number} of {name}"
    loading = found.state == "LOADING"
    doing = "is loading; try again soon" if loading else f"was refused: {found.reason}"
    raise ModelNotReadyError(f"{what} {doing}", loading=loading)


def _in_order(line: Line) -> list[tuple[int | None, Version]]:
    return sorted(line.items(), key=lambda item: item[0] or 0)
