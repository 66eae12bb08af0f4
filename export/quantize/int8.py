"""int8 by ONNX Runtime's own tools: activations uint8, weights int8 by channel, ranges from images (static QDQ).

Signed activations and ranges found at run time are slower than float32 on CPUs. Weights take seven of their eight bits:
sums of two full products overflow the 16 bits of CPUs without VNNI, which changed logits by 0.18 of the largest
(docs/adr/0008-quantize.md).
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import TensorProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator, save_tensors_data
from onnxruntime.quantization.shape_inference import quant_pre_process
from tqdm import tqdm

from bundle.manifest import Calibrator
from bundle.preprocess import Pixels
from export.errors import GraphError
from export.graph import serialize, strip
from export.quantize.padding import fold_padding

CALIBRATORS: dict[Calibrator, CalibrationMethod] = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}

OPTIONS: dict[Calibrator, dict[str, int | bool]] = {
    "minmax": {},
    "entropy": {"num_bins": 512},  # of the usual 128 all are needed for 128 levels, and nothing is ever cut off
    "percentile": {"symmetric": False},  # of either end by itself; and several times as fast
}

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
LAYERS = (*WEIGHTED, "Add", "Concat", "AveragePool", "GlobalAveragePool")
"""What may be left in float, layer by layer."""

OPERATORS = [*LAYERS, "Relu", "Clip", "MaxPool", "Flatten", "Reshape", "Slice", "Pad", "Squeeze", "Unsqueeze"]
"""What is quantised; all else, the arithmetic of the pixels and the softmax among it, stays in float."""

FLOAT_OUTPUTS = ["Gemm", "MatMul"]
"""Logits of eight bits would tie."""

CHUNK_PIXELS = 224 * 224
"""Of images whose activations are in memory at once while ranges are found: 0.2 GB of a ResNet-50."""


class Quantizer:
    """A float graph, ready to be quantised again and again.

    Args:
        model: the graph's bytes.
        folder: for files of its own, until it is used no more.
    """

    def __init__(self, model: bytes, folder: Path) -> None:
        self._folder = folder
        self._float = folder / "float.onnx"
        given = folder / "given.onnx"
        given.write_bytes(model)
        with _library("prepared for int8"):
            # Symbolic shapes are for transformers, and fail on shortcuts that slice; ONNX's own inference knows enough.
            quant_pre_process(given, self._float, skip_symbolic_shape=True)
        prepared = onnx.load(self._float)
        require_layers(prepared)
        fold_padding(prepared)
        names = set()
        for number, node in enumerate(prepared.graph.node):
            if not node.name or node.name in names:
                node.name = f"{node.op_type}_{number}"  # layers are quantised, or not, by name
            names.add(node.name)
        onnx.save(prepared, self._float)
        kinds = {value.name: value.type.tensor_type.elem_type for value in prepared.graph.value_info}
        self.layers = {
            node.name: _title(node)
            for node in prepared.graph.node
            # Shapes are added and joined too.
            if node.op_type in LAYERS and kinds.get(node.output[0], TensorProto.FLOAT) == TensorProto.FLOAT
        }
        """What can be left in float: the name of the node, and what a reader knows it by."""

    def calibrate(self, calibrator: Calibrator, images: Pixels) -> None:
        """Finds the range of every activation.

        Args:
            calibrator: how ranges follow from values.
            images: uint8 [n, height, width, channels]
        """
        augmented = self._folder / f"{calibrator}.onnx"
        with _library("calibrated"):
            found = create_calibrator(
                self._float,
                OPERATORS,
                augmented_model_path=str(augmented),
                calibrate_method=CALIBRATORS[calibrator],
                extra_options=OPTIONS[calibrator],
            )
            found.infer_session = _open(augmented)
        _, height, width, _ = images.shape
        size = max(1, CHUNK_PIXELS // (height * width))
        starts = range(0, len(images), size)
        for start in tqdm(starts, desc=f"calibrating: {calibrator}", unit="chunk", disable=None):
            with _library("calibrated"):
                found.collect_data(_Chunk(images[start : start + size]))
        with _library("calibrated"):
            save_tensors_data(found.compute_data(), self._ranges(calibrator))
        augmented.unlink()

    def quantize(self, calibrator: Calibrator, *, without: Sequence[str] = (), only: Sequence[str] = ()) -> bytes:
        """The graph in int8, by the ranges that a calibrator has found.

        Args:
            calibrator: that `calibrate` was called with.
            without: layers that stay in float.
            only: the layers that do not; all when empty.
        """
        path = self._folder / "int8.onnx"
        with _library("quantised"):
            quantize_static(
                self._float,
                path,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=OPERATORS,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=list(only),
                nodes_to_exclude=list(without),
                calibrate_method=CALIBRATORS[calibrator],
                calibration_cache_path=self._ranges(calibrator),
                extra_options={"OpTypesToExcludeOutputQuantization": FLOAT_OUTPUTS},
            )
        return serialize(_plain(onnx.load(path)))

    def _ranges(self, calibrator: Calibrator) -> Path:
        return self._folder / f"{calibrator}.json"


@contextlib.contextmanager
def open_quantizer(model: bytes) -> Iterator[Quantizer]:
    """A quantizer of a graph, with a folder that lasts as long; raises GraphError."""
    with tempfile.TemporaryDirectory(prefix="multicrop-") as folder:
        yield Quantizer(model, Path(folder))


def require_layers(model: onnx.ModelProto) -> None:
    """Raises GraphError where there is no layer whose precision matters."""
    if not any(node.op_type in WEIGHTED for node in model.graph.node):
        raise GraphError("the graph has no convolution and no linear layer; there is nothing to quantise")


class _Chunk(CalibrationDataReader):  # type: ignore[misc] # it ships no types
    """One batch, once: the library keeps all activations of what a reader gives it."""

    def __init__(self, images: Pixels) -> None:
        self._batches = iter([{"images": images}])

    def get_next(self) -> dict[str, Pixels] | None:
        return next(self._batches, None)


def _open(path: Path) -> ort.InferenceSession:
    """On one thread: ranges are part of the graph, and its bytes must not depend on the number of cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # fused layers have no values
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the domains that ONNX Runtime lists and nothing uses, and without the library's notes."""
    used = {node.domain for node in model.graph.node}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    strip(model)
    return model


def _title(node: onnx.NodeProto) -> str:
    """The name of its weights, as the checkpoint has it, or else its own."""
    if node.op_type not in WEIGHTED:
        return str(node.name)
    return str(node.input[1]).removeprefix("network.").removesuffix(".weight")


@contextlib.contextmanager
def _library(what: str) -> Iterator[None]:
    """Around its work: what it prints is lost, and what it raises is a GraphError of one line."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise GraphError(f"the graph cannot be {what}: {type(error).__name__}: {reason}") from error
