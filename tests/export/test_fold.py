"""Folding against hand-computed numbers and float64, and everything that it must refuse."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn.utils.parametrizations import weight_norm

from bundle.manifest import Folding
from export.architectures import find
from export.errors import FoldError
from export.fold import fold_batchnorm, prove
from export.layers import as_layers
from export.weights import load
from frozen import Frozen


def fold_and_prove(network: nn.Module, example: torch.Tensor) -> tuple[nn.Module, Folding]:
    """Both steps of the pipeline, for an example in float64."""
    folded, layers = fold_batchnorm(network, example.float())
    return folded, prove(network, folded, layers, example)


def batchnorm(channels: int, seed: int = 0) -> nn.BatchNorm2d:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(channels)
    for value in (norm.weight.data, norm.running_var):
        assert value is not None
        value.uniform_(0.5, 2)
    for value in (norm.bias.data, norm.running_mean):
        assert value is not None
        value.normal_()
    return norm


def conv_and_norm(groups: int = 1, stride: int = 1) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(4, 8, 3, stride, 1, groups=groups), batchnorm(8)).eval()


def test_hand_computed_numbers() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=1.0)).eval()
    network.load_state_dict(
        {
            "0.weight": torch.full((1, 1, 1, 1), 2.0),
            "1.weight": torch.tensor([6.0]),
            "1.bias": torch.tensor([1.0]),
            "1.running_mean": torch.tensor([4.0]),
            "1.running_var": torch.tensor([8.0]),
            "1.num_batches_tracked": torch.tensor(0),
        }
    )
    folded, layers = fold_batchnorm(network)
    # s = 6 / sqrt(8 + 1) = 2, W' = 2 * 2, b' = 1 - 4 * 2
    assert layers == 1
    assert {key: value.item() for key, value in folded.state_dict().items()} == {"0.weight": 4.0, "0.bias": -7.0}


def test_the_arithmetic_is_float64_and_only_the_result_is_rounded() -> None:
    network = conv_and_norm()
    conv = {key: value.numpy().astype(np.float64) for key, value in network[0].state_dict().items()}
    norm = {key: value.numpy().astype(np.float64) for key, value in network[1].state_dict().items()}
    scale = norm["weight"] / np.sqrt(norm["running_var"] + 1e-5)
    folded = fold_batchnorm(network)[0].state_dict()
    assert np.array_equal(folded["0.weight"].numpy(), (conv["weight"] * scale[:, None, None, None]).astype(np.float32))
    bias = (conv["bias"] - norm["running_mean"]) * scale + norm["bias"]
    np.testing.assert_array_max_ulp(folded["0.bias"].numpy(), bias.astype(np.float32), 1)


@pytest.mark.parametrize("options", [{"groups": 1}, {"groups": 2}, {"groups": 4}, {"stride": 2}])
def test_the_function_stays_the_same_for_grouped_convolutions_too(options: dict[str, int]) -> None:
    network = conv_and_norm(**options)
    folded, layers = fold_batchnorm(network)
    x = torch.randn(3, 4, 9, 7)
    assert layers == 1
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(x), network(x), rtol=1e-5, atol=1e-5)


def test_the_argument_is_not_modified() -> None:
    network = conv_and_norm()
    before = copy.deepcopy(network.state_dict())
    fold_batchnorm(network)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_batchnorm_without_scale_and_shift_is_folded() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False)).eval()
    x = torch.randn(1, 1, 5, 5)
    torch.testing.assert_close(fold_batchnorm(network)[0](x), network(x))


class Joined(nn.Module):
    """One convolution and one BatchNorm, put together by `how`."""

    def __init__(self, how: Callable[["Joined", torch.Tensor], torch.Tensor], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.conv2, self.norm = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), norm or batchnorm(2)
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.how(self, x)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (lambda m, x: m.norm(y := m.conv(x)) + y, "norm cannot be folded: the output of conv is used by add"),
        (lambda m, x: m.norm(m.conv(x) + x), "norm cannot be folded: it follows add"),
        (lambda m, x: m.conv(torch.relu(m.norm(x))), "norm cannot be folded: it follows x"),
        (lambda m, x: m.norm(torch.relu(m.conv(x))), "norm cannot be folded: it follows relu"),
        (lambda m, x: m.norm(m.conv(m.conv(x))), "norm cannot be folded: it follows conv, which is called 2 times"),
        (
            lambda m, x: nn.functional.batch_norm(m.conv(x), m.norm.running_mean, m.norm.running_var),
            "batch_norm calls batch_norm as a function",
        ),
    ],
)
def test_what_cannot_be_folded_is_refused_by_name_and_reason(
    how: Callable[[Joined, torch.Tensor], torch.Tensor], why: str
) -> None:
    with pytest.raises(FoldError, match=why):
        fold_batchnorm(Joined(how).eval())


def test_one_batchnorm_after_two_convolutions_folds_into_both() -> None:
    network = Joined(lambda m, x: m.norm(m.conv(x)) * m.norm(m.conv2(x))).eval()
    folded, layers = fold_batchnorm(network)
    x = torch.randn(2, 2, 3, 3)
    assert layers == 2
    torch.testing.assert_close(folded(x), network(x), rtol=1e-5, atol=1e-5)


class Spectral(nn.Conv2d):
    """A convolution with a forward of its own: its weight is not what it multiplies by."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 torch's name
        y: torch.Tensor = super().forward(input) / self.weight.norm()
        return y


