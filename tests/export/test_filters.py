"""The picture of the first kernels: pixel by pixel by hand, and the same from weights and from a bundle."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from export.__main__ import main
from export.architectures import find
from export.errors import ExportError
from export.filters import BORDER, SHADE, first_convolution, grid, write_filters
from export.jobs import FiltersJob, FreezeJob
from export.pipeline import freeze
from export.weights import random_network


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def test_each_kernel_is_stretched_by_itself_and_its_values_are_squares() -> None:
    kernels = np.array([[[[-1, 0], [1, 3]]], [[[7, 7], [7, 7]]]], np.float32)  # 0, 1/4, 1/2, 1 of the span; none
    picture = grid(kernels)
    side = 2 * 32
    assert picture.shape == (side + 2 * BORDER, 2 * side + 3 * BORDER)
    first = picture[BORDER : BORDER + side, BORDER : BORDER + side]
    second = picture[BORDER : BORDER + side, 2 * BORDER + side : 2 * BORDER + 2 * side]
    assert first[::32, ::32].tolist() == [[0, 64], [128, 255]]
    assert (first == first[::32, ::32].repeat(32, 0).repeat(32, 1)).all()
    assert (second == 128).all()
    assert (picture[:BORDER] == SHADE).all()
    assert (picture[:, BORDER + side : 2 * BORDER + side] == SHADE).all()
    assert (picture[-BORDER:] == SHADE).all()


def test_three_channels_are_colours_on_one_scale() -> None:
    kernels = np.zeros((1, 3, 1, 1), np.float32)
    kernels[0, :, 0, 0] = (-2, 0, 3)
    picture = grid(kernels)
    assert picture.shape == (64 + 2 * BORDER, 64 + 2 * BORDER, 3)
    assert picture[BORDER, BORDER].tolist() == [0, 102, 255]  # red, green, blue


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (1, 1)), (6, (2, 3)), (7, (3, 3)), (16, (4, 4)), (64, (8, 8)), (96, (8, 12))]
)
def test_rows_are_full_where_that_is_no_ribbon(count: int, shape: tuple[int, int]) -> None:
    height, width = grid(np.zeros((count, 1, 8, 8), np.float32)).shape
    assert ((height - BORDER) // (64 + BORDER), (width - BORDER) // (64 + BORDER)) == shape


def test_large_kernels_are_not_made_smaller() -> None:
    assert grid(np.zeros((1, 1, 200, 200), np.float32)).shape == (200 + 2 * BORDER, 200 + 2 * BORDER)


def test_two_channels_are_no_colours() -> None:
    with pytest.raises(ExportError, match="2 channels"):
        grid(np.zeros((1, 2, 3, 3), np.float32))


def test_of_a_checkpoint_and_of_its_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, out = tmp_path / "mine.pth", tmp_path / "kernels.png"
    network = random_network(find("lenet5"), 3)
    torch.save(network.state_dict(), weights)
    assert main(["filters", "lenet5", "--weights", str(weights), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    expected = grid(network.get_parameter("conv1.weight").numpy())
    assert (pixels(out) == expected).all()
    folder = freeze(FreezeJob(network="lenet5", weights=str(weights), repository=tmp_path / "models"))
    other = write_filters(FiltersJob(source=str(folder), out=tmp_path / "bundle.png"))
    assert (pixels(other) == expected).all()


def graph(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    return helper.make_model(helper.make_graph(list(nodes), "g", values[:1], values[1:], tensors))


def test_the_first_convolution_is_the_graphs_not_the_first_tensor() -> None:
    later, first = np.zeros((2, 5, 1, 1), np.float32), np.ones((5, 3, 3, 3), np.float32)
    nodes = (
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Conv", ["a", "first"], ["b"]),
        helper.make_node("Conv", ["b", "later"], ["y"]),
    )
    assert (first_convolution(graph(*nodes, weights={"later": later, "first": first})) == first).all()


def test_graphs_without_plain_kernels_are_refused() -> None:
    with pytest.raises(ExportError, match="no convolution"):
        first_convolution(graph(helper.make_node("Relu", ["x"], ["y"]), weights={}))
    with pytest.raises(ExportError, match="computed in the graph"):
        first_convolution(graph(helper.make_node("Conv", ["x", "x"], ["y"]), weights={}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("lenet5 --out x.png", "say whose kernels of lenet5"),
        ("lenet6 --weights random:0 --out x.png", "there is no network 'lenet6'"),
        ("lenet5 --weights random:0 --out x.jpg", "give it a name that ends in .png"),
        ("models/lenet5 --out x.png", "models/lenet5 holds no version"),
        ("models/lenet5/1 --out x.png", "models/lenet5/1 holds no version; name a bundle as REPOSITORY/NAME or"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    arguments: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["filters", *arguments.split()]) == 1
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
