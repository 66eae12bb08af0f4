"""What the machine can do without any server: JPEG files to the five best classes in the process itself.

Libraries are imported where they are used: a bench that measures a server's memory calls all of this in a child.
"""

import functools
import io
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, NamedTuple

from bench.models import Model

Work = Callable[[bytes], Any]


def cores() -> int:
    return len(os.sched_getaffinity(0))


def session(model: Model, threads: int) -> Any:
    import onnxruntime as ort  # noqa: PLC0415

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(model.graph), options, providers=["CPUExecutionProvider"])


def crop(jpeg: bytes, resize: int, side: int) -> Any:
    """The middle of the photograph, uint8 [1, side, side, 3]: of the resized image only what the crop shows."""
    import numpy as np  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    image = Image.open(io.BytesIO(jpeg))
    image.draft("RGB", (2 * resize, 2 * resize))  # libjpeg scales what is much larger while it decodes
    scale = min(image.size) / resize
    left, top = (image.width - side * scale) / 2, (image.height - side * scale) / 2
    box = (left, top, left + side * scale, top + side * scale)
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box=box))[np.newaxis]


def top5(engine: Any, pixels: Any) -> list[tuple[int, float]]:
    """Index and probability, the best first."""
    (row,) = engine.run(["probabilities"], {"images": pixels})[0]
    return [(int(index), float(row[index])) for index in row.argsort()[:-6:-1]]


class Speed(NamedTuple):
    images_per_second: float
    cpu_ms: float
    """CPU time for each image, of all threads."""


def measure(work: Work, files: Sequence[bytes], threads: int, seconds: float) -> Speed:
    """Of so many threads that do `work` on one file after the other."""
    ended, counts = threading.Event(), [0] * threads
    work(files[0])

    def loop(number: int) -> None:
        for file in islice(cycle(files), number, None):
            work(file)
            counts[number] += 1
            if ended.is_set():
                return

    begun, cpu = time.monotonic(), time.process_time()
    workers = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    ended.wait(seconds)
    ended.set()
    for worker in workers:
        worker.join()
    images = sum(counts)
    return Speed(images / (time.monotonic() - begun), 1e3 * (time.process_time() - cpu) / images)


@dataclass(frozen=True)
class Limits:
    """Ways to use a machine."""

    lanes: Work
    """To be called by as many threads as there are cores."""
    serial: Work
    """To be called by one thread."""
    engine: Work
    """As `lanes`, without decoding."""

    @classmethod
    def of(cls, model: Model, file: bytes) -> "Limits":
        narrow, wide = session(model, 1), session(model, cores())
        side, resize = model.side, model.resize
        ready = crop(file, resize, side)
        return cls(
            lanes=lambda file: top5(narrow, crop(file, resize, side)),
            serial=lambda file: top5(wide, crop(file, resize, side)),
            engine=lambda _: top5(narrow, ready),
        )


_limits = functools.cache(Limits.of)


def measure_way(model: Model, way: str, files: Sequence[bytes], seconds: float) -> Speed:
    """One of the `Limits`, whose sessions stay for the next call."""
    work: Work = getattr(_limits(model, files[0]), way)
    return measure(work, files, 1 if way == "serial" else cores(), seconds)
