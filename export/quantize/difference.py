"""How far a graph of lower precision is from the float one."""

from collections.abc import Sequence

import numpy as np

from bundle.manifest import Difference, Input, Parity
from bundle.preprocess import Pixels
from export.runner import BATCH, BATCH_PIXELS, Logits
from export.verify import BATCHES, compare_case, one_thread, open_session, run

WORST = {"int8": 0.5, "fp16": 0.1}
"""The bound on `ParityCase.max_rel`."""

WORST_ERROR = 0.3
"""The bound on `Difference.error`, beyond which nobody would serve the graph, whatever its labels say."""


def ask(model: bytes, images: Pixels) -> Logits:
    """The logits [n, classes] of a graph, on one thread: float32 sums depend on how they are divided."""
    with one_thread():
        session = open_session(model)
    return np.concatenate([run(session, batch) for batch in batches(images)])


def batches(images: Pixels) -> list[Pixels]:
    """Images in arrays of as many as run at once."""
    _, height, width, _ = images.shape
    size = max(1, min(BATCH, BATCH_PIXELS // (height * width)))
    return [images[start : start + size] for start in range(0, len(images), size)]


def measure_difference(expected: Logits, found: Logits) -> Difference:
    """Of the logits [n, classes] of the same images: those of the float graph, and others."""
    wrong = found - expected
    # A number added to all logits of an image changes no probability.
    noise, signal = (np.square(part - part.mean(1, keepdims=True)).mean() for part in (wrong, expected))
    return Difference(
        images=len(expected),
        error=float(np.sqrt(noise / signal)),
        max_rel=float(np.abs(wrong).max() / np.abs(expected).max()),
        top1_agreement=float((found.argmax(1) == expected.argmax(1)).mean()),
    )


def compare_graphs(expected: bytes, model: bytes, samples: Sequence[Pixels], tolerance: float) -> Parity:
    """Compares the logits of two graphs, as `export.verify.compare` does those of a graph and of torch."""
    with one_thread():
        first, second = open_session(expected), open_session(model)
    cases = (compare_case(run(first, images), run(second, images), images) for images in samples)
    return Parity(tolerance=tolerance, cases=tuple(cases))


def own_cases(images: Pixels, wanted: Input) -> list[Pixels]:
    """Cases of a comparison made of some images: four batch sizes, and two other shapes where the graph takes them.

    The other shapes continue an image by its mirror image, so that what is in it stays the same.
    """
    cases = [np.resize(images, (batch, *images.shape[1:])) for batch in BATCHES]
    if wanted.dynamic:
        cases.append(_continued(cases[1], wanted.height // 8 + 1, wanted.width // 4 + 1))
        cases.append(_continued(cases[0], wanted.height // 2, 0))
    return cases


def _continued(images: Pixels, down: int, across: int) -> Pixels:
    return np.pad(images, ((0, 0), (0, down), (0, across), (0, 0)), "reflect")
