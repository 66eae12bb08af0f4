"""The command `quantize`: the next version of a model, in a lower precision, if it answers well enough."""

from dataclasses import replace
from importlib.metadata import version

import onnx
import onnxruntime

from bundle.accuracy import Accuracy, keep
from bundle.golden import TOLERANCES
from bundle.labelled import open_labelled
from bundle.manifest import Manifest, Precision
from bundle.store import GOLDEN, LABELS, MODEL, Bundle, open_bundle, write_bundle
from export.errors import ExportError
from export.graph import check
from export.jobs import QuantizeJob
from export.quantize.candidates import Made, make_fp16, make_int8
from export.quantize.difference import ask
from export.quantize.images import Drawn, draw, of_labelled, open_pictures
from export.quantize.judge import Judge
from export.quantize.report import Quantized
from export.quantize.speed import compare_speed
from export.target import Target, find_bundle

BUDGET = 1.0
"""Percentage points of top-1 accuracy that may be lost, where nobody says."""


def tell(job: QuantizeJob) -> str:
    """Publishes the next version of a model in another precision, and says what is known of it.

    Raises:
        ExportError, BundleError, LabelledError: what is wrong; nothing was published.
    """
    target = find_bundle(job.bundle)
    _require_float(target)
    pictures = None if job.calibration is None else open_pictures(job.calibration, target.bundle.labels)
    data = None if job.data is None else open_labelled(job.data, target.bundle.labels, job.part)
    if data is not None:
        keep(target.folder, target.bundle.digest, [])  # whether it can be is seen before hours of work, not after
    judge = None
    if data is not None:
        judge = Judge(target.bundle, data, job.seed, BUDGET if job.budget is None else job.budget)
        pictures = pictures or of_labelled(judge.validation)
    drawn = None if pictures is None else draw(pictures, target.bundle.manifest.input)
    made = _make(job.to, target.bundle, drawn, judge)
    published = publish(target, made, job.to)
    figures = _figures(target, published, judge) if judge else None
    speeds = None
    if job.to == "int8" and drawn:  # what runs on GPUs alone is measured there
        speeds = compare_speed(target.bundle.model, made.model, drawn.held_out)
    return Quantized(target, published, drawn, figures, speeds).text()


def publish(target: Target, made: Made, precision: Precision) -> Bundle:
    """Writes a graph as the next version of the model that it was made of, with its own answers as golden ones.

    Raises:
        ExportError: it breaks a promise of a bundle's graph, or cannot be written.
    """
    source = target.bundle
    facts = source.manifest.model_dump(exclude={"precision", "parity", "quantization", "evaluations", "tools", "files"})
    manifest = Manifest(
        **facts,
        precision=precision,
        parity=made.parity,
        quantization=made.quantization,
        tools=source.manifest.tools | {"onnx": version("onnx"), "onnxruntime": onnxruntime.__version__},
        files={},
    )
    check(onnx.load_from_string(made.model), manifest)
    images = source.golden.images
    golden = replace(source.golden, logits=ask(made.model, images), tolerance=dict(TOLERANCES[precision]))
    files = {
        MODEL: made.model,
        LABELS: "".join(f"{label}\n" for label in source.labels).encode(),
        GOLDEN: golden.to_bytes(),
    }
    try:
        folder = write_bundle(target.folder.parent, source.name, manifest, files)
    except OSError as error:
        raise ExportError(f"{source.name} cannot be written to: {error.strerror or error}") from error
    return open_bundle(folder.parent.parent, folder.parent.name, int(folder.name))


def _require_float(target: Target) -> None:
    precision = target.bundle.manifest.precision
    if precision != "fp32":
        raise ExportError(f"{target.name} is {precision} already; name the fp32 version that it was made of")


def _make(precision: Precision, bundle: Bundle, drawn: Drawn | None, judge: Judge | None) -> Made:
    if precision == "fp16":
        return make_fp16(bundle, drawn, judge)
    if drawn is None:
        raise ExportError("int8 needs images: give --calibration, or --data")
    return make_int8(bundle, drawn, judge)


def _figures(target: Target, published: Bundle, judge: Judge) -> tuple[Accuracy, Accuracy]:
    """Of the float graph and of the new one on the test half, kept beside the versions."""
    source = target.bundle
    figures = judge.figure(source.model, "fp32"), judge.figure(published.model, published.manifest.precision)
    for digest, figure in zip((source.digest, published.digest), figures, strict=True):
        keep(target.folder, digest, [figure])
    return figures
