"""The crops of a view plan as files, as a client sends them to a server that knows no views."""

import io

import numpy as np
from PIL import Image

from bench.models import Model
from bundle.manifest import Input
from bundle.plans import PUBLISHED
from bundle.preprocess import ImageLimits, Opened
from bundle.render import Scaled


def cut(file: bytes, plan: str, model: Model) -> list[bytes]:
    """A JPEG file of quality 95 for each different view."""
    wanted = Input(height=model.side, width=model.side, channels=3, dynamic=False, resize=model.resize)
    image = Opened(file, ImageLimits())
    views = PUBLISHED[plan].views(image.size, wanted).distinct().views
    rows = np.empty((len(views), model.side, model.side, 3), np.uint8)
    Scaled.of(image, views, wanted).draw(views, rows)
    return [_encode(Image.fromarray(row)) for row in rows]


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
