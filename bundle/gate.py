"""Bounds on the work that a file's structure can ask for, checked in its bytes before any decoder reads them.

Pixel limits do not help here: 187 KB of JPEG with one scan repeated 4,000 times keeps a core busy for half a minute,
and readers walk millions of empty segments one by one.
"""

import re

from bundle.errors import BadImageError

MAX_SCANS = 64
"""Of a JPEG; progressive files of real encoders have about ten."""

MAX_SEGMENTS = 65_536
"""Markers of a JPEG before its pixels, chunks of a PNG; 16 MiB in PNG's usual chunks are 2,048."""

MAX_FILL = 4096
"""Bytes between a JPEG's segments, padding or none of its: Pillow walks them one by one, 16 MiB in two seconds."""

MAX_APPLICATION_SEGMENTS = 300
"""APP1 segments of a JPEG, which hold EXIF and XMP; of whole ones 16 MiB are 256. Pillow copies all EXIF for each."""

SHORT, MIDDLING = 4 << 10, 64 << 10
"""Bytes of a file, and of a JPEG, whose header may be short; 64 KiB of empty segments take 24 ms, of texts 15."""
FEW = 1024
"""Bytes of FF in such a JPEG, each of which may begin a segment; pixels have one in 256."""

_START_OF_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1
_PACKED = (b"iCCP", b"zTXt", b"iTXt")
"""Chunks of a PNG that are unpacked when its header is read, a kilobyte to a megabyte."""
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA), 0xC8, *range(0xF0, 0xFE)}
"""TEM, RST0 to RST7, SOI, EOI; and those for extensions, whose content Pillow walks byte by byte."""
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_BEHIND_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""In a scan FF is always followed by 00 or a restart marker."""


def check_structure(data: bytes) -> None:
    """Passes files that are not JPEG or PNG, and damaged ones: the decoder says what is wrong with those.

    Raises:
        BadImageError: image_too_complex.
    """
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(data)


def has_short_header(data: bytes) -> bool:
    """Whether reading the header takes about a millisecond at most, whatever the file holds; True of most JPEGs."""
    if len(data) <= SHORT:
        return not any(kind in data for kind in _PACKED)
    return data.startswith(b"\xff\xd8") and len(data) <= MIDDLING and data.count(b"\xff") <= FEW


def _check_jpeg(data: bytes) -> None:
    """Up to the end of the picture: what follows it (another one, a film) is not read."""
    position, junk, scans, applications, within = 2, 0, 0, 0, False
    for _ in range(MAX_SEGMENTS):
        end = len(data) if within else min(len(data), position + MAX_FILL + 2)
        found = (_BEHIND_SCAN if within else _MARKER).search(data, position, end)
        start = found.start() if found else end
        junk += 0 if within else max(0, start - position)
        if junk > MAX_FILL:
            raise _too_complex("long padding")
        kind = data[start + 1] if found else _END
        within = kind == _START_OF_SCAN
        scans += within
        if scans > MAX_SCANS:
            raise _too_complex(f"more than {MAX_SCANS} scans")
        applications += kind == _APP1 and not scans
        if applications > MAX_APPLICATION_SEGMENTS:
            raise _too_complex(f"more than {MAX_APPLICATION_SEGMENTS} segments of EXIF or XMP")
        if found is None or (kind == _END and scans):
            return
        position = start + 2
        if kind not in _WITHOUT_LENGTH:
            position += max(2, int.from_bytes(data[position : position + 2]))
    raise _too_complex(f"more than {MAX_SEGMENTS} segments")


def _check_png(data: bytes) -> None:
    position, profiles = 8, 0
    for _ in range(MAX_SEGMENTS):
        if position + 8 > len(data):
            return
        profiles += data[position + 4 : position + 8] == b"iCCP"
        if profiles > 1:  # Pillow unpacks each, with no bound on all of them
            raise _too_complex("more than one colour profile")
        position += 12 + int.from_bytes(data[position : position + 4])
    raise _too_complex(f"more than {MAX_SEGMENTS} chunks")


def _too_complex(what: str) -> BadImageError:
    return BadImageError("image_too_complex", f"the file has {what}; save the image again with another program")
