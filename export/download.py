"""The cache of public weights: what `multicrop-export weights list|fetch|check` do.

    fetch: FILE.part, from where an earlier fetch ended -> sha256 -> FILE

A file under its own name is whole and right; nothing else is ever read. One GET with a Range header needs no more than
the standard library's urllib.
"""

import errno
import hashlib
import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from export import catalogue
from export.catalogue import PublicWeights
from export.errors import DownloadError
from export.jobs import CheckJob, FetchJob, ListJob

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""How often a connection may break off before the user is asked to try again."""

CHUNK = 1 << 18
TIMEOUT = 30.0
"""Seconds without a byte."""

PARTIAL, RANGE_NOT_SATISFIABLE = 206, 416
GONE = (404, 410)


def default_cache() -> Path:
    """The platform's folder for caches of this user, and `multicrop` in it."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder, "multicrop")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local"), "multicrop", "Cache")
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/multicrop"
    return Path.home() / ".cache/multicrop"


def answer(job: ListJob | FetchJob | CheckJob) -> list[str]:
    """The lines that a command prints: a table, the paths of the files, or the files that are right.

    Raises:
        ExportError: it did not work; files that were fetched before are kept.
    """
    folder = job.cache or default_cache()
    if isinstance(job, ListJob):
        return table(folder)
    if isinstance(job, CheckJob):
        return check(job.names, folder)
    return [str(fetch(row, folder)) for row in catalogue.chosen(job.names)]


def fetch(row: PublicWeights, folder: Path) -> Path:
    """The file in the cache, downloaded if it is not there; one that broke off is taken up again.

    Raises:
        DownloadError: no network, no such file there, no space, or another file than the catalogue's, which is removed.
    """
    final, part = folder / row.file, folder / f"{row.file}.part"
    if final.exists():
        if is_right(row, final):
            return final
        log.warning("%s in the cache is damaged; fetching it again", row.file)
    folder.mkdir(parents=True, exist_ok=True)
    log.info("fetching %s", row.url)
    with _alone(part):
        try:
            _make_right(row, part)
            part.replace(final)
        finally:
            if part.exists() and part.stat().st_size == 0:
                part.unlink()
    return final


def is_right(row: PublicWeights, path: Path) -> bool:
    """Whether a file has the digest of the catalogue."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(row.sha256_prefix)


def check(names: Iterable[str], folder: Path) -> list[str]:
    """A line for each cached file that is right: of those that are named, or of all.

    Raises:
        DownloadError: listing the files that are damaged, and the names of which nothing is cached.
    """
    found = {name: [row for row in catalogue.matching(name) if (folder / row.file).exists()] for name in names}
    cached = dict.fromkeys(row for rows in found.values() for row in rows)
    absent = [name for name, rows in found.items() if not rows]
    damaged = [row.file for row in cached if not is_right(row, folder / row.file)]
    problems = {"not in the cache": absent, "damaged, fetch again": damaged}
    if listed := [f"{what}: {', '.join(files)}" for what, files in problems.items() if files]:
        raise DownloadError("; ".join(listed))
    return [f"{row.file}: right" for row in cached]


def table(folder: Path) -> list[str]:
    """A line for each public file, below the names of the columns."""
    lines = [f"{'network':<13} {'file':<38} {'MiB':>7}  {'top-1 / top-5':<15} {'image':<11} cached"]
    for row in catalogue.PUBLIC:
        scores = "no classifier" if row.top1 is None else f"{row.top1:.2f} / {_percent(row.top5)}"
        image, cached = f"{row.resize} -> {row.crop}", "yes" if (folder / row.file).exists() else "no"
        lines.append(f"{row.network:<13} {row.file:<38} {row.mib:>7.1f}  {scores:<15} {image:<11} {cached}")
    return lines


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _make_right(row: PublicWeights, part: Path) -> None:
    """Downloads what is missing of the part; all of it where what was there is of another file."""
    resumed = _complete(row, part)
    if resumed and not is_right(row, part):
        os.truncate(part, 0)
        _complete(row, part)
    if not is_right(row, part):
        part.unlink()
        raise DownloadError(
            f"{urlsplit(row.url).hostname} sent something else than {row.file} (its sha256 does not begin with "
            f"{row.sha256_prefix}); it was removed; is there a proxy in between?"
        )


def _complete(row: PublicWeights, part: Path) -> bool:
    """Downloads what is missing of the part; whether there was some of it before."""
    resumed = part.stat().st_size > 0
    for attempt in range(1, ATTEMPTS + 1):
        before = part.stat().st_size
        if _download(row, part):
            return resumed
        if part.stat().st_size == before or attempt == ATTEMPTS:
            break
        log.info("the connection broke off; going on")
    raise DownloadError(
        f"{row.file}: the connection broke off at {part.stat().st_size / 2**20:.1f} of {row.mib:.1f} MiB; "
        "the same command goes on from there"
    )


def _download(row: PublicWeights, part: Path) -> bool:
    """One request for the rest of the file; whether it came whole."""
    begin = part.stat().st_size
    headers = {"User-Agent": f"multicrop/{version('multicrop')}", "Range": f"bytes={begin}-"}
    try:
        request = urllib.request.Request(row.url, headers=headers)  # noqa: S310 the catalogue's
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310 likewise
            if response.status != PARTIAL or not _starts_at(response, begin):
                begin = 0  # the server sends the whole
            return _write(row, response, part, begin)
    except urllib.error.HTTPError as error:
        if error.code == RANGE_NOT_SATISFIABLE and begin:  # the part is the whole, or more; its digest will tell
            return True
        hint = "the file is no longer there, take it from elsewhere" if error.code in GONE else "try again later"
        raise DownloadError(f"{row.url} was answered with {error.code} {error.reason}; {hint}") from error
    except urllib.error.URLError as error:
        raise DownloadError(
            f"{urlsplit(row.url).hostname} cannot be reached ({error.reason}); is there a network? "
            f"A file that you have from elsewhere may be put into {part.parent} under its name"
        ) from error
    except (TimeoutError, ConnectionError, HTTPException):
        return False
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DownloadError(f"no space left for {row.file} ({row.mib:.1f} MiB) in {part.parent}") from error
        raise


def _starts_at(response: HTTPResponse, begin: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {begin}-")


def _write(row: PublicWeights, response: HTTPResponse, part: Path, begin: int) -> bool:
    length = response.headers.get("Content-Length")
    end = None if length is None else begin + int(length)
    most = (row.mib + 1) * 2**20  # a server that never ends must not fill the disk
    size = begin
    bar = tqdm(desc=row.file, total=end, initial=begin, unit="B", unit_scale=True, unit_divisor=1024, disable=None)
    with part.open("ab" if begin else "wb") as file, bar:
        while size <= most and (chunk := response.read(CHUNK)):
            file.write(chunk)
            size += len(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    return size > most or end is None or size >= end


if sys.platform == "win32":

    @contextmanager
    def _alone(part: Path) -> Iterator[None]:
        """Makes the part; there is no lock here, and what two processes mix up is not right and is removed."""
        part.touch()
        yield
else:
    import fcntl

    @contextmanager
    def _alone(part: Path) -> Iterator[None]:
        """Makes the part if there is none, and holds it against a second process that fetches the same."""
        with part.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DownloadError(f"{part.name} is being fetched by another process; wait for it") from None
            yield
