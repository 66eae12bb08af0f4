"""Graphs of lower precision, and the one that is best."""

import logging
from dataclasses import dataclass
from typing import NamedTuple

from bundle.manifest import CalibrationImages, Calibrator, Parity, Precision, Quantization, Tried
from bundle.store import Bundle
from export.errors import ExportError
from export.quantize.difference import WORST, WORST_ERROR, ask, compare_graphs, measure_difference, own_cases
from export.quantize.fp16 import to_fp16
from export.quantize.images import Drawn
from export.quantize.int8 import CALIBRATORS, Quantizer, open_quantizer
from export.quantize.judge import Judge
from export.quantize.sensitivity import rank_layers, soften
from export.runner import Logits
from export.verify import parity_samples

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """A graph of lower precision and what is known of it."""

    model: bytes
    parity: Parity
    quantization: Quantization


class _Candidate(NamedTuple):
    model: bytes
    tried: Tried

    @property
    def rank(self) -> tuple[bool, int, float]:
        """The larger, the better: one that may be served, right answers where there are labels, nearness to float."""
        error = self.tried.difference.error
        return error <= WORST_ERROR, self.tried.right or 0, -error


def make_int8(bundle: Bundle, drawn: Drawn, judge: Judge | None) -> Made:
    """The best int8 graph of a float bundle.

    Args:
        bundle: the float one.
        drawn: images to calibrate on, and others.
        judge: the labels' word on it; without one the graph nearest to the float one is best.

    Raises:
        ExportError: none loses as little as it has to.
    """
    expected = ask(bundle.model, drawn.held_out)
    with open_quantizer(bundle.model) as quantizer:
        candidates = [_try(quantizer, calibrator, drawn, expected, judge) for calibrator in CALIBRATORS]
        best = max(candidates, key=lambda candidate: candidate.rank)
        model, layers, right = best.model, list[str](), best.tried.right
        if judge and not judge.allows(right or 0):
            model, layers, right = _softened(quantizer, best.tried, drawn, expected, judge)
        titles = tuple(quantizer.layers[layer] for layer in layers)
    quantization = Quantization(
        source=bundle.digest,
        calibrator=best.tried.calibrator,
        tried=tuple(candidate.tried for candidate in candidates),
        float_layers=titles,
        calibration=CalibrationImages(data=drawn.data, images=len(drawn.calibration), sha256=drawn.sha256),
        difference=measure_difference(expected, ask(model, drawn.held_out)),
        validation=judge.verdict(right or 0) if judge else None,
    )
    return _compared("int8", bundle, model, quantization, drawn)


def make_fp16(bundle: Bundle, drawn: Drawn | None, judge: Judge | None) -> Made:
    """The fp16 graph of a float bundle; arguments and errors as of `make_int8`. Without images samples are compared."""
    model = to_fp16(bundle.model)
    right = judge.right(model, "fp16") if judge else 0
    if judge and not judge.allows(right):
        raise ExportError(f"fp16 {_over_budget(judge, right)}; nothing was published")
    images = drawn.held_out if drawn else max(parity_samples(bundle.manifest.input), key=len)
    quantization = Quantization(
        source=bundle.digest,
        difference=measure_difference(ask(bundle.model, images), ask(model, images)),
        validation=judge.verdict(right) if judge else None,
    )
    return _compared("fp16", bundle, model, quantization, drawn)


def _try(
    quantizer: Quantizer, calibrator: Calibrator, drawn: Drawn, expected: Logits, judge: Judge | None
) -> _Candidate:
    quantizer.calibrate(calibrator, drawn.calibration)
    model = quantizer.quantize(calibrator)
    difference = measure_difference(expected, ask(model, drawn.held_out))
    right = judge.right(model, calibrator) if judge else None
    return _Candidate(model, Tried(calibrator=calibrator, difference=difference, right=right))


def _softened(
    quantizer: Quantizer, best: Tried, drawn: Drawn, expected: Logits, judge: Judge
) -> tuple[bytes, list[str], int]:
    """The graph with as many layers in float as the budget needs, these layers, and how many answers are right."""
    rights = [best.right or 0]
    log.info("%s %s", best.calibrator, _over_budget(judge, rights[0]))

    def enough(model: bytes) -> bool:
        rights.append(judge.right(model, "some layers in float"))
        return judge.allows(rights[-1])

    ranked = rank_layers(quantizer, best.calibrator, drawn.held_out, expected)
    found = soften(quantizer, best.calibrator, ranked, enough)
    if found is None:
        raise ExportError(
            f"int8 {_over_budget(judge, max(rights))}, with up to half of the layers in float; nothing was published. "
            "Calibrate on images like those that are asked about, or allow more with --budget"
        )
    return *found, rights[-1]


def _over_budget(judge: Judge, right: int) -> str:
    return (
        f"loses {judge.lost(right):.2f} points of top-1 on {len(judge.validation)} validation images "
        f"({judge.right_float} right in float, {right} now), the budget is {judge.budget:g}"
    )


def _compared(
    precision: Precision, bundle: Bundle, model: bytes, quantization: Quantization, drawn: Drawn | None
) -> Made:
    """With the comparison with the float graph; raises ExportError where they are too far from each other."""
    wanted, tolerance = bundle.manifest.input, WORST[precision]
    cases = own_cases(drawn.held_out, wanted) if drawn else parity_samples(wanted)
    parity = compare_graphs(bundle.model, model, cases, tolerance)
    worst, error = max(case.max_rel for case in parity.cases), quantization.difference.error
    if not (worst <= tolerance and error <= WORST_ERROR):
        raise ExportError(
            f"the {precision} graph is too far from the float one: by {worst:.2g} of the largest logit ({tolerance:g} "
            f"is allowed), by {error:.2g} in the mean ({WORST_ERROR:g}); nothing was published. Calibrate on images "
            "like those that are asked about"
        )
    own = min(len(drawn.held_out), max(map(len, cases))) if drawn else 0
    return Made(model, parity.model_copy(update={"images": own}), quantization)
