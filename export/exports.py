"""What a bundle was exported from: whether it must be exported again, and what that cost.

`NAME/exports.json` beside the versions maps a bundle's digest to its `Export`. It is written before the bundle appears,
so that a bundle of a batch is never without it; an entry without a bundle means nothing.
"""

import hashlib
import importlib.util
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bundle.beside import write_atomically
from bundle.errors import BundleError
from bundle.manifest import Manifest, Sha256
from bundle.store import MANIFEST, versions
from export.joblist import is_file
from export.jobs import FreezeJob

EXPORTS = "exports.json"
TOOLS = ("torch", "onnx", "onnxscript")
PACKAGES = ("bundle", "export")


class Export(BaseModel):
    """How one bundle came to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Sha256
    """Of weights, code and options: see `export_key`."""
    batchnorm_nodes: int = Field(ge=0)
    """Counted in the graph."""
    seconds: float = Field(ge=0)
    """From the start of its process to its end."""
    peak_mib: float = Field(ge=0)
    """The largest resident memory of its process."""


_RECORDS = TypeAdapter(dict[Sha256, Export])


def export_key(job: FreezeJob) -> str:
    """A sha256 of all that decides what the bundle holds: the weights' content, the options, the code.

    Raises:
        BundleError, WeightsError: a file that the job names cannot be read, or is not in the cache.
    """
    # Where it goes is no part of what it is.
    options = job.model_dump(exclude={"repository", "name", "version", "weights"})
    facts = {
        "weights": _weights(job.weights),
        "options": {key: _value(key, value) for key, value in options.items()},
        "code": code_digest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def code_digest() -> str:
    """Of the sources of export and bundle and of the exporter's versions; as they were when first asked."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        folder = Path(str(importlib.import_module(package).__file__)).parent
        for source in sorted(folder.rglob("*.py")):
            digest.update(f"{package}/{source.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(source.read_bytes()).digest())
    for tool in TOOLS:
        digest.update(f"{tool} {version(tool)}\0".encode())
    return digest.hexdigest()


def read_exports(folder: Path) -> dict[str, Export]:
    """Digest to export of a model's folder; empty where no batch has written there.

    Raises:
        BundleError: the file is not what was written.
    """
    try:
        return _RECORDS.validate_json((folder / EXPORTS).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        raise BundleError(
            f"{folder.name}/{EXPORTS} is damaged; delete it, and its bundles are exported anew"
        ) from error


def record(folder: Path, digest: str, export: Export) -> None:
    """Adds an export to the folder's; a reader sees the file before or after it."""
    folder.mkdir(exist_ok=True)
    write_atomically(folder / EXPORTS, _RECORDS.dump_json(read_exports(folder) | {digest: export}, indent=1) + b"\n")


def find_export(repository: Path, name: str, number: int | None, key: str) -> tuple[int, str, Manifest, Export] | None:
    """Version, digest, manifest and record of the bundle that this key gave, if it is there and the newest export.

    Args:
        repository: the folder of all bundles.
        name: of the model.
        number: the only version to look at; the newest that a batch has written when None.
        key: see `export_key`.
    """
    records = read_exports(repository / name)
    for candidate in reversed(versions(repository, name)) if number is None else [number]:
        content = _manifest(repository / name / str(candidate))
        digest = hashlib.sha256(content).hexdigest()
        if digest in records:
            manifest = Manifest.from_json(content)
            same = records[digest].key == key and _is_whole(repository / name / str(candidate), manifest)
            return (candidate, digest, manifest, records[digest]) if same else None
    return None


def _weights(weights: str | None) -> list[str | None]:
    if weights is None or not is_file(weights):
        return [weights]
    from export.weights import locate  # noqa: PLC0415 torch takes seconds to import

    return [Path(weights).name, _content(locate(weights))]  # the manifest has the name too


def _value(key: str, value: Any) -> Any:
    """An option as it decides the bundle: a file by its content, code by its source, all else by itself."""
    if isinstance(value, Path):
        return _content(value)
    if key == "module" and isinstance(value, str):
        return [value, _source(value.partition(":")[0])]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _source(module: str) -> str | None:
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None  # the export will say so
    return _content(Path(found.origin)) if found and found.origin and Path(found.origin).is_file() else None


def _content(path: Path) -> str:
    """The sha256 of a file, or of the names and contents of a folder."""
    try:
        if path.is_dir():
            inside = [
                (str(file.relative_to(path)), _content(file)) for file in sorted(path.rglob("*")) if file.is_file()
            ]
            return hashlib.sha256(json.dumps(inside).encode()).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read; check its path in the list") from error


def _manifest(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError:
        return b""  # no bundle, and no digest


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    """By the sizes: reading every byte of forty bundles would cost minutes, and a server does it anyway."""
    try:
        return all((folder / name).stat().st_size == file.size for name, file in manifest.files.items())
    except OSError:
        return False
