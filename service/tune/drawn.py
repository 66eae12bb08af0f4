"""Images that stand for photographs where none are named."""

import io

import numpy as np
from PIL import Image

COUNT, SIZE = 16, (500, 375)


def draw(count: int = COUNT) -> dict[str, bytes]:
    """JPEG files by name: soft shapes with some grain, so that decoding them is about the work that photographs are."""
    rng = np.random.default_rng(0)
    return {f"drawn-{place}.jpg": _jpeg(rng) for place in range(count)}


def _jpeg(rng: np.random.Generator) -> bytes:
    shapes = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    grain = rng.normal(0, 6, (*SIZE[::-1], 3))
    buffer = io.BytesIO()
    pixels = np.clip(np.asarray(shapes) + grain, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
