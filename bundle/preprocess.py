"""Bytes to pixels: what a file holds, upright, in RGB or grey. `bundle.render` draws the views of it."""

import io
import warnings
import zlib
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from bundle.errors import BadImageError, ImageFormatError
from bundle.gate import check_structure
from bundle.views import Size

FORMATS = ("JPEG", "PNG", "WEBP")
"""The only readers that are ever asked; Pillow's rarer ones have had memory bugs."""
_REDUCED = ("JPEG", "MPO")
"""Formats that are decoded at a fraction of their size at a fraction of the cost."""

Pixels = npt.NDArray[np.uint8]

Interpolation = Literal["bilinear", "bicubic"]
"""Pillow's antialiased filters."""

# Its remarks on odd metadata: what a stranger's file means must not depend on filters, nor its text fill the log.
warnings.filterwarnings("ignore", module=r"PIL\.")

SPARE = 2
"""A JPEG is decoded at the smallest of 1/1, 1/2, 1/4, 1/8 that still has so many pixels a side for each one wanted: the
resize after it sees what it needs to filter (measured in docs/benchmarks.md)."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the turn that makes the image upright (EXIF 2.32, tag 0x0112)."""
_SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap the axes."""

Corners = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


class Decoded(NamedTuple):
    """An upright image, perhaps at a reduced scale."""

    image: Image.Image
    """Mode RGB or L."""
    corners: Corners
    """Of what it shows: a reduced scale may not divide the image, and then ends within the last column or row."""


class ImageLimits(NamedTuple):
    """What is refused before any pixel is decoded."""

    max_pixels: int = 25_000_000
    max_aspect_ratio: float = 20.0
    """Longer by shorter side: a 1 x 2000 image resized to a shorter side of 256 would be 256 x 512000."""


class Opened:
    """An image of which the header was read and nothing else.

    Args:
        data: the file.
        limits: on its size.

    Raises:
        ImageFormatError: not a JPEG, PNG or WebP file.
        BadImageError: empty, damaged, or over the limits.
    """

    def __init__(self, data: bytes, limits: ImageLimits) -> None:
        self._data = data
        self._image = _open(data, limits)
        self._orientation = _orientation(self._image)

    @property
    def size(self) -> Size:
        """Of the upright image."""
        width, height = self._image.size
        return Size(height, width) if self._orientation in _SIDEWAYS else Size(width, height)

    def decode(self, channels: int, wanted: Size | None = None) -> Decoded:
        """The pixels, once; in any thread.

        Args:
            channels: 3 for RGB, 1 for grey.
            wanted: what it is resized to, at most. A JPEG that is much larger is decoded at a fraction of its size:
                libjpeg leaves out the finest frequencies, which costs a fraction of the time. What is drawn of it
                differs by some tenths of a level on average (docs/benchmarks.md); an image that is less than twice as
                large as wanted does not.

        Raises:
            BadImageError: the pixels are damaged.
        """
        with self._image as image:
            extent = _reduce(image, self._orientation, wanted) if wanted and image.format in _REDUCED else image.size
            try:
                image.load()
                if image.format == "PNG":
                    _check_pixel_crc(self._data)
                pixels = _to_mode(image, "L" if channels == 1 else "RGB")
            except Exception as error:
                # Pillow's readers raise whatever the damage led to; its words hold addresses and stay in the chain.
                raise BadImageError(_damage(error), "the image is cut short or damaged; send the whole file") from error
        if self._orientation in _UPRIGHT:
            pixels = pixels.transpose(_UPRIGHT[self._orientation])
        return Decoded(pixels, _corners(Size(*pixels.size), extent, self._orientation))


def probe(data: bytes, limits: ImageLimits) -> Size:
    """The size of the upright image, read from its header; raises as `Opened`."""
    return Opened(data, limits).size


def decode(data: bytes, channels: int, limits: ImageLimits) -> Image.Image:
    """The upright image in mode RGB (3 channels) or L (1 channel).

    Transparent pixels are composited on white; 16-bit grey is scaled to 8 bits; CMYK is converted without a profile.

    Raises:
        ImageFormatError, BadImageError: as `Opened`, and where the pixels themselves are damaged.
    """
    return Opened(data, limits).decode(channels).image


def check_size(size: Size, limits: ImageLimits) -> None:
    """Raises BadImageError (image_too_large, image_aspect_ratio) for an image of a size over the limits."""
    width, height = size
    if width * height > limits.max_pixels:
        raise _too_large(limits)
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        raise BadImageError(
            "image_aspect_ratio",
            f"the image is {width} x {height}; at most {limits.max_aspect_ratio:g} : 1 is accepted, cut it",
        )


def _reduce(image: Image.Image, orientation: int, wanted: Size) -> tuple[float, float]:
    """Sets the scale at which a file will be decoded; how far its picture then reaches, in pixels, not yet upright."""
    width, height = reversed(wanted) if orientation in _SIDEWAYS else wanted
    found = image.draft(None, (SPARE * width, SPARE * height))  # the mode stays
    return (float(found[1][2]), float(found[1][3])) if found else image.size


def _corners(size: Size, extent: tuple[float, float], orientation: int) -> Corners:
    """Of a picture that began at the top left of an image before that one was turned."""
    right, bottom = reversed(extent) if orientation in _SIDEWAYS else extent
    left = size.width - right if orientation in (2, 3, 6, 7) else 0.0
    top = size.height - bottom if orientation in (3, 4, 7, 8) else 0.0
    return left, top, left + right, top + bottom


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    if not data:
        raise BadImageError("image_empty", "the image has no bytes; send a JPEG, PNG or WebP file")
    check_structure(data)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(limits) from error
    except UnidentifiedImageError as error:
        if _has_magic(data):
            raise BadImageError("image_decode_failed", "the image's header is damaged; send the whole file") from error
        raise ImageFormatError("the bytes are not a JPEG, PNG or WebP image; convert it to one of these") from error
    except Exception as error:
        raise BadImageError(_damage(error), "the image's header is damaged; send the whole file") from error
    check_size(Size(*image.size), limits)
    return image


def _too_large(limits: ImageLimits) -> BadImageError:
    pixels = limits.max_pixels
    return BadImageError("image_too_large", f"the image has more than {pixels} pixels; scale it down before sending")


def _damage(error: Exception) -> str:
    return "image_truncated" if "truncated" in str(error).lower() else "image_decode_failed"


def _check_pixel_crc(data: bytes) -> None:
    """Pillow leaves a PNG's pixel chunks unchecked: a byte changed near their end would be another image."""
    start = 8
    while (kind := data[start + 4 : start + 8]) not in (b"IEND", b""):
        end = start + 8 + int.from_bytes(data[start : start + 4])
        if kind == b"IDAT" and zlib.crc32(memoryview(data)[start + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise ValueError("truncated pixels" if end + 4 > len(data) else "pixels with another CRC")
        start = end + 4


def _has_magic(data: bytes) -> bool:
    return (
        data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))  # JPEG, PNG
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
    )


def _orientation(image: Image.Image) -> int:
    """1 to 8; anything unreadable is 1, as every viewer does. A PNG's eXIf chunk counts when it precedes the pixels."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # getexif() would decode the whole image to look behind the pixels
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 a damaged EXIF block must not cost the image
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; convert() would clip it at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    return image.convert(mode)