def hooked() -> nn.Module:
    conv = nn.Conv2d(2, 2, 1)
    conv.register_forward_hook(lambda *_: None)
    return conv


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (hooked(), "1 cannot be folded: it follows _0, which has hooks"),
        (weight_norm(nn.Conv2d(2, 2, 1)), "it follows _0, which is parametrized"),
        (nn.InstanceNorm2d(2), "it follows _0, which is no convolution or linear layer"),
    ],
)
def test_a_layer_that_does_more_than_its_class_is_refused(layer: nn.Module, why: str) -> None:
    graph = fx.symbolic_trace(nn.Sequential(nn.Identity(), batchnorm(2)))
    graph.set_submodule("0", layer)
    with pytest.raises(FoldError, match=why.replace("_0", "0")):
        fold_batchnorm(graph.eval())


def test_a_convolution_with_a_forward_of_its_own_is_refused() -> None:
    with pytest.raises(FoldError, match="1 cannot be folded: it follows truediv, which is no convolution"):
        fold_batchnorm(nn.Sequential(Spectral(2, 2, 1), batchnorm(2)).eval())


def test_other_normalisations_stay() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True), nn.LocalResponseNorm(2))
    folded, layers = fold_batchnorm(network.eval())
    x = torch.randn(1, 2, 6, 6)
    assert layers == 0
    assert any(isinstance(module, nn.InstanceNorm2d) for module in folded.modules())
    assert torch.equal(folded(x), network(x))


KINDS = {
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), (2, 4, 7)),
    "conv2d": (nn.Conv2d(4, 6, 3, padding="same", bias=False), nn.BatchNorm2d(6), (2, 4, 7, 5)),
    "conv3d, grouped": (nn.Conv3d(4, 6, 2, groups=2), nn.BatchNorm3d(6), (2, 4, 4, 3, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8), (2, 4, 7, 5)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, 2), nn.BatchNorm1d(6), (2, 4, 7)),
    "transposed 2d": (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, bias=False), nn.BatchNorm2d(6), (2, 4, 7, 5)),
    "transposed 2d, grouped": (nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.BatchNorm2d(6), (2, 4, 7, 5)),
    "transposed 3d, grouped": (nn.ConvTranspose3d(4, 6, 2, groups=2), nn.BatchNorm3d(6), (2, 4, 3, 3, 2)),
    "linear": (nn.Linear(4, 6), nn.BatchNorm1d(6), (3, 4)),
    "linear without bias": (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), (3, 4)),
    "synchronised": (nn.Conv2d(4, 6, 3), nn.SyncBatchNorm(6), (2, 4, 7, 5)),
}


def prepared(network: nn.Module) -> nn.Module:
    """In float64 and eval mode, with statistics, scales and shifts that matter."""
    torch.manual_seed(2)
    for norm in network.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.2, 3)
            nn.init.uniform_(norm.weight, -2, 2)
            nn.init.normal_(norm.bias)
    return network.double().eval()


def assert_folds_exactly(network: nn.Module, x: torch.Tensor, layers: int = 1) -> nn.Module:
    """In float64 a right fold is right to 13 digits, and a wrong one is not even close."""
    folded, found = fold_batchnorm(network)
    assert found == layers
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in folded.modules())
    torch.testing.assert_close(folded(x), network(x), rtol=1e-12, atol=1e-12)
    return folded


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_layer_takes_the_batchnorm_behind_it(kind: str) -> None:
    layer, norm, shape = KINDS[kind]
    network = prepared(nn.Sequential(copy.deepcopy(layer), copy.deepcopy(norm)))
    assert_folds_exactly(network, torch.randn(shape, dtype=torch.float64))


