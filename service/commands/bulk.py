"""Many image files asked of a running server, one line for each: `multicrop-service classify`."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlencode

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg
from tqdm import tqdm

from service.client import Client, ClientError, Prediction
from service.client.exchange import Options
from service.commands.asking import ServerJob, in_order, named, of_the_image, threads
from service.commands.output import OutFile, Output, OutputError, Terminal
from service.commands.report import Csv, Fault, Format, JsonLines, Kind, Lines, Row, Table, spell

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
"""Of the images that a folder is searched for, in any case."""

MAX_BYTES = 256 << 20
"""Of a file that is sent: requests under way hold theirs in memory."""

FAILURES = 10
"""Images in a row that a failing server may cost; one by itself may be the cause of its own failure."""

MAX_WIDTH = 60
"""Of the table's first column, in characters; longer names move the rest of their line."""

_SERVER_FAILED = 500
_NOT_NOW = {None, 408, 429}
"""Statuses after which another image may be answered, as after those of a failed server."""


class ClassifyJob(ServerJob):
    """Asks a running server for images and folders of images: to a table, CSV or JSON lines; with --out a run that was stopped goes on where it was."""  # noqa: E501 the help shows it as it is

    paths: Annotated[CliPositionalArg[list[str]], Field(min_length=1)]
    """images, and folders that are searched for .jpg, .jpeg, .png and .webp"""
    views: str | None = None
    """the view plan; the model's own when left out"""
    top_k: int = Field(default=1, ge=1)
    """classes of an image"""
    out: Path | None = None
    """a file to add to; images that have an answer there are not asked for again"""
    format: Kind = "table"
    """of the output"""

    @model_validator(mode="after")
    def _no_table_in_a_file(self) -> Self:
        if self.out and self.format == "table":
            raise ValueError("a table cannot be carried on; give --format csv or --format jsonl with --out")
        return self

    @property
    def options(self) -> Options:
        return {
            "views": self.views,
            "average": self.average,
            "stop": self.stop,
            "top_k": self.top_k,
            "version": self.version,
        }

    @property
    def asked(self) -> str:
        """The options as they stand in a file, so that answers to other ones are noticed."""
        return urlencode({name: value for name, value in self.options.items() if value is not None})


@dataclass(frozen=True)
class Summary:
    """Numbers of images."""

    answered: int
    failed: int
    before: int
    """That had an answer in the file already."""


def classify_files(job: ClassifyJob, client: Client) -> Summary:
    """Asks for all images and writes their lines, in the order in which `find` finds them.

    Raises:
        OutputError: there is no image.
        ClientError: the server refuses the model or an option, or fails image after image.
        OutputError: the file to add to holds something else.
        OSError: it cannot be written.
    """
    files = list(dict.fromkeys(find(job.paths)))
    if not files:
        raise OutputError(f"no image in {', '.join(map(spell, job.paths))}; looked for {', '.join(sorted(SUFFIXES))}")
    with threads(job.concurrency) as pool:
        asker = _Asker(job, client, pool)
        if job.out is None:
            lines = _table(files) if job.format == "table" else _format(job)
            return _write(Terminal(lines.head), lines, asker, files)
        form = _format(job)
        with OutFile(job.out, form, job.model, job.asked) as out:
            left = [file for file in files if form.key(file) not in out.answered]
            return _write(out, form, asker, left, before=len(files) - len(left))


def find(paths: Iterable[str]) -> Iterator[str]:
    """The images of folders, sorted, those of a folder before those of its folders; other paths as they are.

    Links to folders are not followed. A folder that cannot be listed is found itself, so that it is told of.
    """
    for path in paths:
        if Path(path).is_dir():
            yield from _within(path)
        else:
            yield str(Path(path))


def _within(folder: str) -> Iterator[str]:
    closed: list[str] = []
    for place, folders, names in os.walk(folder, onerror=lambda error: closed.append(error.filename)):
        folders.sort()
        yield from (str(Path(place, name)) for name in sorted(names) if Path(name).suffix.lower() in SUFFIXES)
    yield from closed


def _table(files: Iterable[str]) -> Table:
    return Table(min(max((len(spell(file)) for file in files), default=0), MAX_WIDTH))


def _format(job: ClassifyJob) -> Format:
    return Csv(job.model, job.asked, job.top_k) if job.format == "csv" else JsonLines(job.model, job.asked)


def _write(out: Output, lines: Lines, asker: "_Asker", files: list[str], before: int = 0) -> Summary:
    failed = 0
    with tqdm(total=len(files), unit="image") as bar:
        for row in asker.rows(files):
            out.write(lines.line(row))
            bar.update()
            failed += isinstance(row.told, Fault)
    return Summary(len(files) - failed, failed, before)


class _Asker:
    """Reads files and asks for them."""

    def __init__(self, job: ClassifyJob, client: Client, pool: ThreadPoolExecutor) -> None:
        self._job = job
        self._client = client
        self._pool = pool

    def rows(self, files: Iterable[str]) -> Iterator[Row]:
        """In the order of the files.

        An image that the server fails at costs its row, if the server goes on to answer others: it may be the cause.

        Raises:
            ClientError: FAILURES images in a row failed, or all; they get no row.
        """
        failures: list[tuple[str, ClientError]] = []
        answered = False
        for file, told in in_order(self._pool, self._one, files, 2 * self._job.concurrency):
            if isinstance(told, ClientError):
                failures.append((file, told))
                if len(failures) == FAILURES:
                    raise named(told, spell(file))
                continue
            answered = True
            yield from map(_failed, failures)
            failures.clear()
            yield Row(file, told)
        if failures and not answered:
            raise named(failures[0][1], spell(failures[0][0]))
        yield from map(_failed, failures)

    def _one(self, file: str) -> tuple[str, Prediction | Fault | ClientError]:
        """A failure that need not be the image's is returned as it is."""
        try:
            image = read_image(Path(file))
        except OSError as error:
            return file, Fault("unreadable", error.strerror or type(error).__name__)
        if len(image) > MAX_BYTES:
            return file, Fault("body_too_large", f"more than {MAX_BYTES} bytes; it was not sent")
        try:
            return file, self._client.classify(self._job.model, image, **self._job.options)
        except ClientError as error:
            if of_the_image(error):
                return file, Fault(error.code, error.detail)
            if error.status in _NOT_NOW or (error.status or 0) >= _SERVER_FAILED:
                return file, error
            raise named(error, spell(file)) from error


def read_image(path: Path) -> bytes:
    """The file, or so much of it that it is seen to be too large.

    Raises:
        OSError: there is none, it is no file, or it cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError(0, "this is no file, or a folder that cannot be listed")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _failed(failure: tuple[str, ClientError]) -> Row:
    file, error = failure
    return Row(file, Fault(error.code, error.detail))
