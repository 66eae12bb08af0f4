"""Bundles on disk: NAME/VERSION/ with manifest.json and the files that it names.

Written aside, flushed to the disk and renamed in one step, so that a reader sees the whole bundle or none; immutable
afterwards.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bundle.errors import BundleError, BundleExistsError
from bundle.golden import Golden
from bundle.manifest import FileRecord, Manifest

MANIFEST, MODEL, LABELS, GOLDEN = "manifest.json", "model.onnx", "labels.txt", "golden.npz"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are those that its manifest names, byte for byte."""

    name: str
    version: int
    digest: str
    manifest: Manifest
    model: bytes
    labels: tuple[str, ...]
    golden: Golden


def check_name(name: str) -> str:
    """`name` if it can be a model's name: letters, digits, dot, underscore, hyphen; at most 64, not a dot first."""
    if not _NAME.fullmatch(name):
        raise BundleError(f"{name!r} is no model name; use letters, digits, '.', '_' and '-', at most 64")
    return name


def names(repository: Path) -> list[str]:
    """The models of a repository; other folders, and those being written, are passed over."""
    return sorted(entry.name for entry in repository.iterdir() if entry.is_dir() and _NAME.fullmatch(entry.name))


def versions(repository: Path, name: str) -> list[int]:
    """The versions of a model in ascending order; empty where there is none."""
    folder = repository / name
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.is_dir() and _VERSION.fullmatch(entry.name))


def open_bundle(repository: Path, name: str, version: int) -> Bundle:
    """Reads a bundle; the bytes that are returned are the bytes whose digests were checked.

    Raises:
        BundleError: naming what is missing, changed, or contradicts the manifest.
    """
    folder = repository / name / str(version)
    for path in (folder.parent, folder):
        if not stat.S_ISDIR(_mode(path)):
            raise BundleError(f"{path.name} is a link or a file; a bundle lies in real folders of its repository")
    content = _read(folder / MANIFEST)
    manifest = Manifest.from_json(content)
    if missing := {MODEL, LABELS, GOLDEN} - manifest.files.keys():
        raise BundleError(f"manifest.json names no {', '.join(sorted(missing))}; export the bundle again")
    files = {file: _verified(folder / file, record) for file, record in manifest.files.items()}
    labels = parse_labels(files[LABELS], manifest.classes)
    golden = Golden.from_bytes(files[GOLDEN])
    size = manifest.input
    golden.require_fit((size.height, size.width, size.channels), manifest.classes)
    return Bundle(
        name=name,
        version=version,
        digest=hashlib.sha256(content).hexdigest(),
        manifest=manifest,
        model=files[MODEL],
        labels=labels,
        golden=golden,
    )


def parse_labels(content: bytes, classes: int) -> tuple[str, ...]:
    """One label a line, UTF-8, as many as there are classes.

    Raises:
        BundleError: another number, not UTF-8, or an empty line.
    """
    try:
        labels = tuple(content.decode("utf-8-sig").removesuffix("\n").split("\n"))
    except UnicodeDecodeError as error:
        raise BundleError("the labels are not UTF-8; save them as UTF-8, one a line") from error
    labels = tuple(label.strip() for label in labels)
    if len(labels) != classes:
        raise BundleError(f"there are {len(labels)} labels for {classes} classes; give one label a line for each class")
    if "" in labels:
        raise BundleError(f"label {labels.index('') + 1} is empty; give one label a line for each class")
    return labels


def write_bundle(
    repository: Path, name: str, manifest: Manifest, files: Mapping[str, bytes], version: int | None = None
) -> Path:
    """Publishes a bundle and returns its folder.

    Args:
        repository: created where it is missing.
        name: of the model.
        manifest: without `files`, which are filled in here.
        files: name to content.
        version: the largest there plus one when None.

    Raises:
        BundleExistsError: the version asked for is there already.
        BundleError: a name, file name or version that no reader would accept.
    """
    check_name(name)
    if version is not None:
        _check_version(version)
    if (repository / name).is_symlink():
        raise BundleError(f"{name} is a symbolic link in the repository; export into a real folder")
    repository.mkdir(parents=True, exist_ok=True)
    records = {file: FileRecord.of(content) for file, content in files.items()}
    content = manifest.model_copy(update={"files": records}).to_json()
    Manifest.from_json(content)  # what is written can be read again
    aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=repository))
    try:
        for file, data in {**files, MANIFEST: content}.items():
            _write(aside / file, data)
        aside.chmod(0o755)  # mkdtemp's folder is its owner's alone
        _flush(aside)
        return move_bundle(aside, repository, name, version)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def move_bundle(aside: Path, repository: Path, name: str, version: int | None) -> Path:
    """Publishes a finished folder of the same file system, as `write_bundle` does at its end.

    Renaming onto a folder that holds something fails, so of two exporters of one version one wins.

    Raises:
        BundleExistsError: the version asked for is there already.
    """
    folder = repository / name
    while True:
        folder.mkdir(exist_ok=True)
        number = version or max(_taken(folder), default=0) + 1
        target = folder / _check_version(number)
        try:
            aside.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                with contextlib.suppress(OSError):
                    folder.rmdir()  # if it was made here, it is empty
                raise
            if version is not None:
                raise BundleExistsError(
                    f"{name} has a version {version}; leave --version out, or choose another"
                ) from error
        else:
            _flush(folder)
            _flush(repository)
            return target


def _taken(folder: Path) -> list[int]:
    """Also by what is no bundle: a file or a dangling link of that name."""
    return [int(entry.name) for entry in folder.iterdir() if _VERSION.fullmatch(entry.name)]


def _check_version(version: int) -> str:
    if not _VERSION.fullmatch(str(version)):
        raise BundleError(f"{version} is no version; use a whole number from 1 to 999999999")
    return str(version)


def _read(path: Path) -> bytes:
    if not stat.S_ISREG(_mode(path)):  # a link may lead anywhere, and reading a pipe would wait for ever
        raise BundleError(f"{path.name} is a link or no file; a bundle holds plain files")
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path) from error


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> BundleError:
    return BundleError(f"{path.name} cannot be read; export the bundle again")


def _verified(path: Path, record: FileRecord) -> bytes:
    content = _read(path)
    if FileRecord.of(content) != record:
        raise BundleError(
            f"{path.name} is not the file that was exported (its sha256 differs); export the bundle again"
        )
    return content


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