def test_a_transposed_convolution_by_hand() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(2, 4, 1, groups=2), nn.BatchNorm2d(4, eps=0)).eval()
    network[0].load_state_dict(
        {"weight": torch.tensor([[1.0, 2], [3, 4]])[:, :, None, None], "bias": torch.tensor([1.0, 1, 1, 1])}
    )
    network[1].load_state_dict(
        {
            "weight": torch.tensor([1.0, 10, 100, 1000]),
            "bias": torch.zeros(4),
            "running_mean": torch.tensor([0.0, 0, 0, 2]),
            "running_var": torch.ones(4),
            "num_batches_tracked": torch.tensor(0),
        }
    )
    folded = fold_batchnorm(network)[0].state_dict()
    assert folded["0.weight"].flatten().tolist() == [1, 20, 300, 4000]  # input 0 feeds outputs 0, 1; input 1 feeds 2, 3
    assert folded["0.bias"].tolist() == [1, 10, 100, -1000]


def test_a_batchnorm_in_front_by_hand() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1, eps=0), nn.Conv2d(1, 1, (1, 2))).eval()
    network.load_state_dict(
        {
            "0.weight": torch.tensor([6.0]),
            "0.bias": torch.tensor([1.0]),
            "0.running_mean": torch.tensor([4.0]),
            "0.running_var": torch.tensor([4.0]),
            "0.num_batches_tracked": torch.tensor(0),
            "1.weight": torch.tensor([[[[1.0, 10.0]]]]),
            "1.bias": torch.tensor([0.5]),
        }
    )
    folded, layers = fold_batchnorm(network)
    # s = 6 / 2 = 3, t = 1 - 3 * 4 = -11: W' = 3 W, b' = 0.5 - 11 * (1 + 10)
    assert layers == 1
    assert {key: value.flatten().tolist() for key, value in folded.state_dict().items()} == {
        "1.weight": [3, 30],
        "1.bias": [-120.5],
    }


IN_FRONT = {
    "no padding": nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)),
    "padding valid": nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding="valid")),
    "1x1, padding same": nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1, padding="same")),
    "grouped": nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, 2, groups=2, bias=False)),
    "reflect": nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")),
    "replicate": nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=2, padding_mode="replicate")),
    "circular": nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular")),
    "nn.ReflectionPad2d": nn.Sequential(nn.BatchNorm2d(4), nn.ReflectionPad2d(2), nn.Conv2d(4, 6, 3)),
    "nn.ReplicationPad2d": nn.Sequential(nn.BatchNorm2d(4), nn.ReplicationPad2d(2), nn.Conv2d(4, 6, 3)),
    "nearest": nn.Sequential(nn.BatchNorm2d(4), nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(4, 6, 3)),
    "bilinear": nn.Sequential(nn.BatchNorm2d(4), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 6, 3)),
    "dropout": nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(), nn.Identity(), nn.Conv2d(4, 6, 3)),
    "behind an upsampling": nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1), nn.Upsample(scale_factor=2), nn.BatchNorm2d(6)
    ),
}


@pytest.mark.parametrize("name", IN_FRONT)
def test_a_batchnorm_goes_through_what_commutes_with_it(name: str) -> None:
    assert_folds_exactly(prepared(IN_FRONT[name]), torch.randn(2, 4, 7, 6, dtype=torch.float64))


def test_a_batchnorm_in_front_of_a_linear_layer() -> None:
    network = prepared(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)))
    assert_folds_exactly(network, torch.randn(5, 4, dtype=torch.float64))


