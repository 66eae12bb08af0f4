"""Where the lines of a bulk run go: the terminal, or a file that a later run carries on."""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol, Self

from tqdm import tqdm

from service.commands.report import Asked, Format


class OutputError(Exception):
    """A file that cannot be carried on."""


class Output(Protocol):
    def write(self, line: str) -> None: ...


class Terminal:
    """Standard output, in UTF-8 as the formats are; on a terminal above the progress bar."""

    def __init__(self, head: str) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        if head:
            self.write(head)

    def write(self, line: str) -> None:
        if sys.stdout.isatty():
            tqdm.write(line)
        else:  # there the bar is not in the way, and need not be drawn again
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


class OutFile:
    """Appends whole lines, each of them handed to the system at once: what ends this process loses none of them.

    Opening it repairs it: of what is there only whole lines with an answer stay, one for each image. A line that was
    cut short goes, and so do errors, so that their images are asked for again.

    Args:
        path: made if it is not there.
        form: of its lines.
        model: that must have answered in it.
        options: that must have been asked for in it.

    Raises:
        OutputError: it holds something else, or answers of another model or to other options; it is left as it is.
    """

    def __init__(self, path: Path, form: Format, model: str, options: str) -> None:
        self._path = path.resolve()
        self._form = form
        self._asked = model, options
        self.answered: set[str] = set()
        """The keys of images that have an answer."""
        if self._path.exists():
            self._repair()
        self._file = self._path.open("a", encoding="utf-8", newline="\n", buffering=1)
        if form.head and self._file.tell() == 0:
            self.write(form.head)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, line: str) -> None:
        self._file.write(f"{line}\n")

    def _repair(self) -> None:
        if not self._path.is_file():
            raise OutputError(f"{self._path.name} is no file; name another one with --out")
        descriptor, aside = tempfile.mkstemp(prefix=f".{self._path.name}-", dir=self._path.parent)
        try:
            with self._path.open("rb") as old, os.fdopen(descriptor, "wb") as new:
                for line in self._kept(old):
                    new.write(line)
                new.flush()
                os.fsync(new.fileno())
            if Path(aside).stat().st_size < self._path.stat().st_size:
                shutil.copymode(self._path, aside)
                Path(aside).replace(self._path)
        finally:
            Path(aside).unlink(missing_ok=True)

    def _kept(self, old: IO[bytes]) -> Iterator[bytes]:
        """The head, and the lines with an answer."""
        begins = old.read(len(self._form.opening))
        if not self._form.opening.startswith(begins):  # a part of it was cut short
            raise OutputError(
                f"{self._path.name} was not written with this --format and --top-k, or is another file; name another"
                " one with --out"
            )
        old.seek(0)
        for number, line in enumerate(old, 1):
            if not line.endswith(b"\n"):
                return
            if (number == 1 and self._form.head) or self._is_answer(number, line):
                yield line

    def _is_answer(self, number: int, line: bytes) -> bool:
        asked = self._read(number, line)
        if (asked.model, asked.options) != self._asked:
            theirs, ours = f"{asked.model} ({asked.options})", "{} ({})".format(*self._asked)
            raise OutputError(f"{self._path.name} holds answers of {theirs}, not {ours}; name another file with --out")
        if asked.failed or asked.file in self.answered:
            return False
        self.answered.add(asked.file)
        return True

    def _read(self, number: int, line: bytes) -> Asked:
        try:
            return self._form.read(line.decode())
        except ValueError as error:
            raise OutputError(
                f"line {number} of {self._path.name} is none of this command's; take it out, or name another file with"
                " --out"
            ) from error
