"""Images as tensors, [1, channels, H, W] with colours from 0 to 1, and back."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bundle.beside import write_atomically
from bundle.errors import ImageError
from bundle.preprocess import ImageLimits, decode
from export.errors import ExportError


def read(path: Path, option: str, channels: int = 3) -> torch.Tensor:
    """An image file, upright, in RGB (3 channels) or grey (1).

    Raises:
        ExportError: it cannot be read; says with which option it was given.
    """
    try:
        image = decode(path.read_bytes(), channels, ImageLimits())
    except (ImageError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ExportError(f"{path.name}, given as {option}: {reason}") from error
    pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, channels)
    return pixels.permute(2, 0, 1)[None] / 255


def write(picture: torch.Tensor, path: Path) -> None:
    """As a PNG file, each colour rounded to one of 256 levels.

    Raises:
        ExportError: it cannot be written.
    """
    levels = (picture[0].permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels.numpy()).save(buffer, "PNG")
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror}") from error


def size(picture: torch.Tensor) -> str:
    """In words, width first, as image viewers do."""
    return f"{picture.shape[3]} x {picture.shape[2]}"
