"""Paths on the command line, as they are.

pydantic-settings would split them at commas, read brackets as JSON, and strip them.
"""

from collections.abc import Sequence
from itertools import islice

FLAGS = {"--sweep", "--no-sweep", "--dry-run", "--no-dry-run", "--help", "-h"}
"""Options without a value."""

NAMED = {"classify": 0, "loadtest": 0, "tune": 1}
"""Commands that take paths, and how many words before them mean something else."""


def take_paths(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line with one stand-in for its paths, and the paths."""
    command = arguments[0] if arguments else ""
    if command not in NAMED:
        return list(arguments), []
    options, words, left = [command], list[str](), iter(arguments[1:])
    for argument in left:
        if argument == "--":
            words += left
        elif argument.startswith("-"):
            options += [argument] if "=" in argument or argument in FLAGS else [argument, *islice(left, 1)]
        else:
            words.append(argument)
    before, paths = words[: NAMED[command]], words[NAMED[command] :]
    return [*options, *before, *(["PATH"] if paths else [])], paths
