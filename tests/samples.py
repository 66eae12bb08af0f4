"""Images and manifests for the tests of the contract."""

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from bundle.golden import Golden
from bundle.manifest import Folding, Input, Manifest, Parity, ParityCase, Source


@cache
def photographs() -> tuple[Image.Image, Image.Image]:
    """A temple and a flower, 640 x 427."""
    china, flower = (Image.fromarray(pixels) for pixels in load_sample_images().images)
    return china, flower


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, pixels: bytes = b"") -> bytes:
    """An 8-bit grey PNG file whose header says what it likes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *chunks, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")])


def manifest(**changes: Any) -> Manifest:
    """Of a network for digits; `write_bundle` fills in the files."""
    facts: dict[str, Any] = {
        "architecture": "lenet5",
        "classes": 3,
        "input": Input(height=32, width=32, channels=1, dynamic=False, resize=32),
        "parameters": 61706,
        "folded_parameters": 61706,
        "macs": 416520,
        "source": Source(kind="random", name="random:0"),
        "folding": Folding(layers=0, folded_error=0.0, unfolded_error=0.0),
        "parity": Parity(
            tolerance=1e-4,
            cases=(ParityCase(batch=2, height=32, width=32, max_abs=1e-6, max_rel=2e-6, top1_agreement=1.0),),
        ),
        "tools": {"torch": "2.13.0"},
        "files": {},
    }
    return Manifest(**{**facts, **changes})


def golden() -> Golden:
    images = np.arange(2 * 32 * 32, dtype=np.uint32).astype(np.uint8).reshape(2, 32, 32, 1)
    return Golden(images, np.array([[1, -2, 4], [0.5, 0.25, -1]], dtype=np.float32), {"cpu": 1e-4, "cuda": 1e-3})


def files() -> dict[str, bytes]:
    """What a bundle holds beside its manifest; the store never looks into the graph."""
    return {"model.onnx": b"a graph", "labels.txt": b"cat\ndog\ncow\n", "golden.npz": golden().to_bytes()}
