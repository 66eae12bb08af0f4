"""The layers of a network as text: a BatchNorm in its convolution's row, a block above its layers, repeats once."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from export.architectures import ARCHITECTURES
from export.describe import Description, Layer, describe
from export.errors import ExportError
from export.jobs import DescribeJob

HEADER = ("layer", "kind", "output", "parameters", "MACs")
HEADINGS = ("network", "input", "parameters", "folded", "MACs")


@dataclass(frozen=True)
class Group:
    """Layers that follow each other under one name, `first` to `last` where blocks repeat."""

    first: str
    last: str
    layers: tuple[Layer, ...]
    count: int = 1


def tell(job: DescribeJob) -> str:
    """What `multicrop-export describe` prints.

    Raises:
        ExportError: there is no such network, or it does not take this size; neither or both of a name and --all.
    """
    if (job.network is None) != job.all or (job.all and job.at):
        raise ExportError("name one network (with --at if you like), or say --all")
    if job.network is None:
        return _all(job.as_json)
    height, width = map(int, job.at.split("x")) if job.at else (None, None)
    found = describe(job.network, (height, width) if height and width else None)
    return json.dumps(found.as_json(), indent=1) if job.as_json else outline(found)


def _all(as_json: bool) -> str:
    found = [describe(name) for name in ARCHITECTURES]
    if as_json:
        return json.dumps([description.summary() for description in found], indent=1)
    lines = [HEADINGS, *map(_summary_row, found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_line(line, widths, left=2) for line in lines)


def _summary_row(found: Description) -> tuple[str, ...]:
    numbers = (found.parameters, found.folded_parameters, found.macs)
    return (found.name, _shape(found.input), *(f"{value:,}" for value in numbers))


def outline(description: Description) -> str:
    """The table, then the totals."""
    rows = list(_rows(description, "", _merge_norms(description.layers), ""))
    if description.unused:
        rows.append(("(only in training)", "", "", f"{description.unused:,}", ""))
    total = ("total", "", "", f"{description.parameters:,}", f"{description.macs:,}")
    rule = tuple("" for _ in HEADER)
    lines = [HEADER, *rows, rule, total]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head = f"{description.name}, input {_shape(description.input)}"
    body = [_line(line, widths) if line is not rule else "-" * (sum(widths) + 2 * len(widths) - 2) for line in lines]
    notes = [f"{description.trainable:,} trainable, {description.folded_parameters:,} after folding"]
    if any(row[1].startswith("each of") for row in rows):
        notes.append("a block that repeats is counted in full, the layers in it once")
    return "\n".join([head, "", *body, *notes])


def _rows(description: Description, prefix: str, layers: Sequence[Layer], indent: str) -> Iterator[tuple[str, ...]]:
    """The rows of layers whose names all start with `prefix`."""
    for group in _repeats(_children(prefix, layers)):
        block = description.blocks.get(group.first)
        if len(group.layers) == 1:
            (layer,) = group.layers
            yield _row(layer.name, layer, indent)
        elif block is None or block.kind == "Sequential":
            yield from _rows(description, f"{group.first}.", group.layers, indent)
        else:
            yield _block_row(group, block, indent)
            inside = tuple(replace(layer, name=layer.name.removeprefix(f"{group.first}.")) for layer in group.layers)
            yield from _rows(replace(description, blocks=_below(description, group.first)), "", inside, indent + "  ")


def _children(prefix: str, layers: Sequence[Layer]) -> Iterator[Group]:
    """Neighbours that share the next part of their names."""
    for part, members in groupby(layers, lambda layer: layer.name.removeprefix(prefix).partition(".")[0]):
        yield Group(prefix + part, prefix + part, tuple(members))


def _repeats(groups: Iterator[Group]) -> list[Group]:
    """Blocks that equal the one before them, but for their name, are counted with it."""
    found: list[Group] = []
    for group in groups:
        if found and len(group.layers) > 1 and _pattern(found[-1]) == _pattern(group):
            found[-1] = replace(found[-1], last=group.last, count=found[-1].count + 1)
        else:
            found.append(group)
    return found


def _pattern(group: Group) -> list[Layer]:
    return [replace(layer, name=layer.name.removeprefix(group.first)) for layer in group.layers]


def _below(description: Description, block: str) -> dict[str, Layer]:
    start = f"{block}."
    return {name.removeprefix(start): held for name, held in description.blocks.items() if name.startswith(start)}


def _merge_norms(layers: Sequence[Layer]) -> list[Layer]:
    """A BatchNorm right after its convolution becomes a part of its row."""
    merged: list[Layer] = []
    for layer in layers:
        before = merged[-1] if merged else None
        if before and layer.kind.startswith("BatchNorm") and before.output == layer.output and "+" not in before.kind:
            total = before.parameters + layer.parameters
            merged[-1] = replace(before, kind=f"{before.kind} + BN", parameters=total)
        else:
            merged.append(layer)
    return merged


def _block_row(group: Group, block: Layer, indent: str) -> tuple[str, ...]:
    last = group.last.rpartition(".")[2]
    name, kind = group.first, block.kind
    if group.count > 1:
        name, kind = f"{group.first} to {last}", f"each of {group.count}: {block.kind}"
    parameters = group.count * sum(layer.parameters for layer in group.layers)
    macs = group.count * sum(layer.macs for layer in group.layers)
    whole = replace(block, kind=kind, parameters=parameters, macs=macs)
    return _row(name, whole, indent)


def _row(name: str, layer: Layer, indent: str) -> tuple[str, ...]:
    numbers = (f"{value:,}" if value else "" for value in (layer.parameters, layer.macs))
    return (indent + name, layer.kind, _shape(layer.output), *numbers)


def _line(cells: Sequence[str], widths: Sequence[int], left: int = 3) -> str:
    """The first `left` cells at the left edge of their columns, numbers at the right."""
    padded = (
        cell.ljust(width) if index < left else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(padded).rstrip()


def _shape(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))
