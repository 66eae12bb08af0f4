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

MAX_LISTED = 100
"""Versions in a list; it is also how many of `all` are loaded."""

MAX_BUCKET = 1024

MAX_TIMEOUT_MS = 86_400_000
"""A day."""

MAX_INSTANCES = 256

ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,63}")

CUDA = re.compile(r"cuda:(0|[1-9][0-9]{0,2})")


class Serving(Facts):
    """serving.toml; what is left out stays as it is without the file."""

    versions: Literal["all", "latest"] | tuple[Version, ...] = "all"
    """Which versions are loaded; of all the newest `MAX_LISTED`, and those with an alias."""
    plans: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Those that are offered; all that the network can run when left out."""
    views: str = "center"
    """The plan of requests that name none."""
    average: Average | None = None
    """Of requests that name none; the plan's own, or probabilities, when left out."""
    stop: str = "never"
    """Of requests that name none."""
    aliases: dict[str, Version] = Field(default_factory=dict)
    """Other names of versions, such as stable = 2, for requests that name a version."""
    timeout_ms: int | None = Field(default=None, ge=1, le=MAX_TIMEOUT_MS)
    """Milliseconds, of requests that name none; the server's when left out."""
    priority: int = Field(default=0, ge=-1, le=1)
    """Of requests that name none: 1 before, -1 after the others that wait."""
    max_queue_size: int | None = Field(default=None, ge=1)
    """Most views that wait; the server's when left out."""
    devices: Literal["auto"] | tuple[str, ...] = "auto"
    """("cpu",), or GPUs: ("cuda:0", "cuda:1"). auto: as the server's provider says, with CUDA on all GPUs there are."""
    instances: int | None = Field(default=None, ge=1, le=MAX_INSTANCES)
    """On each device: threads on the CPU, one more than cores when left out; sessions on a GPU, one when left out."""
    buckets: tuple[int, ...] | None = None
    """Batch sizes on a GPU, ascending; on the CPU the largest is the most views in a batch."""
    gpu_memory_mib: int | None = Field(default=None, ge=1)
    """Most MiB of a GPU that each session takes; what there is when left out."""

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
                if len(versions) > MAX_LISTED:
                    raise ValueError(
                        f"{len(versions)} versions are listed, at most {MAX_LISTED} are loaded; list fewer"
                    )
                return versions
        raise ValueError(f'{versions!r:.40} is neither "all" nor "latest" nor a list of versions such as [1, 3]')

    @field_validator("devices", mode="before")
    @classmethod
    def _are_devices(cls, devices: object) -> object:
        match devices:
            case "auto" | ["cpu"] | ("cpu",):
                return devices
            case [_, *_] if all(isinstance(device, str) and CUDA.fullmatch(device) for device in devices):
                if len(set(devices)) == len(devices):
                    return devices
                raise ValueError(f"{devices!r:.80} names a device twice; set instances for several sessions on each")
        raise ValueError(f'{devices!r:.80} is neither "auto" nor ["cpu"] nor a list of GPUs such as ["cuda:0"]')

    @field_validator("buckets")
    @classmethod
    def _are_buckets(cls, buckets: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if buckets is not None and (
            list(buckets) != sorted(set(buckets)) or not buckets or not 1 <= buckets[0] <= buckets[-1] <= MAX_BUCKET
        ):
            raise ValueError(f"{list(buckets)!r:.80} are no batch sizes; list them ascending, from 1 to {MAX_BUCKET}")
        return buckets

    @field_validator("stop")
    @classmethod
    def _is_a_stop(cls, stop: str) -> str:
        StopOption.parse(stop)
        return stop

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.stop == "exact" and self.average == "logits":  # no request that names neither could be answered
            raise ValueError('stop = "exact" holds for average = "probabilities" alone; leave one of them out')
        if self.plans is not None and self.views not in self.plans:
            raise ValueError(
                f"views = {self.views[:64]!r} is not among plans ({', '.join(self.plans)[:200]}); add it, or choose one"
            )
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
