"""Image files as no camera writes them, made by hand."""

import functools
import io
import struct
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image

from live import encode

PNG = b"\x89PNG\r\n\x1a\n"
RED_IMAGE = Image.new("RGB", (64, 48), "red")


@functools.cache
def good(kind: str) -> bytes:
    """A photograph's kind of picture, mostly red."""
    noise = np.random.default_rng(0).integers(0, 60, (96, 128, 3), np.uint8)
    noise[:, :, 0] += 190
    return encode(Image.fromarray(noise), kind)


def saved(found: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    found.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A red one, with chunks before its pixels."""
    rows = (b"\0" + b"\xff\0\0" * width) * height
    return png_header(width, height) + b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb(kind: bytes, start: bytes) -> bytes:
    """50 KB that are 50 MB."""
    return chunk(kind, start + zlib.compress(bytes(50 << 20)))


def profiles(count: int) -> bytes:
    """A kilobyte each that is a megabyte."""
    return png(8, 8, *[chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 20)))] * count)


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def with_segments(jpeg: bytes, segments: Iterable[bytes]) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def sized(data: bytes, width: int, height: int) -> bytes:
    """A JPEG or a PNG whose header says another size."""
    if data.startswith(PNG):
        return png_header(width, height) + data[33:]
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


def scans(count: int) -> bytes:
    """A progressive JPEG of so many scans: its last one again and again."""
    data = saved(RED_IMAGE, "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (count - data.count(b"\xff\xda")) + data[-2:]


def sof(marker: int, precision: int = 8) -> bytes:
    """A JPEG that says that it is of another process."""
    data = good("JPEG")
    start = data.index(b"\xff\xc0")
    return data[: start + 1] + bytes([marker]) + data[start + 2 : start + 4] + bytes([precision]) + data[start + 5 :]


def ycck() -> bytes:
    """Red. A file of four planes is CMYK or YCCK by one byte of Adobe's marker; cyan's YCbCr is red's complement."""
    stored = Image.new("CMYK", (16, 16), (255 - 179, 255 - 171, 255 - 1, 0))  # Adobe's files are inverted
    data = saved(stored, "JPEG", quality=100, subsampling=0)
    place = data.index(b"Adobe") + 11
    assert data[place] == 0
    return data[:place] + b"\2" + data[place + 1 :]


def exif(content: bytes) -> bytes:
    return with_segments(good("JPEG"), [segment(0xE1, b"Exif\0\0" + content)])


def many_exif(count: int) -> bytes:
    return with_segments(good("JPEG"), [segment(0xE1, b"Exif\0\0" + bytes(200))] * count)


def entries(*found: bytes, next_: int = 0) -> bytes:
    """A TIFF with one directory, at 8."""
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(found)) + b"".join(found) + struct.pack("<I", next_)


def orientation(value: int) -> bytes:
    return struct.pack("<HHIHH", 0x0112, 3, 1, value, 0)


def animated(kind: str, **options: object) -> bytes:
    frames = [Image.new("RGB", (8, 8), (0, number % 200, 255 - number % 200)) for number in range(299)]
    return saved(Image.new("RGB", (8, 8), "red"), kind, save_all=True, append_images=frames, lossless=True, **options)


def mpo() -> bytes:
    """The second picture is blue."""
    return saved(RED_IMAGE, "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48), "blue")])


def junk(between: bytes) -> bytes:
    """A JPEG with 16 MB between its segments."""
    data = good("JPEG")
    return data[:2] + b"\xff\xf0\xff\xfd" + between * (8_000_000 // len(between)) * 2 + data[2:]


def webp_canvas(width: int, height: int) -> bytes:
    """A WebP whose canvas is not that of its picture."""
    data = saved(RED_IMAGE, "WEBP", exif=b"Exif\0\0" + entries(orientation(1)))
    assert data[12:16] == b"VP8X"
    return data[:24] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + data[30:]


def flip(data: bytes, bit: int) -> bytes:
    place = bit // 8
    return data[:place] + bytes([data[place] ^ 1 << bit % 8]) + data[place + 1 :]


def half(kind: str, share: float) -> bytes:
    """The first part of a good file."""
    data = good(kind)
    return data[: int(len(data) * share)]