class Step(nn.Module):
    """One level of a deep image prior: BatchNorm on a concatenation, upsampled, padded, convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.skip, self.deeper = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 3, 2, padding=1)
        self.norm, self.up = nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.skip(x)
        deeper = nn.functional.interpolate(self.deeper(x), size=skip.shape[2:], mode="bilinear")
        joined = self.norm(torch.cat([skip, nn.functional.leaky_relu(deeper)], 1))
        return self.up(nn.functional.pad(joined, (1, 1, 1, 1), mode="reflect"))  # type: ignore[no-any-return]


def test_a_batchnorm_on_a_concatenation_goes_into_the_convolution_behind_it() -> None:
    assert_folds_exactly(prepared(Step()), torch.randn(2, 3, 8, 8, dtype=torch.float64))


def test_a_batchnorm_with_several_readers_goes_into_all_of_them() -> None:
    class Fork(Joined):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(torch.relu(x))
            return self.conv(y) * self.conv2(y)  # type: ignore[no-any-return]

    assert_folds_exactly(prepared(Fork(lambda _, x: x)), torch.randn(2, 2, 4, 4, dtype=torch.float64))


def test_two_batchnorms_in_a_row_go_into_one_layer() -> None:
    network = prepared(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)))
    assert_folds_exactly(network, torch.randn(2, 3, 5, 5, dtype=torch.float64), layers=2)


def test_weights_that_are_shared_stay_what_they_are_for_the_other() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1))
    network[3].weight = network[0].weight
    assert_folds_exactly(prepared(network), torch.randn(2, 3, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (
            nn.Sequential(batchnorm(2), nn.Conv2d(2, 2, 3, padding=1)),
            "0 cannot be folded: it follows input_1, .*; and it is read by 1, which pads with zeros",
        ),
        (nn.Sequential(batchnorm(2), nn.Conv2d(2, 2, 3, padding="same")), "1, which pads with zeros"),
        (nn.Sequential(batchnorm(2), nn.ZeroPad2d(1), nn.Conv2d(2, 2, 3)), "1, which is no convolution"),
        (nn.Sequential(batchnorm(2), nn.ConvTranspose2d(2, 2, 2)), "1, which is transposed"),
        (nn.Sequential(batchnorm(2), nn.ReLU(), nn.Conv2d(2, 2, 1)), "1, which is no convolution"),
        (nn.Sequential(batchnorm(2), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1)), "1, which is no convolution"),
        (nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(2)), "0, which gives 5 channels; the BatchNorm has 2"),
        (nn.Sequential(batchnorm(2)), "it is read by output, which is no convolution"),
    ],
)
def test_a_batchnorm_that_fits_nowhere_is_refused_with_both_reasons(network: nn.Module, why: str) -> None:
    with pytest.raises(FoldError, match=why):
        fold_batchnorm(network.eval())


@pytest.mark.parametrize(
    "between",
    [
        lambda x: nn.functional.pad(x, (1, 1, 1, 1)),
        lambda x: nn.functional.pad(x, (1, 1, 1, 1), value=2.0),
        lambda x: nn.functional.dropout(x, 0.5),
        lambda x: torch.cat([x, x], 1)[:, :2],
        lambda x: x + 1,
    ],
)
def test_a_function_between_that_does_not_commute_is_refused(between: Callable[[torch.Tensor], torch.Tensor]) -> None:
    network = Joined(lambda m, x: m.conv(between(m.norm(x)))).eval()
    with pytest.raises(FoldError, match=r"norm cannot be folded: it follows x, .*; and it is read by "):
        fold_batchnorm(network)


def test_the_fold_that_zero_padding_forbids_would_be_wrong_at_the_border_only() -> None:
    norm, conv = batchnorm(4), nn.Conv2d(4, 6, 3, padding=1)
    network = prepared(nn.Sequential(norm, conv))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert conv.bias is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    bias = conv.bias + (conv.weight * shift[:, None, None]).sum((1, 2, 3))
    naive = nn.functional.conv2d(x, conv.weight * scale[:, None, None], bias, padding=1)
    difference = (naive - network(x)).abs()
    assert difference[:, :, 1:-1, 1:-1].max() < 1e-12
    assert difference.max() > 0.1
    with pytest.raises(FoldError, match="pads with zeros"):
        fold_batchnorm(network)


def test_features_that_are_not_the_second_axis_are_refused_where_the_shape_is_known() -> None:
    network = prepared(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    assert_folds_exactly(network, torch.randn(2, 3, dtype=torch.float64))
    with pytest.raises(FoldError, match="its features in the last of 3 axes"):
        fold_batchnorm(network, torch.zeros(2, 4, 3, dtype=torch.float64))


def test_an_example_that_does_not_fit_is_refused() -> None:
    with pytest.raises(FoldError, match=r"does not take an input of \[1, 3, 8, 8\]"):
        fold_batchnorm(conv_and_norm(), torch.zeros(1, 3, 8, 8))


class Undecided(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y if y.sum() > 0 else -y


def test_a_network_that_cannot_be_traced_is_refused_with_the_way_out() -> None:
    with pytest.raises(FoldError, match=r"torch.fx cannot follow Undecided .*save torch.export.export\("):
        fold_batchnorm(Undecided(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).eval())


def test_without_batchnorm_it_need_not_be_traced() -> None:
    network = Undecided(nn.Conv2d(1, 1, 1))
    folded, layers = fold_batchnorm(network)
    assert layers == 0
    assert not folded.training
    assert network.training


def test_any_module_is_folded_and_proved_with_any_example() -> None:
    torch.manual_seed(0)
    network = prepared(Step()).float()
    folded, proof = fold_and_prove(network, torch.randn(2, 3, 8, 8, dtype=torch.float64))
    assert proof.layers == 1
    assert proof.folded_error < 1e-5
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_a_network_that_fixes_its_precision_cannot_be_proved() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.float())  # type: ignore[no-any-return]

    with pytest.raises(FoldError, match="Fixed does not run in float64"):
        fold_and_prove(Fixed().eval(), torch.randn(2, 3, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_program_of_torch_export_is_folded_too() -> None:
    network = prepared(Step())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    program = torch.export.export(network, (x,)).module()
    assert isinstance(program, fx.GraphModule)
    with pytest.raises(FoldError, match="batch_norm calls batch_norm as a function"):
        fold_batchnorm(program)
    folded, layers = fold_batchnorm(as_layers(program))
    assert layers == 1
    torch.testing.assert_close(folded(x), network(x), rtol=1e-12, atol=1e-12)


MODES: tuple[Literal["zeros", "reflect", "replicate"], ...] = ("zeros", "reflect", "replicate")


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, int]:
    """A chain of layers with a BatchNorm behind or in front of each, with the number of BatchNorms."""
    layers: list[nn.Module] = []
    channels, norms = 4, 0
    for _ in range(draw(st.integers(1, 4))):
        inside, channels = channels, draw(st.sampled_from([2, 4, 6]))
        groups = draw(st.sampled_from([1, 2]))
        bias, kernel = draw(st.booleans()), draw(st.sampled_from([1, 3]))
        mode = draw(st.sampled_from(MODES))
        in_front = draw(st.booleans()) and mode != "zeros" and bool(layers)
        if in_front:  # a ReLU keeps it from the layer before
            layers += [nn.ReLU(), nn.BatchNorm2d(inside), *draw(st.sampled_from([[], [nn.Upsample(scale_factor=2)]]))]
        transposed = not in_front and draw(st.booleans())
        if transposed:
            layers.append(nn.ConvTranspose2d(inside, channels, kernel, 2, kernel // 2, groups=groups, bias=bias))
        else:
            pad = draw(st.integers(0, 1)) if kernel > 1 else 0
            layers.append(nn.Conv2d(inside, channels, kernel, 1, pad, groups=groups, bias=bias, padding_mode=mode))
        behind = draw(st.booleans())
        layers += [nn.BatchNorm2d(channels)] if behind else []
        layers += draw(st.sampled_from([[], [nn.Tanh()], [nn.ReLU(inplace=True)], [nn.MaxPool2d(2, 1)]]))
        norms += in_front + behind
    return nn.Sequential(*layers), norms


@given(networks(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_folding_keeps_the_function_of_random_networks(drawn: tuple[nn.Module, int], seed: int) -> None:
    network, norms = drawn
    x = torch.randn(2, 4, 13, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert_folds_exactly(prepared(network), x, norms)


@pytest.mark.parametrize("norm", [batchnorm(2).train(), nn.BatchNorm2d(2, track_running_stats=False).eval()])
def test_statistics_of_the_batch_are_refused(norm: nn.Module) -> None:
    with pytest.raises(FoldError, match="norm cannot be folded: it uses the batch's own statistics"):
        fold_batchnorm(Joined(lambda m, x: m.norm(m.conv(x)), norm))


def test_folding_is_as_close_to_float64_as_the_network_was(resnet20: Frozen) -> None:
    network = resnet20.loaded.network
    folded, layers = fold_batchnorm(network)
    images = torch.randn(8, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    proof = prove(network, folded, layers, images)
    assert proof.layers == 19
    assert 0 < proof.folded_error < 1e-5
    assert 0 < proof.unfolded_error < 1e-5


def test_the_real_weights_of_resnet20_fold_as_closely(shared: Path) -> None:
    network = load(find("resnet20"), str(shared / "weights" / "cifar10_resnet20-12fca82f.th")).network
    with np.load(shared / "cifar10" / "cifar10_test_first1000.npz") as data:
        pixels = torch.from_numpy(data["images"][:32]).double() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()
    folded, proof = fold_and_prove(network, ((pixels - mean) / std).permute(0, 3, 1, 2))
    print(proof)
    assert proof.layers == 19
    assert sum(parameter.numel() for parameter in folded.parameters()) == 269_034
    assert 0 < proof.folded_error < 2e-6
    assert 0 < proof.unfolded_error < 2e-6


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_a_folding_that_changed_the_function_is_refused(resnet20: Frozen, factor: float) -> None:
    network = resnet20.loaded.network
    folded, layers = fold_batchnorm(network)
    folded.get_submodule("layer2.1.conv1").weight.data.mul_(factor)  # type: ignore[operator]
    images = torch.randn(8, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(FoldError, match="after folding 19 BatchNorms"):
        prove(network, folded, layers, images)
