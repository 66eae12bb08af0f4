"""Arrays of bytes in a MATLAB 5 file, which CIFAR-10's MATLAB version is ("MAT-File Format", MathWorks, chapter 1).

SciPy reads these files too, but some damaged ones end the whole process in its compiled reader.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from bundle.preprocess import Pixels

_BYTES, _MATRIX, _COMPRESSED = 2, 14, 15
"""Kinds of elements: unsigned bytes; an array, made of flags, dimensions, name and values; another element, packed."""


def byte_arrays(content: bytes) -> dict[str, Pixels]:
    """The file's arrays of bytes by name; what else it holds is passed over.

    Raises:
        ValueError: not a little-endian MATLAB 5 file, damaged, or cut short.
    """
    if content[124:128] != b"\x00\x01IM":
        raise ValueError("not a little-endian MATLAB 5 file")
    found = {}
    try:
        for kind, data in _elements(memoryview(content)[128:]):
            inner = next(_elements(_unpacked(data))) if kind == _COMPRESSED else (kind, data)
            parts = list(_elements(inner[1])) if inner[0] == _MATRIX else []
            if [kind for kind, _ in parts[3:]] == [_BYTES]:
                shape = np.frombuffer(parts[1][1], "<i4").tolist()
                name = bytes(parts[2][1]).decode("latin-1")
                found[name] = np.frombuffer(parts[3][1], np.uint8).reshape(shape, order="F")
    except (struct.error, zlib.error) as error:
        raise ValueError("damaged") from error
    return found


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Kind and content of one element after another."""
    while data:
        kind, size = struct.unpack_from("<II", data)
        start = 8
        if kind >> 16:  # up to four bytes stand in the size's place
            kind, size, start = kind & 0xFFFF, kind >> 16, 4
        if start + size > (len(data) if start == 8 else 8):  # noqa: PLR2004
            raise ValueError("cut short")
        yield kind, data[start : start + size]
        end = start + size
        data = data[end if kind == _COMPRESSED else -(-end // 8) * 8 :]


def _unpacked(data: memoryview) -> memoryview:
    """The one element in a packed one; no more is unpacked than it announces."""
    stream = zlib.decompressobj()
    tag = stream.decompress(data, 8)
    size = struct.unpack("<II", tag)[1]
    content = stream.decompress(stream.unconsumed_tail, size + 1)  # the byte too many brings the checksum in
    if len(content) != size:
        raise ValueError("cut short")
    return memoryview(tag + content)
