"""What the operator wishes of a model: NAME/serving.toml, and NAME/ensemble.toml of a name that has no versions."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from bundle.aggregate import Average
from bundle.beside import read_toml
from bundle.manifest import Facts
from bundle.plan import WEIGHTS_SUM
from bundle.stop import StopOption

SERVING, ENSEMBLE = "serving.toml", "ensemble.toml"

MAX_VERSION = 1_000_000_000

Version = Annotated[int, Field(ge=1, lt=MAX_VERSION)]

ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class Serving(Facts):
    """serving.toml; what is left out stays as it is without the file."""

    versions: Literal["all", "latest"] | tuple[Version, ...] = "all"
    """Which versions are loaded."""
    views: str = "center"
    """The plan of requests that name none."""
    average: Average | None = None
    """Of requests that name none; the plan's own, or probabilities, when left out."""
    stop: str = "never"
    """Of requests that name none."""
    aliases: dict[str, Version] = Field(default_factory=dict)
    """Other names of versions, such as stable = 2, for requests that name a version."""

    @field_validator("aliases")
    @classmethod
    def _are_aliases(cls, aliases: dict[str, int]) -> dict[str, int]:
        for alias in aliases:
            if not ALIAS.fullmatch(alias):
                raise ValueError(
                    f"{alias!r:.40} is no alias; use small letters, digits, '_' and '-', at most 64, a letter first"
                )
        return aliases

    @field_validator("versions", mode="before")
    @classmethod
    def _are_versions(cls, versions: object) -> object:
        """What pydantic says of a union names one of its sides."""
        match versions:
            case "all" | "latest":
                return versions
            case [_, *_] if all(isinstance(version, int) and 0 < version < MAX_VERSION for version in versions):
                return versions
        raise ValueError(f'{versions!r:.40} is neither "all" nor "latest" nor a list of versions such as [1, 3]')

    @field_validator("stop")
    @classmethod
    def _is_a_stop(cls, stop: str) -> str:
        StopOption.parse(stop)
        return stop

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.stop == "exact" and self.average == "logits":  # no request that names neither could be answered
            raise ValueError('stop = "exact" holds for average = "probabilities" alone; leave one of them out')
        return self


class Member(Facts):
    """One model of an ensemble."""

    model: str
    version: Version | None = None
    """The newest that serves when left out."""
    weight: float | None = Field(default=None, gt=0)
    """Of all members or of none; without, all weigh the same."""
    views: str | None = None
    """Its plan; the model's own default when left out."""


class EnsembleFile(Facts):
    """ensemble.toml."""

    members: tuple[Member, ...] = Field(min_length=1, max_length=64)
    partial: bool = False
    """Whether the others answer when a member fails; the answer says so."""

    @model_validator(mode="after")
    def _weights_sum_to_one(self) -> Self:
        given = [member.weight for member in self.members if member.weight is not None]
        if given and len(given) < len(self.members):
            raise ValueError("some members have a weight; give each one, or none")
        if given and abs(sum(given) - 1) > WEIGHTS_SUM:
            raise ValueError(
                f"the members' weights sum to {sum(given):.8g}; divide each by that, so that they sum to 1"
            )
        return self

    @property
    def weights(self) -> list[float]:
        """One for each member; they sum to 1."""
        return [member.weight or 1 / len(self.members) for member in self.members]


def read_serving(folder: Path) -> Serving:
    """The wishes for the model in that folder; the defaults where there is no file.

    Raises:
        BundleError: the file is not one.
    """
    path = folder / SERVING
    return read_toml(path, Serving, lambda serving: serving) if path.exists() else Serving()


def read_ensemble(folder: Path) -> EnsembleFile:
    """The ensemble in that folder.

    Raises:
        BundleError: there is none, or the file is not one.
    """
    return read_toml(folder / ENSEMBLE, EnsembleFile, lambda ensemble: ensemble)
