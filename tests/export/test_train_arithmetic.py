"""The arithmetic of the recipes against numbers worked out by hand, and against other implementations."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from export.activations import CHOICES, replace_activations
from export.architectures import find
from export.errors import ExportError
from export.train.clipping import clip, norm
from export.train.initialise import initialise
from export.train.module import average
from export.train.optimizers import CaffeSgd, TensorFlowRmsProp
from export.train.recipe import (
    AlexNetStart,
    Clip,
    Exponential,
    Named,
    OneCycle,
    Plateau,
    Polynomial,
    Steps,
    WarmUp,
)
from export.train.recipes import RECIPES
from export.train.saturation import Saturation, saturated
from export.train.schedules import Progress, Rate, drops, factor


def two() -> list[torch.Tensor]:
    """Two variables whose gradients have the norms 5 and 12, and 13 together."""
    return [torch.tensor([3.0, -4.0]), torch.tensor([[0.0], [12.0]])]


def test_clipping_by_value_bounds_each_element() -> None:
    first, second = tensors = two()
    clip(tensors, Clip(kind="value", threshold=3.5))
    assert first.tolist() == [3.0, -3.5]
    assert second.tolist() == [[0.0], [3.5]]


def test_clipping_by_norm_scales_each_variable_by_itself_as_keras_clipnorm_does() -> None:
    first, second = tensors = two()
    clip(tensors, Clip(kind="norm", threshold=6.0))
    assert first.tolist() == [3.0, -4.0]  # its norm is 5
    assert second.tolist() == [[0.0], [6.0]]


def test_clipping_by_global_norm_scales_all_by_one_factor_as_keras_global_clipnorm_does() -> None:
    first, second = tensors = two()
    assert float(norm(tensors)) == 13.0
    clip(tensors, Clip(kind="global", threshold=6.5))
    assert first.tolist() == [1.5, -2.0]
    assert second.tolist() == [[0.0], [6.0]]
    assert float(norm(tensors)) == 6.5  # exactly: torch's own would be 5e-7 short of it


@pytest.mark.parametrize("kind", ["value", "norm", "global"])
def test_what_is_within_the_threshold_stays_as_it_is(kind: str) -> None:
    tensors = two()
    clip(tensors, Clip.parse(f"{kind}:13"))
    assert all(torch.equal(now, before) for now, before in zip(tensors, two(), strict=True))


def test_zero_gradients_stay_zero() -> None:
    tensors = [torch.zeros(3)]
    clip(tensors, Clip(kind="global", threshold=1.0))
    assert tensors[0].tolist() == [0.0, 0.0, 0.0]


def follow(optimizer: torch.optim.Optimizer, weight: nn.Parameter, rates: list[float], gradient: float) -> list[float]:
    """The weight after each step of a constant gradient at these rates."""
    seen = []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        seen.append(float(weight.detach()))
    return seen


def test_caffes_velocity_keeps_the_old_rate_when_the_rate_drops_and_torchs_does_not() -> None:
    rates = [1.0, 1.0, 0.1]
    caffe, torchs = (nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(2))
    ours = follow(CaffeSgd([caffe], 1.0, momentum=0.5), caffe, rates, 1.0)
    theirs = follow(torch.optim.SGD([torchs], 1.0, momentum=0.5), torchs, rates, 1.0)
    # v: 1, 1.5, then 0.75 + 0.1 = 0.85 against 0.1 * (0.75 + 1) = 0.175
    assert ours == pytest.approx([-1.0, -2.5, -3.35])
    assert theirs == pytest.approx([-1.0, -2.5, -2.675])


def test_caffes_weight_decay_joins_the_gradient() -> None:
    weight = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    seen = follow(CaffeSgd([weight], 0.1, momentum=0.9, weight_decay=0.5), weight, [0.1, 0.1], 1.0)
    # v = 0.1 * (1 + 1) = 0.2; w = 1.8; v = 0.18 + 0.1 * (1 + 0.9) = 0.37
    assert seen == pytest.approx([1.8, 1.43])


def test_rmsprop_is_tensorflows_and_not_torchs() -> None:
    ours, theirs = (nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(2))
    first, second = follow(TensorFlowRmsProp([ours], 1.0), ours, [1.0, 1.0], 0.1)
    # s = 0.9 + 0.1 * 0.01 = 0.901, v = 0.1 / sqrt(1.901); then s = 0.8119, v = 0.9 v + 0.1 / sqrt(1.8119)
    assert first == pytest.approx(-0.1 / math.sqrt(1.901))
    assert first == pytest.approx(-0.0725, abs=5e-5)
    assert second == pytest.approx(-1.9 * 0.1 / math.sqrt(1.901) - 0.1 / math.sqrt(1.8119))
    (torchs,) = follow(torch.optim.RMSprop([theirs], 1.0, alpha=0.9, eps=1.0), theirs, [1.0], 0.1)
    assert torchs == pytest.approx(-0.0969, abs=5e-5)


def test_the_rate_of_cifar_drops_at_32000_and_48000_steps() -> None:
    schedule = RECIPES["resnet-cifar"].schedule
    assert isinstance(schedule, Steps)
    factors = [factor(schedule, Progress(step, 64_000, 351)) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_rate_of_inception_v3_falls_by_six_percent_every_other_epoch() -> None:
    schedule = RECIPES["inception-v3"].schedule
    factors = [factor(schedule, Progress(step, 10_000, 100)) for step in (0, 199, 200, 399, 400, 9_999)]
    assert factors == pytest.approx([1, 1, 0.94, 0.94, 0.94**2, 0.94**49])


def test_six_times_as_fast_is_six_drops_for_one() -> None:
    slow, fast = RECIPES["bn-inception"].schedule, RECIPES["bn-inception-x5"].schedule
    assert isinstance(slow, Exponential)
    at = [Progress(step, 10_000, 30) for step in (0, 239, 240, 480)]
    assert [factor(slow, each) for each in at] == pytest.approx([1, 1, 0.96, 0.96**2])
    assert [factor(fast, each) for each in at] == pytest.approx([1, 0.96**5, 0.96**6, 0.96**12])


def test_caffes_polynomial_is_half_way_down_its_square_root() -> None:
    schedule = Polynomial(power=0.5)
    assert [factor(schedule, Progress(step, 100, 10)) for step in (0, 75, 100)] == pytest.approx([1, 0.5, 0])


def test_one_cycle_is_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    steps = 137
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        assert factor(OneCycle(), Progress(step, steps, 10)) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step < steps - 1:
            theirs.step()


def test_a_plateau_is_torchs() -> None:
    errors = np.random.default_rng(5).integers(0, 40, 200) / 40
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.1, patience=3, threshold=0, threshold_mode="abs", eps=0
    )
    schedule = Plateau(patience=4, times=100)
    for count, error in enumerate(errors.tolist(), 1):
        theirs.step(error)
        assert 0.1 ** drops(schedule, errors[:count].tolist()) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_a_plateau_lowers_the_rate_as_often_as_it_may() -> None:
    schedule = Plateau(patience=2, times=3)
    assert [drops(schedule, [0.5] * count) for count in (0, 1, 2, 3, 5, 7, 9, 20)] == [0, 0, 0, 1, 2, 3, 3, 3]
    assert drops(schedule, [0.5, 0.4, 0.45, 0.39, 0.39]) == 0


def test_110_layers_warm_up_until_four_in_five_are_no_longer_wrong() -> None:
    rate = Rate(RECIPES["resnet-cifar-110"])
    assert RECIPES["resnet-cifar-110"].warm_up == WarmUp(rate=0.01, error=0.8)
    for _ in range(400):
        rate.saw(0.81)
    assert rate.at(400, 64_000, 351) == 0.01
    for _ in range(50):
        rate.saw(0.79)
    assert rate.at(450, 64_000, 351) == 0.1
    rate.saw(1.0)
    assert rate.at(451, 64_000, 351) == 0.1  # once warm, always warm


def test_a_rate_goes_on_from_what_it_remembered() -> None:
    rate = Rate(RECIPES["resnet-cifar-110"])
    for _ in range(49):
        rate.saw(0.5)
    again = Rate(RECIPES["resnet-cifar-110"])
    again.restore(rate.state())  # type: ignore[arg-type]
    again.saw(0.5)
    assert again.at(50, 64_000, 351) == 0.1


def test_label_smoothing_spreads_its_part_evenly_over_all_classes() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    log_probabilities = logits - math.log(math.exp(2) + 1 + math.exp(-1))
    by_hand = -(0.9 + 0.1 / 3) * log_probabilities[0, 0] - 0.1 / 3 * (log_probabilities[0, 1] + log_probabilities[0, 2])
    assert float(cross_entropy(logits, torch.tensor([0]), label_smoothing=0.1)) == pytest.approx(float(by_hand))


def test_the_average_follows_quickly_at_first_and_slowly_later() -> None:
    network = nn.Linear(1, 1, bias=False)
    mean = average(network, 0.2)
    seen = []
    for value in (1.0, 3.0, 5.0, 5.0):
        nn.init.constant_(network.weight, value)
        mean.update_parameters(network)
        seen.append(float(mean.module.state_dict()["weight"]))
    # the first is copied; then what is kept is (1 + n) / (10 + n) of n = 1, and 0.2 from n = 2 on, as 3 / 12 is more
    second = 2 / 11 * 1 + 9 / 11 * 3
    third = 0.2 * second + 0.8 * 5
    assert seen == pytest.approx([1.0, second, third, 0.2 * third + 0.8 * 5])


def test_the_average_has_the_statistics_too() -> None:
    network = nn.Sequential(nn.BatchNorm1d(1))
    mean = average(network, 0.5)
    mean.update_parameters(network)
    network.train()(torch.tensor([[0.0], [2.0]]))  # mean 1, unbiased variance 2, momentum 0.1
    mean.update_parameters(network)
    state = mean.module.state_dict()
    assert float(state["0.running_mean"]) == pytest.approx(9 / 11 * 0.1)
    assert int(state["0.num_batches_tracked"]) == 1


@pytest.mark.parametrize(
    ("how", "deviation"),
    [
        (Named(kind="he"), math.sqrt(2 / (50 * 25))),
        (Named(kind="glorot"), math.sqrt(2 / (50 * 25 + 60 * 25))),
        (Named(kind="lecun"), 2.4 / (50 * 25) / math.sqrt(3)),
    ],
)
def test_weights_begin_with_the_deviation_of_the_paper(how: Named, deviation: float) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(50, 60, 5)
    initialise(layer, how, "layer")
    assert float(layer.weight.detach().std()) == pytest.approx(deviation, rel=0.02)
    assert layer.bias is not None
    assert not layer.bias.any()


def test_alexnet_begins_with_biases_of_one_where_the_paper_says() -> None:
    network = find("alexnet").build(10, 3)
    initialise(network, AlexNetStart(), "alexnet")
    biases = {name: float(value.mean()) for name, value in network.state_dict().items() if name.endswith("bias")}
    lifted = {name for name, value in biases.items() if value == 1}
    assert lifted == {
        "features.3.bias",
        "features.8.bias",
        "features.10.bias",
        "classifier.1.bias",
        "classifier.4.bias",
    }
    assert all(value == 0 for name, value in biases.items() if name not in lifted)


def test_alexnets_biases_are_refused_for_other_networks() -> None:
    with pytest.raises(ExportError, match="resnet20 has not AlexNet's layers"):
        initialise(find("resnet20").build(10, 3), AlexNetStart(), "resnet20")


@pytest.mark.parametrize(
    "name", ["lenet5", "lenet_caffe", "resnet20", "googlenet", "bn_inception_slim", "inception_v3"]
)
def test_another_activation_keeps_the_keys_and_changes_the_answer(name: str) -> None:
    row = find(name)
    torch.manual_seed(0)
    with torch.device("meta"):
        network = row.build(row.classes, row.channels)
    keys = list(network.state_dict())
    replace_activations(network, "sigmoid", name)
    assert list(network.state_dict()) == keys
    kinds = {type(module) for module in network.modules() if isinstance(module, nn.ReLU | nn.Tanh | nn.Sigmoid)}
    assert kinds == {nn.Sigmoid}


def test_another_activation_is_used() -> None:
    network = find("resnet20").build(10, 3).eval()
    images = torch.rand(1, 3, 32, 32)
    before = network(images)
    replace_activations(network, "tanh", "resnet20")
    assert not torch.allclose(network(images), before)


def test_a_network_with_an_activation_of_its_own_keeps_it() -> None:
    with pytest.raises(ExportError, match="lenet5_1998 has its own activation"):
        replace_activations(find("lenet5_1998").build(10, 1), "relu", "lenet5_1998")


def test_units_in_the_flat_parts_are_counted() -> None:
    values = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0])
    found = {name: float(saturated(layer(), layer()(values))) for name, layer in CHOICES.items()}
    # tanh is flat beyond 2.18 and sigmoid beyond 4.36; ReLU is for all that is not above 0
    assert found == pytest.approx({"relu": 0.6, "tanh": 0.4, "sigmoid": 0.4})


def test_a_layer_that_is_used_twice_is_watched_twice() -> None:
    relu = nn.ReLU()
    network = nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu)
    saturation = Saturation(network)
    network(torch.rand(3, 2))
    assert saturation.fractions == {}
    saturation.watch(wanted=True)
    network(torch.rand(3, 2))
    assert sorted(saturation.fractions) == ["1", "1.2"]
