"""BN-Inception against figure 5 of its paper, in both readings."""

import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d

from bundle.views import Size
from export.architectures import find
from export.models.bn_inception import CAFFE, SLIM, BNInception, Form
from export.models.pooling import max_pool_up
from frozen import freeze
from grids import grids
from parity import worst

# Figure 5: what a module gives (its rows 3c and 4e print the grid that comes in). Where the readings differ: Caffe's.
FIGURE_5 = {
    "3a": (256, 28),
    "3b": (320, 28),
    "3c": (576, 14),
    "4a": (576, 14),
    "4b": (576, 14),
    "4c": (608, 14),
    "4d": (608, 14),
    "4e": (1056, 7),
    "5a": (1024, 7),
    "5b": (1024, 7),
}
SLIMS = {"4c": (576, 14), "4d": (576, 14), "4e": (1024, 7)}


def build(form: Form) -> BNInception:
    with torch.device("meta"):
        return BNInception(form)


@pytest.mark.parametrize(("form", "table"), [(CAFFE, FIGURE_5), (SLIM, FIGURE_5 | SLIMS)])
def test_modules_have_the_grids_and_depths_of_figure_5(form: Form, table: dict[str, tuple[int, int]]) -> None:
    following = {name: f"inception_{after}_3x3_reduce" for name, after in zip(table, [*table][1:], strict=False)}
    seen = grids(build(form), following.values(), 3, 224)  # what a module gives is what the next one's 1x1 takes
    found = {name: seen[after][0] for name, after in following.items()}
    assert found == {name: (depth, size, size) for name, (depth, size) in table.items() if name != "5b"}
    assert build(form).last_linear.in_features == table["5b"][0]


@pytest.mark.parametrize("form", [CAFFE, SLIM])
def test_the_stem_has_the_grids_of_figure_5(form: Form) -> None:
    seen = grids(build(form), ["conv1_7x7_s2", "conv2_3x3_reduce", "conv2_3x3", "inception_3a_1x1"], 3, 224)
    assert seen["conv1_7x7_s2"][1] == (64, 112, 112)
    assert seen["conv2_3x3_reduce"] == ((64, 56, 56), (64, 56, 56))
    assert seen["conv2_3x3"][1] == (192, 56, 56)
    assert seen["inception_3a_1x1"][0] == (192, 28, 28)


@pytest.mark.parametrize("form", [CAFFE, SLIM])
def test_every_size_goes_through(form: Form) -> None:
    for size in (32, 33, 47, 63, 65, 95):
        grids(build(form), [], 3, size)


def test_the_last_module_pools_maxima_and_the_one_before_means() -> None:
    assert [CAFFE.rows[name].pool for name in ("5a", "5b")] == ["average", "max"]


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("size", [6, 7, 8, 9])
def test_pooling_upwards_is_torchs_ceil_mode(kernel: int, size: int) -> None:
    x = torch.randn(2, 3, size, size + 1) - 5  # all negative: a zero at the border would win
    assert torch.equal(max_pool_up(x, kernel), max_pool2d(x, kernel, 2, ceil_mode=True))


def test_caffe_counts_the_padding_of_means_and_slim_does_not() -> None:
    ones = torch.ones(1, 1, 4, 4)
    corners = [float(BNInception(form).average_pool(ones)[0, 0, 0, 0]) for form in (CAFFE, SLIM)]
    assert corners == pytest.approx([4 / 9, 1])


def test_slim_halves_the_grid_with_the_odd_column_on_the_right() -> None:
    """TensorFlow's "same" padding of a 3x3, stride 2, at an even size: the first window starts at the first pixel."""
    network = BNInception(SLIM).eval()
    conv, norm = network.inception_3c_3x3, network.inception_3c_3x3_bn
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    conv.weight.data.zero_()[:, :, 0, 0] = 1
    x = torch.rand(1, 128, 6, 6)
    found = network._unit("inception_3c_3x3", x, 2)[0, 0]
    torch.testing.assert_close(found, x.sum(1)[0, ::2, ::2] / (1 + norm.eps) ** 0.5)


def test_caffes_pixels_are_bgr_around_the_means() -> None:
    pixels = find("bn_inception_caffe").preprocessing
    assert (pixels.channels, pixels.scale, pixels.mean, pixels.std) == ("bgr", 1, (104, 117, 128), (1, 1, 1))


def test_the_channels_of_a_separable_stem_are_an_eighth_of_its_kernels() -> None:
    row = find("bn_inception_slim")
    for channels in (1, 3):
        with torch.device("meta"):
            state = row.build(5, channels).state_dict()
        assert state["conv1_7x7_s2.0.weight"].shape == (8 * channels, 1, 7, 7)
        assert row.channels_of(state[row.stem].shape) == channels


@pytest.mark.slow
def test_the_graph_answers_as_torch() -> None:
    assert worst(freeze("bn_inception_slim", "random:0"), Size(97, 32)) < find("bn_inception_slim").tolerance
