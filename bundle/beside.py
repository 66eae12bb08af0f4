"""Files that lie in NAME/ beside a model's versions: what an operator wishes, and what is learned later.

Wishes are TOML (`plans/PLAN.toml`, `serving.toml`, `ensemble.toml`). What is learned is JSON in a file that is named by
the digest of the bundle that it was learned of, so that it is never taken for another's.
"""

import os
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from bundle.errors import BundleError

Schema = TypeVar("Schema", bound=BaseModel)
Value = TypeVar("Value")

_SAID = {
    "extra_forbidden": "there is no such key",
    "missing": "it is missing",
    "tuple_type": "write a list: [...], or tables whose name stands in double brackets, [[...]]",
    "too_short": "give one at least",
}
"""In place of pydantic's words, by its types of errors, where those speak of Python."""


def read_toml(path: Path, schema: type[Schema], then: Callable[[Schema], Value]) -> Value:
    """What `then` makes of the file's content.

    Raises:
        BundleError: it cannot be read, is no TOML, or is not of the schema: the file, the place in it, the problem.
    """
    # utf-8-sig: editors of Windows put a mark before the text
    return _read(path, lambda content: then(schema.model_validate(tomllib.loads(content.decode("utf-8-sig")))))


def read_json(path: Path, schema: type[Schema]) -> Schema | None:
    """The content of a file that this project wrote; None when there is none.

    Raises:
        BundleError: as `read_toml`.
    """
    return _read(path, schema.model_validate_json) if path.exists() else None


def write_text(path: Path, content: str) -> None:
    """`write_atomically` in UTF-8; folders that are missing are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file aside and renames it: old or new, never half, whenever the process or the machine stops."""
    descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)  # mkstemp's file is its owner's alone
        Path(aside).replace(path)
    finally:
        Path(aside).unlink(missing_ok=True)


def _read(path: Path, parse: Callable[[bytes], Value]) -> Value:
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise BundleError(f"{path.name} is no file; write a plain one")
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise BundleError(f"{path.name}: {_problem(error)}") from error
    except (ValueError, RecursionError) as error:  # too many nested brackets
        raise BundleError(f"{path.name} is no TOML file in UTF-8: {error}") from error


def _problem(error: ValidationError) -> str:
    """The first one: its place, what is wrong, and the value where that is short."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(map(str, problem["loc"]))
    said = _SAID.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    if said.startswith("Input should be") and isinstance(problem["input"], str | float | int):
        said += f", not {problem['input']!r:.40}"
    return f"{where}: {said}" if where else said
