"""A recipe by its name, or from a TOML file of one's own."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from export.errors import ExportError
from export.train.recipe import Recipe
from export.train.recipes import RECIPES


def find_recipe(name: str) -> tuple[str, Recipe]:
    """A recipe by its name, or from a TOML file; with the name that the manifest shows.

    A file may begin with `base`, the name of a recipe: the rest of the file then says what is different.

    Raises:
        ExportError: there is no such recipe, or the file's is none.
    """
    if name in RECIPES:
        return name, RECIPES[name]
    path = Path(name)
    if path.suffix.lower() != ".toml":
        raise ExportError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}, or name a .toml file")
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}; check the path given with --recipe") from error
    except ValueError as error:
        raise ExportError(f"{path.name} is no TOML: {error}") from error
    base = said.pop("base", None)
    if base is not None and base not in RECIPES:
        raise ExportError(f"{path.name}: there is no recipe {base!r} to begin from; choose one of {', '.join(RECIPES)}")
    start = {} if base is None else _plain(RECIPES[base]) | {"source": f"{base}, changed"}
    return path.stem, check(_merged(start, said), path.name)


def check(values: Mapping[str, Any], where: str) -> Recipe:
    """A recipe of plain values.

    Raises:
        ExportError: naming what is wrong in it.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, problem['loc'])) or 'recipe'}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False)
        )
        raise ExportError(f"{where} is no recipe: {'; '.join(problems)}") from error


def to_toml(recipe: Recipe) -> str:
    """What `find_recipe` reads."""
    return tomli_w.dumps(_plain(recipe))


def _plain(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude_none=True)


def _merged(start: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """`said` over `start`. A table of another kind takes the place of the old one; epochs that of iterations."""
    merged = dict(start)
    for key, value in said.items():
        old = start.get(key)
        same = (
            isinstance(old, dict) and isinstance(value, dict) and value.get("kind", old.get("kind")) == old.get("kind")
        )
        merged[key] = _merged(old, value) if same and isinstance(old, dict) else value
    for one, other in (("epochs", "iterations"), ("iterations", "epochs")):
        if one in said and other not in said:
            merged.pop(other, None)
    return merged
