"""A list of models to freeze, as a TOML file.

    repository = "models"          # the folder of all bundles

    [defaults]                     # what holds where a model says nothing else
    weights = "random:0"

    [[models]]                     # the options of `multicrop-export freeze`, written with underscores
    network = "resnet20"

Relative paths start at the file's own folder, so that a list means the same from wherever it is run.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export.errors import ExportError
from export.jobs import FreezeJob

FORMATS = (".pth", ".th", ".pt", ".pt2", ".safetensors")
"""What makes `weights` a path; anything else names weights that are no file here."""

IDENTITY = ("name", "network", "module", "program")
"""What a model is called by in messages, the first that is there; no default can say it for all."""


class JobsError(ExportError):
    """A list that cannot be understood; the message has a line for each problem."""


class JobList(BaseModel):
    """The file as it is written; each table of `models` becomes a `FreezeJob`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repository: Path
    defaults: dict[str, Any] = {}
    models: list[dict[str, Any]] = Field(min_length=1)


def read_jobs(path: Path) -> list[FreezeJob]:
    """The jobs of a TOML file, in its order.

    Raises:
        JobsError: naming every table and key that is wrong.
    """
    listed = _parse(path)
    wrong = [
        f"defaults: {key} belongs to a model" for key in (*IDENTITY, "version", "repository") if key in listed.defaults
    ]
    jobs = []
    for number, table in enumerate(listed.models, 1):
        where = f"model {number}" + next((f" ({table[key]})" for key in IDENTITY if key in table), "")
        if "repository" in table:
            wrong.append(f"{where}: repository stands once, above all tables")
            continue
        try:
            job = FreezeJob(**{**listed.defaults, **table, "repository": listed.repository})
        except ValidationError as error:
            wrong += [f"{where}: {problem}" for problem in _problems(error, FreezeJob)]
        else:
            jobs.append(_resolve(job, path.parent))
    wrong += _clashes(jobs) if not wrong else []
    if wrong:
        raise JobsError("\n  ".join([f"{path.name} cannot be used:", *wrong]))
    return jobs


def is_file(weights: str | None) -> bool:
    """Whether `weights` is a path, and not "random:SEED" or another name for weights."""
    return weights is not None and weights.lower().endswith(FORMATS)


def _parse(path: Path) -> JobList:
    try:
        return JobList(**tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise JobsError(f"{path} cannot be read; give the path of a TOML file with [[models]] tables") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise JobsError(f"{path.name} is no TOML: {error}") from error
    except ValidationError as error:
        raise JobsError("\n  ".join([f"{path.name} cannot be used:", *_problems(error, JobList)])) from error


def _problems(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        key = ".".join(map(str, problem["loc"]))
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            yield f"unknown key {key!r}; there are {', '.join(model.model_fields)}"
        elif problem["type"] == "missing":
            yield f"{key} is missing"
        else:
            yield f"{key}: {text}" if key else text


def _resolve(job: FreezeJob, folder: Path) -> FreezeJob:
    """The job with its relative paths taken from `folder`."""
    paths: dict[str, Any] = {key: folder / value for key, value in job if isinstance(value, Path)}
    if job.weights is not None and is_file(job.weights):
        paths["weights"] = str(folder / job.weights)
    return job.model_copy(update=paths)


def _clashes(jobs: list[FreezeJob]) -> Iterator[str]:
    """Models of one name must say which version each is, or each run would replace one by the other."""
    wanted: dict[str, list[int | None]] = {}
    for job in jobs:
        wanted.setdefault(job.model, []).append(job.version)
    for name, versions in wanted.items():
        if len(versions) > 1 and (None in versions or len(set(versions)) < len(versions)):
            yield f"{len(versions)} models are called {name}; give each another name, or a version of its own"
