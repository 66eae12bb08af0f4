"""Changes in a serving.toml that leave everything else in it as its operator wrote it, comments too."""

from collections.abc import Mapping
from pathlib import Path

import tomlkit

from bundle.beside import write_atomically
from bundle.serving import SERVING, Serving
from service.tune.candidates import Candidate

Value = int | tuple[int, ...] | None


def edited(text: str, changes: Mapping[str, Value]) -> str:
    """The text with other values; None takes a key out.

    Args:
        text: a valid serving.toml, or nothing.
        changes: by key.
    """
    document = tomlkit.parse(text.removeprefix("\ufeff"))
    for key, value in changes.items():
        if value is None:
            document.pop(key, None)
        else:
            document[key] = list(value) if isinstance(value, tuple) else value
    Serving.model_validate(document.unwrap())
    return tomlkit.dumps(document)


def changes(serving: Serving, before: Candidate, chosen: Candidate) -> dict[str, Value]:
    """What to write so that the chosen candidate serves; keys that stay are not among them.

    An older version answers only where no newer one is loaded: those with an alias stay if they are older still.

    Raises:
        ValueError: a newer one has an alias.
    """
    found: dict[str, Value] = {}
    if chosen.version != before.version:
        named = set(serving.aliases.values())
        if newer := [version for version in sorted(named) if version > chosen.version]:
            raise ValueError(f"version {newer[0]} has an alias and would answer before {chosen.version}; move that")
        found["versions"] = tuple(sorted({chosen.version, *named}))
    if chosen.instances != before.instances:
        found["instances"] = chosen.instances
    if chosen.buckets != before.buckets:
        found["buckets"] = chosen.buckets
    return found


def read_text(folder: Path) -> str:
    """NAME/serving.toml as it stands; empty where there is none."""
    path = folder / SERVING
    return path.read_bytes().decode("utf-8-sig") if path.exists() else ""


def write(folder: Path, changes: Mapping[str, Value]) -> None:
    """Changes what stands there now, in one step. Raises OSError."""
    write_atomically(folder / SERVING, edited(read_text(folder), changes).encode())
