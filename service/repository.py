"""What lies in the repository, told by digests: two looks that are alike need no reload."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bundle import calibration, plans, store
from bundle.errors import BundleError
from bundle.manifest import Manifest
from bundle.serving import ENSEMBLE, MAX_LISTED, SERVING, Serving, read_serving


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a line of the index is made of."""

    bundle: str
    """sha256 of manifest.json, or of ensemble.toml; empty where it cannot be read."""
    wishes: str = ""
    """Two sha256 of what lies beside the version: serving.toml and the plans, and its calibrations."""
    whole: bool = True
    """Every file that the manifest names is there in its size. A copy that is under way is not whole."""


@dataclass(frozen=True)
class Folder:
    """What NAME/ holds."""

    name: str
    serving: Serving = field(default_factory=Serving)
    refusal: str = ""
    """Why serving.toml is none; `serving` has the defaults then."""
    lines: dict[int | None, Stamp | None] = field(default_factory=dict)
    """What is to serve: versions, or None for an ensemble. Without a stamp: it is wished and not there."""
    left_out: int = 0
    """Versions that are there and too many."""
    ignored: bool = False
    """It has versions, and an ensemble.toml that is not read."""


class ModelRepository:
    """A folder of bundles. It is only read; whoever publishes there does it by renaming."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Folders that could be models; raises OSError."""
        return store.names(self.path)

    def look(self, name: str) -> Folder:
        """Raises OSError: the folder cannot be read."""
        path = self.path / name
        there = store.versions(self.path, name)
        ensemble = (path / ENSEMBLE).exists()
        if ensemble and not there:
            return Folder(name, lines={None: Stamp(_digest([path / ENSEMBLE]))})
        # Before it is read: what is renamed to it meanwhile is another one at the next look.
        beside = _digest([path / SERVING, *sorted((path / plans.FOLDER).glob("*.toml"))])
        serving, refusal = Serving(), ""
        try:
            serving = read_serving(path)
        except BundleError as error:
            refusal = str(error)
        lines: dict[int | None, Stamp | None] = {
            number: self._stamp(path, number, beside) if number in there else None for number in _wished(serving, there)
        }
        left_out = len(there) - len(lines) if serving.versions == "all" else 0
        return Folder(name, serving, refusal, lines, left_out, ignored=ensemble)

    def _stamp(self, path: Path, number: int, beside: str) -> Stamp:
        folder = path / str(number)
        try:
            content = (folder / store.MANIFEST).read_bytes() if (folder / store.MANIFEST).is_file() else b""
        except OSError:
            content = b""
        bundle = hashlib.sha256(content).hexdigest() if content else ""
        learned = path / calibration.FOLDER / f"{bundle}.json"
        return Stamp(bundle, beside + _digest([learned]), _is_whole(folder, content))


def _wished(serving: Serving, there: list[int]) -> Iterable[int]:
    if isinstance(serving.versions, str):
        return there[-1:] if serving.versions == "latest" else _newest(there, serving.aliases.values())
    return serving.versions


def _newest(there: list[int], also: Iterable[int]) -> list[int]:
    """As many as may be listed, and those that have another name."""
    return sorted({*there[-MAX_LISTED:], *(set(also) & set(there))})


def _is_whole(folder: Path, content: bytes) -> bool:
    try:
        files = Manifest.from_json(content).files
        return all((folder / file).lstat().st_size == record.size for file, record in files.items())
    except (BundleError, OSError):
        return False


def _digest(files: Iterable[Path]) -> str:
    """Of the names and the content of those that can be read."""
    found = hashlib.sha256()
    for file in files:
        try:
            content = file.read_bytes() if file.is_file() else b""  # reading a pipe would wait for ever
        except OSError:
            content = b"unreadable"
        found.update(hashlib.sha256(file.name.encode()).digest() + hashlib.sha256(content).digest())
    return found.hexdigest()
