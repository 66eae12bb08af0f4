"""The promises of the graph, asked of its bytes."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from export.architectures import Preprocessing, find
from export.errors import GraphError
from export.graph import Normalize, check, serialize, to_onnx
from export.verify import open_session, run, sample_images
from export.weights import random_network
from frozen import Frozen, freeze

ROOT = Path(__file__).parents[2]


def shapes(values: list[onnxruntime.NodeArg]) -> dict[str, tuple[str, list[str | int]]]:
    return {value.name: (value.type, value.shape) for value in values}


def test_inputs_and_outputs_have_the_promised_names_types_and_free_dimensions(resnet20: Frozen) -> None:
    session = open_session(resnet20.model)
    assert shapes(session.get_inputs()) == {"images": ("tensor(uint8)", ["N", "H", "W", 3])}
    outputs = ("tensor(float)", ["N", 10])
    assert shapes(session.get_outputs()) == {"logits": outputs, "probabilities": outputs}


def test_height_and_width_are_fixed_where_there_is_no_dense_form(lenet5: Frozen) -> None:
    session = open_session(lenet5.model)
    assert shapes(session.get_inputs()) == {"images": ("tensor(uint8)", ["N", 32, 32, 1])}


def test_the_graph_is_convolutions_and_no_batchnorm(resnet20: Frozen) -> None:
    operators = [node.op_type for node in onnx.load_from_string(resnet20.model).graph.node]
    assert operators.count("Conv") == 19
    assert operators.count("ReduceMean") == 1
    assert not {"BatchNormalization", "Dropout", "Identity", "Gather", "Shape"} & set(operators)
    assert operators[:5] == ["Cast", "Div", "Sub", "Div", "Transpose"]


def test_the_graph_holds_no_traces_of_the_machine(resnet20: Frozen) -> None:
    model = onnx.load_from_string(resnet20.model)
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert not model.graph.metadata_props
    for trace in (b".py", b"/home", b"/tmp", b"site-packages", str(ROOT).encode()):
        assert trace not in resnet20.model


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_any_batch_is_taken_and_probabilities_are_the_softmax(resnet20: Frozen, batch: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (batch, 40, 28, 3), np.uint8)
    logits, probabilities = open_session(resnet20.model).run(None, {"images": images})
    exponentials = np.exp(logits.astype(np.float64))
    assert logits.shape == (batch, 10)
    np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(1, keepdims=True), rtol=1e-5)


def test_pixels_are_normalised_as_the_table_says() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 1.0, 2.0])
    normalize = Normalize(torch.nn.Identity(), Preprocessing(5, tuple(mean), tuple(std)))
    seen = normalize.normalized(torch.from_numpy(pixels))
    np.testing.assert_allclose(seen.numpy(), ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2), atol=1e-6)


def test_channels_are_turned_before_the_statistics() -> None:
    caffe = Preprocessing(5, mean=(104.0, 117.0, 128.0), std=(1.0, 1.0, 2.0), scale=1.0, channels="bgr")
    red, green, blue = 10, 20, 30
    seen = Normalize(torch.nn.Identity(), caffe).normalized(torch.tensor([[[[red, green, blue]]]], dtype=torch.uint8))
    assert seen.flatten().tolist() == [30 - 104, 20 - 117, (10 - 128) / 2]


def test_the_same_weights_give_the_same_bytes(lenet5: Frozen) -> None:
    assert freeze("lenet5", "random:0").model == lenet5.model


def test_another_process_gives_the_same_bytes(resnet20: Frozen) -> None:
    script = "import frozen, hashlib; print(hashlib.sha256(frozen.freeze('resnet20', 'random:0').model).hexdigest())"
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == hashlib.sha256(resnet20.model).hexdigest() + "\n"  # and the exporter is quiet


def test_the_exporter_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    freeze("lenet5", "random:1")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_one_channel_of_a_colour_network() -> None:
    grey = find("resnet20").shaped(4, 1)
    model = serialize(to_onnx(random_network(grey, 0), grey))
    assert run(open_session(model), sample_images(3, grey.input.size, 1)).shape == (3, 4)


def identity_graph(operator: str = "Identity", domain: str = "") -> onnx.ModelProto:
    """A graph with lenet5's signature around one node."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 32, 32, 1])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 10]) for n in ("logits", "probabilities")]
    scores = helper.make_tensor("scores", TensorProto.FLOAT, [1, 10, 1, 1], [0.0] * 10)
    ten = helper.make_tensor("ten", TensorProto.FLOAT, [10], [1.0] * 10)
    extra = [scores.name] + [ten.name] * 4 if operator == "BatchNormalization" else [scores.name]
    nodes = [
        helper.make_node(operator, extra, ["y"], domain=domain),
        helper.make_node("Flatten", ["y"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(nodes, "g", [images], outputs, [scores, ten])
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets)


def test_the_check_takes_a_graph_with_the_promised_signature() -> None:
    check(identity_graph(), find("lenet5"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (identity_graph("BatchNormalization"), "holds BatchNormalization; fold the network first"),
        (identity_graph("FusedThing", "com.example"), r"domains that are not ONNX's own: \['', 'com.example'\]"),
        (identity_graph("NoSuchOperator"), "the exporter wrote an invalid graph"),
    ],
)
def test_the_check_refuses_what_a_bundle_must_not_hold(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        check(model, find("lenet5"))


def test_the_check_refuses_another_signature() -> None:
    with pytest.raises(GraphError, match=r"the graph takes and gives .*'images', 2, \('N', 32, 32, 1\).*expected"):
        check(identity_graph(), find("lenet5").shaped(11, 1))


def test_the_check_refuses_weights_in_another_file() -> None:
    model = identity_graph()
    external = model.graph.initializer[1]
    external.ClearField("float_data")
    external.data_location = TensorProto.EXTERNAL
    external.external_data.add(key="location", value="weights.bin")
    with pytest.raises(GraphError, match=r"invalid graph|another file"):
        check(model, find("lenet5"))
