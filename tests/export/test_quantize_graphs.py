"""Graphs of lower precision: what is in them, against ONNX's reference evaluator and against arithmetic by hand."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bundle.preprocess import Pixels
from bundle.views import Size
from export.errors import GraphError
from export.graph import check
from export.quantize.difference import ask, batches, compare_graphs, measure_difference, own_cases
from export.quantize.fp16 import to_fp16
from export.quantize.int8 import Quantizer, open_quantizer
from export.quantize.padding import fold_padding
from export.quantize.sensitivity import rank_layers, soften
from export.verify import sample_images
from fakes import write_colour_bundle
from frozen import Frozen, freeze

CALIBRATED, COMPARED = slice(12), slice(12, 36)


@dataclass(frozen=True)
class Case:
    frozen: Frozen
    images: Pixels
    quantizer: Quantizer
    model: bytes
    """All layers int8, by minmax."""


def case(frozen: Frozen, quantizer: Quantizer) -> Case:
    row = frozen.loaded.architecture
    images = sample_images(36, row.input.size, row.channels, seed=3)
    quantizer.calibrate("minmax", images[CALIBRATED])
    return Case(frozen, images, quantizer, quantizer.quantize("minmax"))


@pytest.fixture(scope="module")
def resnet(resnet20: Frozen) -> Iterator[Case]:
    with open_quantizer(resnet20.model) as quantizer:
        yield case(resnet20, quantizer)


@pytest.fixture(scope="module")
def lenet() -> Iterator[Case]:
    frozen = freeze("lenet_caffe", "random:0", 10)
    with open_quantizer(frozen.model) as quantizer:
        yield case(frozen, quantizer)


def arrays(model: bytes) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(model).graph.initializer}


def reference(model: onnx.ModelProto, output: str, **inputs: np.ndarray) -> np.ndarray:
    """By ONNX's own evaluator, written in numpy."""
    found = dict(zip([output], ReferenceEvaluator(model).run([output], inputs), strict=True))[output]
    assert isinstance(found, np.ndarray)
    return found


