"""Labelled image files on the disk: a folder a class, or a CSV file of file and label. No image is opened here."""

import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from bundle.errors import LabelledError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_INDEX = re.compile(r"[0-9]{1,9}")
_MOST_INDICES = 100_000
"""Numbers beyond are names of classes, and no indices."""
_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}
"""Folders of these names hold the classes one level down; of two or three classes they would pass for the classes."""


class Listed(NamedTuple):
    folder: Path
    files: tuple[str, ...]
    """Relative to the folder, with slashes."""
    labels: tuple[int, ...]


class _Classes:
    """What a label or an index means when somebody writes it."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.count = len(labels)
        self._by_label = defaultdict[str, list[int]](list)
        for index, label in enumerate(labels):
            self._by_label[label].append(index)

    def of_label(self, text: str, where: str) -> int | None:
        """None: no label.

        Raises:
            LabelledError: it is the label of several classes.
        """
        indices = self._by_label.get(text, [])
        if len(indices) > 1:
            shared = " and ".join(map(str, indices))
            raise LabelledError(
                f"{where}: {text!r} is the label of classes {shared}; write class indices in a CSV file"
            )
        return indices[0] if indices else None

    def of_index(self, text: str) -> int | None:
        """None: no index of a class."""
        return int(text) if _INDEX.fullmatch(text) and int(text) < self.count else None


def list_folders(path: Path, labels: Sequence[str]) -> Listed:
    """The images below each class folder, sorted; hidden files and folders and all others are passed over.

    Raises:
        LabelledError: the folders' names do not say which class is which, or images lie in none.
        OSError: a folder cannot be read.
    """
    folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders and any(entry.name.lower().endswith(_SUFFIXES) for entry in path.iterdir()):
        raise LabelledError(
            f"{path.name}: its images lie in no folder of a class; put each into one that is named by label or index,"
            " or name a CSV file of file and label"
        )
    found = [
        (file, index)
        for folder, index in zip(folders, _classes_of(path, folders, _Classes(labels)), strict=True)
        for file in sorted(_images(path, folder))
    ]
    return Listed(path, tuple(file for file, _ in found), tuple(index for _, index in found))


def _classes_of(path: Path, folders: list[str], classes: _Classes) -> list[int]:
    """The class of each folder: by label; else by index; else, as for torchvision's ImageFolder, by the order."""
    by_label = [classes.of_label(folder, path.name) for folder in folders]
    for indices in (by_label, [classes.of_index(folder) for folder in folders]):
        if None not in indices:
            return [index for index in indices if index is not None]
    stray = folders[by_label.index(None)]
    if len(folders) != classes.count or _PARTS & {folder.lower() for folder in folders}:
        raise LabelledError(
            f"{path.name}: the folder {stray!r} is no label of the model and no index below {classes.count}; name the"
            " folder that holds one folder for each class, named by label or index, or write a CSV file"
        )
    for place, (folder, index) in enumerate(zip(folders, by_label, strict=True)):
        if index not in (None, place):  # the order would make one class of what its name makes another
            raise LabelledError(
                f"{path.name}: the folder {folder!r} is the label of class {index}, but {stray!r} is no label; name all"
                " folders by the model's labels, or write a CSV file"
            )
    return list(range(len(folders)))


def _images(root: Path, folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(root / folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(_SUFFIXES) and not name.startswith("."):
                yield Path(parent, name).relative_to(root).as_posix()


def _raise(error: OSError) -> NoReturn:
    raise error


def list_csv(path: Path, labels: Sequence[str]) -> Listed:
    """The lines of a CSV file: columns `file` and `label` by a header, or two columns without one.

    A label is a label's text, else a class index; a column `class_index` may stand in its place. Files are relative to
    the CSV file's folder.

    Raises:
        LabelledError: naming the line that is short, names no file, or has a label that is none.
        OSError: it cannot be read.
    """
    classes = _Classes(labels)
    rows = _rows(path)
    columns = _columns(path, rows[0][1]) if rows else _Columns(0, 1, by_header=False)
    files, indices = [], []
    for line, cells in rows[columns.by_header :]:
        where = f"{path.name}, line {line}"
        file, label = columns.of(cells, where)
        if not (path.parent / file).is_file():
            raise LabelledError(f"{where}: the file {file!r} is not there; paths are relative to the CSV file's folder")
        index = classes.of_label(label, where) if columns.texts else None
        if index is None and (index := classes.of_index(label)) is None:
            raise LabelledError(f"{where}: {label!r} is no label of the model and no index below {classes.count}")
        files.append(file)
        indices.append(index)
    return Listed(path.parent, tuple(files), tuple(indices))


def csv_labels(path: Path) -> list[str]:
    """The labels that a CSV file names, sorted; of class indices all up to the largest.

    Raises:
        LabelledError: naming the line that is short.
        OSError: it cannot be read.
    """
    rows = _rows(path)
    columns = _columns(path, rows[0][1]) if rows else _Columns(0, 1, by_header=False)
    found = {columns.of(cells, f"{path.name}, line {line}")[1] for line, cells in rows[columns.by_header :]}
    if all(_INDEX.fullmatch(label) for label in found) and (last := max(map(int, found), default=-1)) < _MOST_INDICES:
        return [str(index) for index in range(last + 1)]
    return sorted(found)


class _Columns(NamedTuple):
    file: int
    label: int
    by_header: bool
    texts: bool = True
    """Whether a label may be a text; a column class_index holds indices alone."""

    def of(self, cells: list[str], where: str) -> tuple[str, str]:
        if len(cells) <= max(self.file, self.label) or (not self.by_header and len(cells) > 2):  # noqa: PLR2004
            raise LabelledError(f"{where}: the fields are {cells}; write file,label and quote what holds a comma")
        return cells[self.file], cells[self.label]


def _columns(path: Path, first: list[str]) -> _Columns:
    names = [cell.lower() for cell in first]
    label = next((name for name in ("label", "class_index") if name in names), None)
    if "file" in names and label:
        return _Columns(names.index("file"), names.index(label), by_header=True, texts=label == "label")
    if "file" in names or label or len(names) > 2:  # noqa: PLR2004
        raise LabelledError(
            f"{path.name}: its columns are {', '.join(first)}; name them file and label in a first line"
        )
    return _Columns(0, 1, by_header=False)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Every line that is not blank, with its number."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
        except UnicodeDecodeError as error:
            raise LabelledError(f"{path.name} is not UTF-8; save it as CSV in UTF-8") from error
        except csv.Error as error:
            raise LabelledError(f"{path.name}, line {reader.line_num}: no CSV; check its quotation marks") from error
    return [(line, cells) for line, cells in rows if any(cells)]
