"""What every peer does with an image: the arithmetic that is usual with Pillow, and the answer."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

Pixels = npt.NDArray[np.uint8]

MODEL = os.environ["PEER_MODEL"]
PORT = int(os.environ["PEER_PORT"])
RESIZE, SIDE = int(os.environ["PEER_RESIZE"]), int(os.environ["PEER_SIDE"])
TIMEOUT_MS = int(os.environ.get("PEER_TIMEOUT_MS", "0"))
"""0: the framework's own."""
CORES = len(os.sched_getaffinity(0))


def labels() -> list[str]:
    return Path(os.environ["PEER_LABELS"]).read_text().splitlines()


def session(threads: int = 0) -> Any:
    """0 threads: ONNX Runtime's own choice."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])


def resized(file: bytes) -> Image.Image:
    """The shorter side as the network wants it."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    scale = RESIZE / min(image.size)
    size = (RESIZE, int(image.height * scale)) if image.width < image.height else (int(image.width * scale), RESIZE)
    return image.resize(size, Image.Resampling.BILINEAR)


def centre(file: bytes) -> Pixels:
    """The middle crop, uint8 [1, side, side, 3]."""
    image = resized(file)
    left, top = round((image.width - SIDE) / 2), round((image.height - SIDE) / 2)
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))[np.newaxis]


def answer(probabilities: npt.NDArray[np.float32], names: list[str]) -> dict[str, Any]:
    """The five best classes of [classes]."""
    best = np.argsort(probabilities)[::-1][:5]
    return {
        "predictions": [
            {"index": int(index), "label": names[index], "probability": float(probabilities[index])} for index in best
        ]
    }