def optimised(model: bytes, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime makes of a graph."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3  # it warns that the file is for this machine
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_every_layer_becomes_an_integer_kernel(resnet: Case, tmp_path: Path) -> None:
    operators = optimised(resnet.model, tmp_path)
    assert (operators["QLinearConv"], operators["QLinearAdd"], operators["QGemm"]) == (19, 9, 1)
    assert not operators.keys() & {"Conv", "FusedConv", "Gemm", "Add", "Relu"}


def test_the_graph_keeps_the_promises_of_a_bundle(resnet: Case) -> None:
    model = onnx.load_from_string(resnet.model)
    check(model, resnet.frozen.loaded.architecture)
    assert len(model.opset_import) == 1
    assert model.opset_import[0].version >= 13  # QuantizeLinear by channel
    assert not model.metadata_props


def test_weights_are_int8_by_channel_in_seven_bits_and_the_nearest_to_what_they_were(resnet: Case) -> None:
    before, after = arrays(resnet.frozen.model), arrays(resnet.model)
    weights = [name for name, values in before.items() if name.endswith(".weight") and values.ndim > 1]
    assert len(weights) == 20
    for name in weights:
        quantised, scale = after[f"{name}_quantized"], after[f"{name}_scale"]
        assert quantised.dtype == np.int8
        assert scale.shape == (len(before[name]),)
        assert np.abs(quantised.astype(int)).max() <= 64
        assert not after[f"{name}_zero_point"].any()
        step = scale.reshape(-1, *[1] * (before[name].ndim - 1))
        assert (np.abs(quantised * step - before[name]) <= 0.501 * step).all()


def test_biases_have_the_step_of_their_products(resnet: Case) -> None:
    """int32, of a step of the input's by the weight's of each channel."""
    graph, after = onnx.load_from_string(resnet.model).graph, arrays(resnet.model)
    before = arrays(resnet.frozen.model)
    made = {node.output[0]: node for node in graph.node}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 19
    for node in convolutions:
        of_input, of_weight, of_bias = (after[made[name].input[1]] for name in node.input)
        np.testing.assert_allclose(of_bias, of_input * of_weight, rtol=1e-6)
        values = after[made[node.input[2]].input[0]]
        assert values.dtype == np.int32
        bias = before[made[node.input[2]].input[0].removesuffix("_quantized")]
        assert (np.abs(values * of_bias.astype(float) - bias) <= 0.51 * of_bias).all()


@pytest.mark.parametrize("name", ["lenet", "resnet"])
def test_onnx_runtime_answers_as_the_reference_evaluator(name: str, request: pytest.FixtureRequest) -> None:
    """It computes every node as ONNX writes it: float products of values of eight bits."""
    found: Case = request.getfixturevalue(name)
    images = found.images[COMPARED][:2]
    model = onnx.load_from_string(found.model)
    model.opset_import[0].version = 21  # the evaluator knows no older one of these operators
    expected = reference(model, "logits", images=images)
    answers = ask(found.model, images)
    assert np.abs(answers - expected).max() / np.abs(expected).max() < 0.02
    lost = np.abs(ask(found.frozen.model, images) - expected).max() / np.abs(expected).max()
    print(f"{name}: {np.abs(answers - expected).max() / np.abs(expected).max():.2g}, from the float graph {lost:.2g}")


def test_any_batch_and_any_size_of_image_are_answered_nearly_as_in_float(resnet: Case) -> None:
    cases = own_cases(resnet.images[COMPARED], resnet.frozen.loaded.architecture.input)
    assert [images.shape[:3] for images in cases] == [
        (1, 32, 32), (2, 32, 32), (7, 32, 32), (32, 32, 32), (2, 37, 41), (1, 48, 32)
    ]  # fmt: skip
    parity = compare_graphs(resnet.frozen.model, resnet.model, cases, 1)
    assert max(found.max_rel for found in parity.cases) < 0.3
    # The images are not all alike to it: that of one in place of another's is farther off.
    answers = ask(resnet.frozen.model, resnet.images[COMPARED])
    assert measure_difference(answers, np.roll(answers, 1, axis=0)).max_rel > 0.3


@pytest.mark.parametrize("calibrator", ["entropy", "percentile"])
def test_the_other_calibrators_are_near_too(resnet: Case, calibrator: str) -> None:
    quantizer = resnet.quantizer
    expected = ask(resnet.frozen.model, resnet.images[COMPARED])
    quantizer.calibrate(calibrator, resnet.images[CALIBRATED])  # type: ignore[arg-type] # parametrised
    model = quantizer.quantize(calibrator)  # type: ignore[arg-type]
    assert model != resnet.model, "it cuts something off"
    assert 0 < measure_difference(expected, ask(model, resnet.images[COMPARED])).error < 0.3


MAKE = """
import sys
from pathlib import Path
from typing import Any
import numpy as np
from export.quantize.int8 import open_quantizer
images = np.load(sys.argv[2])
with open_quantizer(Path(sys.argv[1]).read_bytes()) as quantizer:
    for calibrator in ("minmax", "entropy", "percentile"):
        quantizer.calibrate(calibrator, images)
        sys.stdout.buffer.write(quantizer.quantize(calibrator))
"""


def test_the_same_images_give_the_same_bytes_in_any_process(lenet: Case, tmp_path: Path) -> None:
    """The library works on sets of names, whose order is another one in each process."""
    (tmp_path / "model.onnx").write_bytes(lenet.frozen.model)
    np.save(tmp_path / "images.npy", lenet.images[CALIBRATED])
    arguments = [sys.executable, "-c", MAKE, str(tmp_path / "model.onnx"), str(tmp_path / "images.npy")]
    root = Path(__file__).parents[2]
    made = [
        subprocess.run(
            arguments, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=root, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert made[0] == made[1]
    assert made[0].startswith(lenet.model)


def test_layers_that_stay_in_float_keep_their_weights(lenet: Case) -> None:
    layers = list(lenet.quantizer.layers)
    assert list(lenet.quantizer.layers.values()) == ["conv1", "conv2", "ip1", "ip2"]
    before, after = arrays(lenet.frozen.model), arrays(lenet.quantizer.quantize("minmax", without=layers[1:2]))
    np.testing.assert_array_equal(after["network.conv2.weight"], before["network.conv2.weight"])
    assert [name for name in after if name.endswith("_quantized") and ".weight" in name] == [
        "network.conv1.weight_quantized", "network.ip1.weight_quantized", "network.ip2.weight_quantized"
    ]  # fmt: skip


def test_the_most_sensitive_layers_in_float_help_more_than_the_others(resnet: Case) -> None:
    images, quantizer = resnet.images[COMPARED], resnet.quantizer
    expected = ask(resnet.frozen.model, images)
    ranked = rank_layers(quantizer, "minmax", images, expected)
    assert sorted(ranked) == sorted(quantizer.layers)

    def error(layers: list[str]) -> float:
        model = quantizer.quantize("minmax", without=layers)
        return measure_difference(expected, ask(model, images)).error

    assert error(ranked[:8]) < 0.8 * error([])
    assert error(ranked[:8]) < error(ranked[-8:])


def test_the_fewest_layers_that_are_enough_stay_in_float(resnet: Case) -> None:
    asked: list[int] = []

    def after(count: int) -> object:
        def enough(model: bytes) -> bool:
            asked.append(sum(name.endswith("weight_quantized") for name in arrays(model)))
            return len(asked) == count

        asked.clear()
        return soften(resnet.quantizer, "minmax", list(resnet.quantizer.layers), enough)

    layers = list(resnet.quantizer.layers)
    found = after(3)
    assert isinstance(found, tuple)
    assert found[1] == layers[:4]
    assert len(asked) == 3
    assert asked == sorted(asked, reverse=True)
    assert after(9) is None
    assert len(asked) == 4, "1, 2, 4 and 8 of 29"


def test_the_difference_by_hand() -> None:
    expected = np.array([[1, 2, 6], [0, 4, 2]], np.float32)
    found = expected + np.array([[0, 0, -3], [5, 5, 5]], np.float32)
    difference = measure_difference(expected, found)
    # Images from their mean: (-2, -1, 3) and (-2, 2, 0); differences (1, 1, -2) and none, for 5 is added to all.
    assert difference.error == pytest.approx(np.sqrt(6 / 22))
    assert difference.max_rel == pytest.approx(5 / 6)
    assert difference.top1_agreement == 1
    found[0, 2] = 1
    assert measure_difference(expected, found).top1_agreement == 0.5


def test_batches_hold_every_image_once() -> None:
    images = np.arange(70, dtype=np.uint8).reshape(70, 1, 1, 1)
    found = batches(images)
    assert [len(batch) for batch in found] == [32, 32, 6]
    np.testing.assert_array_equal(np.concatenate(found), images)
    assert [len(batch) for batch in batches(np.zeros((5, 224, 224, 3), np.uint8))] == [2, 2, 1]


def test_fp16_has_the_network_in_half_precision_and_the_pixels_in_float(resnet: Case) -> None:
    content = to_fp16(resnet.frozen.model)
    model = onnx.load_from_string(content)
    check(model, resnet.frozen.loaded.architecture)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    weights = [kind for name, kind in types.items() if name.startswith("network.")]
    assert weights == [TensorProto.FLOAT16] * 40
    assert {types["mean"], types["std"]} == {TensorProto.FLOAT}
    parity = compare_graphs(resnet.frozen.model, content, [resnet.images[:7]], 0.02)
    assert 0 < parity.cases[0].max_rel < 0.01
    # Rounded once more, pixels would be off by more than this: 2^-11 of a value near 1 in a step of a pixel, 1/58.
    graph = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(["images"], ["permute"])
    graph.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    pixels = ask_for(graph.SerializeToString(), "permute", resnet.images[:1])
    expected = resnet.frozen.reference.normalized(torch.from_numpy(resnet.images[:1]))
    np.testing.assert_allclose(pixels, expected.numpy(), atol=1e-6)


def test_fp16_of_a_network_that_asks_for_the_size_of_the_images() -> None:
    """As the heads of AlexNet and VGG do, which slide."""
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Cast", ["images"], "floats", {"to": TensorProto.FLOAT}),
        ("Transpose", ["floats"], "pixels", {"perm": [0, 3, 1, 2]}),
        ("Conv", ["pixels", "weights"], "features", {}),
        ("Shape", ["images"], "shape", {}),
        ("Gather", ["shape", "one"], "height", {}),
        ("Cast", ["height"], "places", {"to": TensorProto.FLOAT}),
        ("Div", ["features", "places"], "divided", {}),
        ("ReduceMean", ["divided", "axes"], "logits", {"keepdims": 0}),
        ("Softmax", ["logits"], "probabilities", {"axis": 1}),
    ]
    weights = np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32)
    values = {"weights": weights, "one": np.array(1), "axes": np.array([2, 3])}
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output], **options) for kind, inputs, output, options in steps],
        "sized",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("logits", "probabilities")],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    images = sample_images(3, Size(20, 30), 3)
    found = ask(to_fp16(model.SerializeToString()), images)
    expected = images.astype(np.float32).mean(axis=(1, 2)) @ weights[..., 0, 0].T / 30
    np.testing.assert_allclose(found, expected, rtol=0.01, atol=0.01)


