"""MNIST and CIFAR-10 as they are published: one file of many small images.

IDX: yann.lecun.com's page on MNIST, the section on file formats; Fashion-MNIST has the same. CIFAR-10: its page's three
versions, binary, Python and MATLAB.
"""

import gzip
import io
import math
import pickle
import re
import zlib
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from bundle.errors import LabelledError
from bundle.matlab import byte_arrays
from bundle.preprocess import Pixels

_IDX = re.compile(r"(?P<stem>.*)-images(?P<joint>[-.])idx3-ubyte(?P<gz>(\.gz)?)")
_CIFAR = re.compile(r"(data_batch_\d|test_batch)(\.bin|\.mat)?")
_HELD = (
    *(f"{stem}-images{joint}idx3-ubyte{gz}" for stem in ("t10k", "train") for gz in ("", ".gz") for joint in "-."),
    *("test_batch.bin", "test_batch", "test_batch.mat"),
    *("cifar-10-batches-bin/test_batch.bin", "cifar-10-batches-py/test_batch", "cifar-10-batches-mat/test_batch.mat"),
)
"""What is looked for in a folder; the first that is there is read."""

_TRAINING = (
    *((f"train-images{joint}idx3-ubyte{gz}",) for gz in ("", ".gz") for joint in "-."),
    *(
        tuple(f"{folder}data_batch_{number}{ending}" for number in range(1, 6))
        for kind, ending in (("bin", ".bin"), ("py", ""), ("mat", ".mat"))
        for folder in ("", f"cifar-10-batches-{kind}/")
    ),
)
"""The files of training images that are looked for in a folder; the first that are all there are read."""

_ROW = 3 * 32 * 32
"""Bytes of a CIFAR image: a red, a green and a blue plane."""


class Published(NamedTuple):
    images: Pixels
    """uint8 [n, height, width], or [n, height, width, 3] in RGB"""
    labels: npt.NDArray[np.int64]
    """[n]"""


def find_published(path: Path) -> Path | None:
    """The file to read where `path` is such a file or a folder that holds one; None: something else."""
    if path.is_dir():
        return next((path / name for name in _HELD if (path / name).is_file()), None)
    return path if _IDX.fullmatch(path.name) or _CIFAR.fullmatch(path.name) else None


def find_training(path: Path) -> list[Path]:
    """The files of a folder's training images; none where it is no such folder."""
    candidates = ([path / name for name in names] for names in _TRAINING)
    return next((files for files in candidates if all(file.is_file() for file in files)), [])


def read_published(path: Path, classes: int) -> Published:
    """Reads a file that `find_published` gave.

    Raises:
        LabelledError: damaged, cut short, or a label that is not below `classes`.
        OSError: it cannot be read.
    """
    if named := _IDX.fullmatch(path.name):
        labels_path = _beside(path, named)
        images, labels = _read_idx(path, 3), _read_idx(labels_path, 1).astype(np.int64)
        if len(images) != len(labels):
            raise LabelledError(f"{path.name} has {len(images)} images, {labels_path.name} {len(labels)} labels")
    else:
        labels_path = path
        read = {".bin": _read_binary, ".mat": _read_matlab}.get(path.suffix, _read_python)
        images, labels = read(path)
    _check_labels(labels_path, labels, classes)
    return Published(images, labels)


def _check_labels(path: Path, labels: npt.NDArray[np.int64], classes: int) -> None:
    if len(wrong := np.flatnonzero((labels < 0) | (labels >= classes))):
        first = int(wrong[0])
        raise LabelledError(f"{path.name}: image {first} has label {labels[first]}, the model has {classes} classes")


def _beside(images: Path, named: re.Match[str]) -> Path:
    """The labels file of an images file; of several the one that is spelled like it."""
    joints, endings = sorted("-.", key=named["joint"].__ne__), sorted(("", ".gz"), key=named["gz"].__ne__)
    names = [f"{named['stem']}-labels{joint}idx1-ubyte{gz}" for gz in endings for joint in joints]
    for name in names:
        if (images.parent / name).is_file():
            return images.parent / name
    raise LabelledError(f"{images.name} has no labels beside it; put {names[0]} into the same folder")


