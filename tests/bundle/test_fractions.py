"""JPEGs that are decoded at a fraction of their size, against the whole image decoded and resized."""

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bundle.errors import BadImageError
from bundle.manifest import Input
from bundle.preprocess import Decoded, ImageLimits, Opened, decode, probe
from bundle.render import Scaled
from bundle.views import Box, Size, View, shorter_side
from samples import encode, photographs

LIMITS = ImageLimits()
WANTED = Input(height=64, width=64, channels=3, dynamic=False, resize=64)
LARGE = Size(2005, 1339)
"""Neither is a multiple of 8: the last column and row of an eighth lie partly outside."""


def jpeg(orientation: int = 1, size: Size = LARGE) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(photographs()[0].resize(size, Image.Resampling.BICUBIC), "JPEG", quality=95, exif=exif)


def drawn(data: bytes, decoded: Decoded | None = None) -> npt.NDArray[np.int64]:
    """The whole image as one view."""
    resized = shorter_side(probe(data, LIMITS), 64)
    view = View(resized, Box(0, 0, *resized), resized)
    rows = np.empty((1, resized.height, resized.width, 3), np.uint8)
    if decoded is None:
        Scaled.of(Opened(data, LIMITS), [view], WANTED).draw([view], rows)
    else:
        Scaled(decoded.image, [view], "bilinear", decoded.corners).draw([view], rows)
    found: npt.NDArray[np.int64] = rows[0].astype(np.int64)
    return found


def plainly(data: bytes) -> npt.NDArray[np.int64]:
    image = decode(data, 3, LIMITS)
    return np.asarray(image.resize(shorter_side(Size(*image.size), 64), Image.Resampling.BILINEAR)).astype(np.int64)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_photograph_is_nearly_the_same_whichever_way_it_lies(orientation: int) -> None:
    data = jpeg(orientation)
    decoded = Opened(data, LIMITS).decode(3, shorter_side(probe(data, LIMITS), 64))
    assert max(decoded.image.size) == 251, "2005 eighths, the last of them not whole"
    error = np.abs(drawn(data) - plainly(data)).mean()
    assert error < 0.5
    shifted = Decoded(decoded.image, (0, 0, *decoded.image.size))
    assert np.abs(drawn(data, shifted) - plainly(data)).mean() > error + 0.1, "the comparison sees less than a pixel"


@pytest.mark.parametrize(("side", "fraction"), [(64, 8), (70, 8), (84, 4), (168, 2), (335, 1), (1339, 1), (3000, 1)])
def test_twice_as_many_pixels_as_wanted_are_left(side: int, fraction: int) -> None:
    data = jpeg()
    found = Opened(data, LIMITS).decode(3, shorter_side(LARGE, side)).image.size
    assert found == (-(-2005 // fraction), -(-1339 // fraction))


def test_an_image_that_is_not_much_larger_is_decoded_as_it_is() -> None:
    data = jpeg(6, Size(200, 127))
    decoded = Opened(data, LIMITS).decode(3, Size(64, 100))
    assert [*decoded.corners] == [0, 0, 127, 200]
    np.testing.assert_array_equal(np.asarray(decoded.image), np.asarray(decode(data, 3, LIMITS)))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_formats_are_decoded_as_they_are(kind: str) -> None:
    data = encode(photographs()[0], kind)
    assert Opened(data, LIMITS).decode(3, Size(10, 10)).image.size == (640, 427)


@pytest.mark.parametrize(("mode", "channels"), [("L", 3), ("L", 1), ("RGB", 1), ("CMYK", 3)])
def test_colours_are_those_of_the_whole_image(mode: str, channels: int) -> None:
    data = encode(photographs()[1].resize(LARGE).convert(mode), "JPEG", quality=95)
    small = np.asarray(Opened(data, LIMITS).decode(channels, Size(64, 43)).image.resize((16, 11))).astype(int)
    whole = np.asarray(decode(data, channels, LIMITS).resize((16, 11))).astype(int)
    assert small.shape == whole.shape
    assert np.abs(small - whole).mean() < 1.5


def test_a_file_that_is_cut_short_is_refused_all_the_same() -> None:
    data = jpeg()
    with pytest.raises(BadImageError) as refused:
        Opened(data[: len(data) // 2], LIMITS).decode(3, Size(96, 64))
    assert refused.value.code == "image_truncated"
