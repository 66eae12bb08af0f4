"""Which layers suffer most from int8, and how many of them have to stay in float."""

import logging
from collections.abc import Callable

from tqdm import tqdm

from bundle.manifest import Calibrator
from bundle.preprocess import Pixels
from export.quantize.difference import ask, measure_difference
from export.quantize.int8 import Quantizer
from export.runner import Logits

log = logging.getLogger(__name__)

IMAGES = 32
"""That tell layers apart: the error is a mean over all their logits."""


def rank_layers(quantizer: Quantizer, calibrator: Calibrator, images: Pixels, expected: Logits) -> list[str]:
    """The layers, the most sensitive first: by the error of the graph in which only that layer is int8.

    Args:
        quantizer: of the graph.
        calibrator: whose ranges are known.
        images: that did not calibrate.
        expected: logits of the float graph for them.
    """
    images, expected = images[:IMAGES], expected[:IMAGES]

    def error(layer: str) -> float:
        alone = quantizer.quantize(calibrator, only=[layer])
        return measure_difference(expected, ask(alone, images)).error

    layers = tqdm(quantizer.layers, desc="measuring layers", unit="layer", disable=None)
    errors = {layer: error(layer) for layer in layers}
    return sorted(errors, key=lambda layer: -errors[layer])


def soften(
    quantizer: Quantizer, calibrator: Calibrator, ranked: list[str], enough: Callable[[bytes], bool]
) -> tuple[bytes, list[str]] | None:
    """The first good enough graph with 1, 2, 4, … of the most sensitive layers in float, and these layers.

    None where half of them are not enough: with more in float there would be little left to gain.
    """
    count = 1
    while count <= len(ranked) // 2:
        log.info("leaving %s in float", ", ".join(quantizer.layers[layer] for layer in ranked[:count]))
        model = quantizer.quantize(calibrator, without=ranked[:count])
        if enough(model):
            return model, ranked[:count]
        count *= 2
    return None
