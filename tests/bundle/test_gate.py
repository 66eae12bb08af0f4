"""Files whose structure asks for too much work, made by hand; and that real ones pass."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from bundle.errors import BadImageError
from bundle.gate import (
    FEW,
    MAX_APPLICATION_SEGMENTS,
    MAX_FILL,
    MAX_SCANS,
    MAX_SEGMENTS,
    MIDDLING,
    SHORT,
    check_structure,
    has_short_header,
)
from samples import encode, photographs

PIXELS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
PNG = b"\x89PNG\r\n\x1a\n"


def jpeg(*, progressive: bool = False) -> bytes:
    buffer = io.BytesIO()
    PIXELS.save(buffer, "JPEG", progressive=progressive)
    return buffer.getvalue()


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan stands there until there are `count`."""
    whole = jpeg(progressive=True)
    scans = whole.count(b"\xff\xda")
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * (count - scans) + b"\xff\xd9"


def with_segments(count: int) -> bytes:
    whole = jpeg()
    return whole[:2] + b"\xff\xfe\x00\x02" * count + whole[2:]


def with_fill(count: int) -> bytes:
    whole = jpeg()
    return whole[:2] + b"\xff" * count + whole[2:]


def with_junk(count: int) -> bytes:
    """Behind a segment for an extension, whose length would hide it."""
    whole = jpeg()
    return whole[:2] + b"\xff\xf0" + (b"\xff\xfd" + b"\xff\x00" * 60).ljust(count, b"\x01") + whole[2:]


def with_chunks(count: int) -> bytes:
    return PNG + b"\x00\x00\x00\x00tEXt\x00\x00\x00\x00" * count


def with_exif(count: int) -> bytes:
    whole = jpeg()
    return whole[:2] + b"\xff\xe1\x00\x08Exif\x00\x00" * count + whole[2:]


def with_profiles(count: int) -> bytes:
    return PNG + b"\x00\x00\x00\x00iCCP\x00\x00\x00\x00" * count


@pytest.mark.parametrize(
    ("make", "allowed"),
    [
        (with_scans, MAX_SCANS),
        (with_segments, MAX_SEGMENTS - 100),
        (with_fill, MAX_FILL),
        (with_junk, MAX_FILL),
        (with_chunks, MAX_SEGMENTS - 1),
        (with_exif, MAX_APPLICATION_SEGMENTS),
        (with_profiles, 1),
    ],
)
def test_the_bound_is_passed_and_one_more_is_not(make: Callable[[int], bytes], allowed: int) -> None:
    check_structure(make(allowed))
    with pytest.raises(BadImageError) as refused:
        check_structure(make(allowed + 101))
    assert refused.value.code == "image_too_complex"


@pytest.mark.parametrize("progressive", [False, True])
def test_real_files_pass(progressive: bool) -> None:
    check_structure(jpeg(progressive=progressive))


def test_what_follows_the_picture_is_not_counted() -> None:
    """A phone's moving photo has a film behind it, in which the bytes of a scan's marker come up by chance."""
    check_structure(jpeg() + b"\xff\xda" * 1000 + bytes(1 << 20))


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 7, 8, 9, 20, 100])
def test_what_is_cut_short_is_left_to_the_decoder(length: int) -> None:
    for whole in (jpeg(), PNG + b"\x7f\xff\xff\xffIDAT" + bytes(100), b"RIFF", b"text"):
        check_structure(whole[:length])


@pytest.mark.parametrize(
    "hostile",
    [
        b"\xff\xd8" + b"\xff" * (1 << 24),
        b"\xff\xd8\xff\xe0\0\2" + bytes(1 << 24),
        b"\xff\xd8" + b"\xff\0" * (1 << 23),
        with_segments(1 << 22),
        with_chunks(1 << 20),
    ],
    ids=["fill", "junk", "escapes", "segments", "chunks"],
)
def test_files_of_16_mib_are_refused_without_reading_them_whole(hostile: bytes) -> None:
    with pytest.raises(BadImageError):
        check_structure(hostile)


def test_a_header_is_short_where_it_can_only_be() -> None:
    """In a file that is middling large, a JPEG alone, and one that cannot have many segments."""
    photograph = encode(photographs()[0].resize((500, 334)), "JPEG")
    assert SHORT < len(photograph) < MIDDLING
    assert has_short_header(photograph)
    assert has_short_header(with_chunks(100))
    assert not has_short_header(with_chunks(1000))
    assert not has_short_header(with_profiles(1))  # which may be a megabyte when it is unpacked
    assert not has_short_header(with_segments(FEW))
    assert not has_short_header(encode(photographs()[0], "JPEG", quality=95))
