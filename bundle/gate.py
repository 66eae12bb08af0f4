"""Bounds on the work that a file's structure can ask for, checked in its bytes before any decoder reads them.

Pixel limits do not help here: 187 KB of JPEG with one scan repeated 4,000 times keeps a core busy for half a minute,
and readers walk millions of empty segments one by one.
"""

from bundle.errors import BadImageError

MAX_SCANS = 64
"""Of a JPEG; progressive files of real encoders have about ten."""

MAX_SEGMENTS = 65_536
"""Markers of a JPEG before its pixels, chunks of a PNG; 16 MiB in PNG's usual chunks are 2,048."""

MAX_FILL = 4096
"""Bytes of padding between a JPEG's markers."""

_START_OF_SCAN = 0xDA
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}  # TEM, RST0 to RST7, SOI


def check_structure(data: bytes) -> None:
    """Passes files that are not JPEG or PNG, and damaged ones: the decoder says what is wrong with those.

    Raises:
        BadImageError: image_too_complex.
    """
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(data)


def _check_jpeg(data: bytes) -> None:
    # Inside a scan FF is always followed by 00 or a restart marker, so that this counts scans, and few others besides.
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise _too_complex(f"more than {MAX_SCANS} scans")
    position, fill = 2, 0
    for _ in range(MAX_SEGMENTS):
        while data[position : position + 2] == b"\xff\xff":
            position += 1
            if (fill := fill + 1) > MAX_FILL:
                raise _too_complex("long padding")
        if data[position : position + 1] != b"\xff" or len(data) < position + 4:
            return
        kind = data[position + 1]
        if kind == _START_OF_SCAN:
            return
        position += 2 if kind in _WITHOUT_LENGTH else 2 + int.from_bytes(data[position + 2 : position + 4])
    raise _too_complex(f"more than {MAX_SEGMENTS} segments")


def _check_png(data: bytes) -> None:
    position = 8
    for _ in range(MAX_SEGMENTS):
        if position + 8 > len(data):
            return
        position += 12 + int.from_bytes(data[position : position + 4])
    raise _too_complex(f"more than {MAX_SEGMENTS} chunks")


def _too_complex(what: str) -> BadImageError:
    return BadImageError("image_too_complex", f"the file has {what}; save the image again with another program")
