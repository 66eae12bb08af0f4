"""Folding against hand-computed numbers, and everything that it must refuse."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from export.errors import FoldError
from export.fold import fold_batchnorm, prove
from frozen import Frozen


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
        (lambda m, x: m.norm(m.conv(m.conv(x))), "norm cannot be folded: conv is called 2 times"),
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


def test_a_batchnorm_after_a_linear_layer_is_refused() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    with pytest.raises(FoldError, match=r"1 cannot be folded: it follows _0, which is no Conv2d"):
        fold_batchnorm(network)


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


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_a_folding_that_changed_the_function_is_refused(resnet20: Frozen, factor: float) -> None:
    network = resnet20.loaded.network
    folded, layers = fold_batchnorm(network)
    folded.get_submodule("layer2.1.conv1").weight.data.mul_(factor)  # type: ignore[operator]
    images = torch.randn(8, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(FoldError, match="after folding 19 BatchNorms"):
        prove(network, folded, layers, images)
