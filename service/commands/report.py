"""The lines that a bulk classification writes: a table for people, CSV for spreadsheets, JSON lines for programs.

An image is one line, whatever its name and labels hold, so that a file of them can be repaired and carried on.
"""

import csv
import io
import json
from dataclasses import dataclass
from typing import Literal, Protocol

from service.client import Prediction

Kind = Literal["table", "csv", "jsonl"]


@dataclass(frozen=True)
class Fault:
    """Why there is no answer."""

    code: str
    detail: str


@dataclass(frozen=True)
class Row:
    """One image."""

    file: str
    told: Prediction | Fault


@dataclass(frozen=True)
class Asked:
    """What a row was an answer to."""

    file: str
    """As it is written."""
    model: str
    options: str
    failed: bool


class Lines(Protocol):
    head: str
    """The first line; empty when there is none."""

    def line(self, row: Row) -> str: ...


class Format(Lines, Protocol):
    """Lines that can be read again."""

    opening: bytes
    """What every file of this format begins with."""

    def key(self, file: str) -> str:
        """How a file's name is written; different names differ."""

    def read(self, line: str) -> Asked:
        """Raises ValueError: it is no line of this format."""


def spell(text: str) -> str:
    r"""Printable text on one line. A byte of a name that is not UTF-8 becomes \xff, a character that no terminal should
    get \u001b, and a backslash two, so that different texts stay different.
    """  # noqa: D205 a sentence is longer than a line
    return "".join(map(_spell, text)) if not text.isprintable() or "\\" in text else text


def _spell(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # noqa: PLR2004 os.fsdecode's surrogates
        return f"\\x{number - 0xDC00:02x}"
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004 what four digits hold


def _plans(answer: Prediction) -> str:
    return "+".join(dict.fromkeys(look.plan for look in answer.looks))


def _computed(answer: Prediction) -> int:
    return sum(look.computed for look in answer.looks)


class Table:
    """Files in a column of `width` characters."""

    head = ""

    def __init__(self, width: int) -> None:
        self._width = width

    def line(self, row: Row) -> str:
        name = spell(row.file).ljust(self._width)
        if isinstance(row.told, Fault):
            return f"{name}  {spell(f'{row.told.code}: {row.told.detail}')}"
        return "  ".join([name, *(f"{score.probability:.4f} {spell(score.label)}" for score in row.told.predictions)])


class JsonLines:
    """An object a line. Labels are as they are; names are spelled."""

    head = ""
    opening = b'{"file": "'

    def __init__(self, model: str, options: str) -> None:
        self._asked = {"model": model, "asked": options}

    def line(self, row: Row) -> str:
        first, told = {"file": spell(row.file), **self._asked}, row.told
        if isinstance(told, Fault):
            return json.dumps({**first, "error": told.code, "detail": told.detail}, ensure_ascii=False)
        answer = {
            "version": told.version,
            "digest": told.digest,
            "views": _plans(told),
            "computed": _computed(told),
            "predictions": [score.model_dump() for score in told.predictions],
        }
        return json.dumps({**first, **answer}, ensure_ascii=False)

    def key(self, file: str) -> str:
        return spell(file)

    def read(self, line: str) -> Asked:
        try:
            found = json.loads(line)
            return Asked(str(found["file"]), found["model"], found["asked"], "error" in found)
        except (LookupError, TypeError, RecursionError) as error:
            raise ValueError("it has no file, model and options") from error


class Csv:
    """A column for each of the `top_k` best classes; every text is quoted, and none is a formula to a spreadsheet."""

    def __init__(self, model: str, options: str, top_k: int) -> None:
        self._asked = (model, options)
        self._top_k = top_k
        best = [f"{what}_{place}" for place in range(1, top_k + 1) for what in ("label", "probability", "index")]
        self._names = ["file", "model", "asked", "error", "detail", "version", "digest", "views", "computed", *best]
        self.head = _csv(self._names)
        self.opening = f"{self.head}\n".encode()

    def line(self, row: Row) -> str:
        first, told = [row.file, *self._asked], row.told
        if isinstance(told, Fault):
            return _csv([*first, told.code, told.detail, *[""] * (len(self._names) - 5)])
        best = [cell for one in told.predictions[: self._top_k] for cell in (one.label, one.probability, one.index)]
        facts = ["", "", told.version or "", told.digest or "", _plans(told), _computed(told)]
        return _csv([*first, *facts, *best, *[""] * (3 * self._top_k - len(best))])

    def key(self, file: str) -> str:
        return _cell(file)

    def read(self, line: str) -> Asked:
        try:
            (cells,) = csv.reader([line], strict=True)
        except csv.Error as error:
            raise ValueError("it is no CSV") from error
        if len(cells) != len(self._names):
            raise ValueError("it has another number of columns")
        return Asked(cells[0], _plain(cells[1]), _plain(cells[2]), bool(cells[3]))


def _csv(cells: list[str] | list[str | float | int]) -> str:
    line = io.StringIO()
    safe = [_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    csv.writer(line, quoting=csv.QUOTE_NONNUMERIC, lineterminator="").writerow(safe)
    return line.getvalue()


def _cell(text: str) -> str:
    """An apostrophe before what a spreadsheet would run, and before an apostrophe: different texts stay different."""
    spelled = spell(text)
    return f"'{spelled}" if spelled.lstrip()[:1] in {*"=+-@'", *"\uff1d\uff0b\uff0d\uff20"} else spelled


def _plain(cell: str) -> str:
    return cell.removeprefix("'")