def ask_for(model: bytes, output: str, images: Pixels) -> np.ndarray:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run([output], {"images": images})[0]
    return found


def test_a_graph_without_layers_is_refused(tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "models")
    model = onnx.load(tmp_path / "models" / "colours" / "1" / "model.onnx")
    with pytest.raises(GraphError, match="there is nothing to quantise"):
        to_fp16(model.SerializeToString())
    with pytest.raises(GraphError, match="there is nothing to quantise"):
        Quantizer(model.SerializeToString(), tmp_path)


def test_a_graph_that_nobody_can_prepare_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="cannot be prepared for int8") as refused:
        Quantizer(b"no graph", tmp_path)
    assert "\n" not in str(refused.value)


def padded_pool(value: float, kernel: int = 3, pads: tuple[int, ...] = (0, 0, 0, 0, 0, 0, 1, 1)) -> onnx.ModelProto:
    """Padding, then max pooling with a padding of its own."""
    nodes = [
        helper.make_node("Pad", ["x", "pads", "value"], ["padded"]),
        helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[kernel] * 2, strides=[2, 2], pads=[1, 0, 0, 0]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, None, None]) for name in ("x", "y")]
    tensors = [
        numpy_helper.from_array(np.array(pads, np.int64), "pads"),
        numpy_helper.from_array(np.array(value, np.float32), "value"),
    ]
    graph = helper.make_graph(nodes, "pooling", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("value", [-np.inf, np.finfo(np.float32).min])
def test_a_padding_with_minus_infinity_becomes_that_of_the_pooling(value: float) -> None:
    model = padded_pool(value)
    x = np.random.default_rng(0).normal(-5, 1, (1, 2, 8, 8)).astype(np.float32)  # zeros would win
    before = reference(model, "y", x=x)
    fold_padding(model)
    assert [node.op_type for node in model.graph.node] == ["MaxPool"]
    assert not model.graph.initializer
    np.testing.assert_array_equal(reference(model, "y", x=x), before)
    assert before.max() < 0


@pytest.mark.parametrize(
    "model",
    [
        padded_pool(0),
        padded_pool(-np.inf, pads=(0, 1, 0, 0, 0, 0, 1, 1)),
        padded_pool(-np.inf, pads=(0, 0, 0, 0, 0, 0, -1, 1)),
        padded_pool(-np.inf, pads=(0, 0, 0, 0, 0, 0, 3, 3)),
    ],
    ids=["zeros", "channels", "a cut", "as much as a window"],
)
def test_any_other_padding_stays(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    fold_padding(model)
    assert model.SerializeToString() == before


@pytest.mark.slow
def test_ceil_mode_of_googlenet_is_integer_too(tmp_path: Path) -> None:
    """Its padding with minus infinity once gave ranges without an end, and answers that had nothing to do with it."""
    frozen = freeze("googlenet", "random:0", 10)
    images = sample_images(6, frozen.loaded.architecture.input.size, 3, seed=3)
    with open_quantizer(frozen.model) as quantizer:
        quantizer.calibrate("minmax", images[:4])
        model = quantizer.quantize("minmax")
    operators = optimised(model, tmp_path)
    assert (operators["QLinearConv"], operators["NhwcMaxPool"], operators["QLinearConcat"]) == (57, 13, 9)
    assert measure_difference(ask(frozen.model, images), ask(model, images)).error < 0.6