def _read_idx(path: Path, dimensions: int) -> Pixels:
    """The unsigned bytes of an IDX file of that many dimensions; no more is unpacked than its header announces."""
    header_size = 4 + 4 * dimensions
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            header = file.read(header_size)
            if header[:4] != bytes((0, 0, 8, dimensions)):  # 8: unsigned bytes
                raise LabelledError(f"{path.name} does not begin as an IDX file of {dimensions} dimensions of bytes")
            shape = tuple(int.from_bytes(header[at : at + 4]) for at in range(4, header_size, 4))
            # deflate packs at most 1032 to 1: a header gets no memory that its file cannot fill
            most = path.stat().st_size * (1032 if path.suffix == ".gz" else 1)
            if len(header) < header_size or 0 in shape[1:] or math.prod(shape) > most:
                _refuse_cut(path)
            return _fill(file, np.empty(math.prod(shape), np.uint8), path).reshape(shape)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise LabelledError(f"{path.name} is damaged or cut short; fetch it again") from error


def _fill(file: io.BufferedIOBase, values: Pixels, path: Path) -> Pixels:
    """Reads `values` from the file, which must end with them."""
    rest = values.data
    while rest:
        if not (count := file.readinto(rest)):
            _refuse_cut(path)
        rest = rest[count:]
    if file.read(1):
        raise LabelledError(f"{path.name} goes on after the {len(values)} bytes that its header announces")
    return values


def _read_binary(path: Path) -> Published:
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if content.size % (1 + _ROW):
        _refuse_cut(path)
    rows = content.reshape(-1, 1 + _ROW)
    return Published(_from_planes(rows[:, 1:]), rows[:, 0].astype(np.int64))


def _read_matlab(path: Path) -> Published:
    content = path.read_bytes()
    try:
        arrays = byte_arrays(content)
    except ValueError as error:
        raise LabelledError(f"{path.name} is no MATLAB 5 file, damaged or cut short; fetch it again") from error
    return _checked(path, arrays.get("data"), arrays.get("labels"))


def _read_python(path: Path) -> Published:
    """The batch is a pickle; it is read without any of its code being run, and without numpy's."""
    content = path.read_bytes()
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        values = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        data = values["data"].array()
    except LabelledError as error:
        raise LabelledError(f"{path.name}: {error}") from error
    except Exception as error:  # a pickle can fail in any way
        raise LabelledError(f"{path.name} is no CIFAR-10 batch, or cut short; fetch it again") from error
    return _checked(path, data, values.get("labels"))


def _checked(path: Path, data: Pixels | None, labels: Any) -> Published:
    if data is None or data.shape[1:] != (_ROW,):
        raise LabelledError(f"{path.name}: its `data` is not rows of {_ROW} bytes; fetch it again")
    try:
        numbers = np.asarray(labels).ravel()
    except ValueError:  # lists of unequal lengths
        numbers = np.empty(0)
    if numbers.dtype.kind not in "iu" or len(numbers) != len(data):
        raise LabelledError(f"{path.name}: its `labels` are not {len(data)} whole numbers; fetch it again")
    return Published(_from_planes(data), numbers.astype(np.int64))


def _from_planes(rows: Pixels) -> Pixels:
    """[n, 3072], a plane a colour, to [n, 32, 32, 3]."""
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _refuse_cut(path: Path) -> NoReturn:
    raise LabelledError(f"{path.name} is cut short; fetch it again")


class _Type:
    """Stands for numpy's dtype: what the pickle says of it, and no more."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and the like say nothing about bytes."""


class _Array:
    """Stands for numpy's array: takes the state that numpy would, and makes an array of bytes of it."""

    state: tuple[int, tuple[int, ...], _Type, bool, bytes]

    def __init__(self, *_: object) -> None:
        """The pickle gives an empty shape here, the true one in the state."""

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Type, bool, bytes]) -> None:
        self.state = state

    def array(self) -> Pixels:
        _, shape, kind, fortran, content = self.state
        if kind.code not in (b"u1", "u1"):
            raise LabelledError("its `data` are not bytes; fetch it again")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Unpickler(pickle.Unpickler):  # noqa: S301 - find_class lets nothing through
    """Knows the three names that an array in a pickle consists of; whatever else it asks for is refused."""

    _KNOWN: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Type,
    }

    def find_class(self, module: str, name: str) -> Any:
        if known := self._KNOWN.get((module, name)):
            return known
        raise LabelledError(f"it asks for {module}.{name}, which no published batch holds; it was not run")
