"""Evaluation against a graph whose answer is known: the mean colour of what it sees."""

import io

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from bundle.manifest import Input
from export.errors import ExportError
from export.evaluate import evaluate

WANTED = Input(height=4, width=4, channels=3, dynamic=False, resize=8)

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture(scope="module")
def colours() -> bytes:
    """Logits: the mean red, green and blue in [0, 1]."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 4, 4, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "white"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "axes"], ["logits"], keepdims=0),
    ]
    white = helper.make_tensor("white", TensorProto.FLOAT, [], [255.0])
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    graph = helper.make_graph(nodes, "colours", [images], [logits], [white, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    onnx.checker.check_model(content)
    return content


def square(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (8, 8), colour)


def target() -> Image.Image:
    """Green in the middle, red around it."""
    image = square(RED)
    image.paste(GREEN, (2, 2, 6, 6))
    return image


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_right_answers_are_counted_image_for_image(colours: bytes) -> None:
    images: list[bytes | Image.Image] = [square(RED), png(square(GREEN)), square(BLUE), png(square(BLUE))]
    found = evaluate(colours, WANTED, images, [0, 1, 2, 0], data="squares")
    assert [answer.index for answer in found.answers] == [0, 1, 2, 2]
    assert found.answers[0].probability == pytest.approx(np.e / (np.e + 2))
    assert found.evaluation.model_dump() == {
        "data": "squares",
        "views": "center",
        "average": "probabilities",
        "images": 4,
        "top1": 3,
    }


def test_views_are_those_of_the_plan(colours: bytes) -> None:
    centre = evaluate(colours, WANTED, [target()], [1], data="target")
    assert centre.evaluation.top1 == 1
    # Each corner is one quarter green: 8 red votes, 2 green ones.
    ten = evaluate(colours, WANTED, [target()], [0], data="target", views="ten_crop", averaging="logits")
    assert (ten.evaluation.top1, ten.evaluation.views, ten.evaluation.average) == (1, "ten_crop", "logits")
    scores = np.exp([0.8 * 0.75, 0.8 * 0.25 + 0.2, 0.0])
    assert ten.answers[0].probability == pytest.approx(scores[0] / scores.sum(), rel=1e-6)


def test_an_unknown_plan_is_refused_with_the_known_ones(colours: bytes) -> None:
    with pytest.raises(ExportError, match=r"no plan 'eleven'; choose one of center, ten_crop"):
        evaluate(colours, WANTED, [square(RED)], [0], data="squares", views="eleven")


def test_every_image_needs_its_answer(colours: bytes) -> None:
    with pytest.raises(ValueError, match="shorter"):
        evaluate(colours, WANTED, [square(RED), square(RED)], [0], data="squares")
