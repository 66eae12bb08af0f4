"""Checkpoints as people save them, and those that must be refused."""

import hashlib
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from bundle.views import Size
from export.architectures import Architecture, find
from export.errors import WeightsError
from export.graph import Normalize
from export.verify import ask, sample_images
from export.weights import State, load, random_network

LENET, RESNET20 = find("lenet5"), find("resnet20")


@pytest.fixture(scope="module")
def state() -> State:
    return {key: value.clone() for key, value in random_network(RESNET20, 3).state_dict().items()}


def save(folder: Path, held: Any, name: str = "mine.pth") -> str:
    torch.save(held, folder / name)
    return str(folder / name)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def assert_same(loaded: State, state: State) -> None:
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3, "best_prec1": 91.7},
        lambda s: {"model": s, "optimizer": {"lr": 0.1}},
        lambda s: {"net": s},
        lambda s: {"model_state_dict": s},
        lambda s: {"state_dict": {"model": s}},
        lambda s: prefixed(s, "module."),
        lambda s: {"state_dict": prefixed(s, "model.")},
        lambda s: {"state_dict": prefixed(s, "module.model.")},
        lambda s: prefixed(s, "_orig_mod.module."),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".th", ".pt"])
def test_wrappers_and_prefixes_are_taken_off(
    tmp_path: Path, state: State, wrap: Callable[[State], Any], suffix: str
) -> None:
    loaded = load(RESNET20, save(tmp_path, wrap(state), f"mine{suffix}"))
    assert_same(loaded.network.state_dict(), state)
    assert not loaded.network.training


def test_safetensors(tmp_path: Path, state: State) -> None:
    safetensors.torch.save_file(prefixed(state, "module."), tmp_path / "mine.safetensors")
    assert_same(load(RESNET20, str(tmp_path / "mine.safetensors")).network.state_dict(), state)


def test_the_source_is_the_file_without_its_folders(tmp_path: Path, state: State) -> None:
    path = save(tmp_path, state)
    source = load(RESNET20, path).source
    assert (source.kind, source.name) == ("file", "mine.pth")
    assert source.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_absent_batch_counters_are_filled(tmp_path: Path, state: State) -> None:
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert_same(load(RESNET20, save(tmp_path, old)).network.state_dict(), state)


def test_half_precision_is_widened(tmp_path: Path, state: State) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    network = load(RESNET20, save(tmp_path, half)).network
    assert {value.dtype for value in network.parameters()} == {torch.float32}


def test_classes_come_from_the_checkpoint(tmp_path: Path) -> None:
    theirs = random_network(RESNET20.shaped(37, 3), 0).state_dict()
    architecture = load(RESNET20, save(tmp_path, theirs)).architecture
    assert (architecture.classes, architecture.channels) == (37, 3)


def test_channels_come_from_the_checkpoint(tmp_path: Path) -> None:
    theirs = random_network(RESNET20.shaped(10, 1), 0).state_dict()
    architecture = load(RESNET20, save(tmp_path, theirs)).architecture
    assert (architecture.channels, len(architecture.mean), architecture.input.channels) == (1, 1, 1)


def test_four_channels_are_refused(tmp_path: Path, state: State) -> None:
    path = save(tmp_path, state | {"conv1.weight": torch.zeros(16, 4, 3, 3)})
    with pytest.raises(WeightsError, match=r"conv1.weight takes 4 channels; images have 1 \(grey\) or 3"):
        load(RESNET20, path)


def test_all_wrong_keys_are_listed_at_once(tmp_path: Path, state: State) -> None:
    wrong = state | {"extra.weight": torch.zeros(1), "layer1.0.bn1.bias": torch.zeros(5)}
    del wrong["layer2.1.conv2.weight"], wrong["linear.bias"]
    message = (
        "these are not the weights of resnet20; missing: layer2.1.conv2.weight, linear.bias; "
        "unexpected: extra.weight; of another shape: layer1.0.bn1.bias is [5] instead of [16]"
    )
    with pytest.raises(WeightsError, match=re.escape(message)):
        load(RESNET20, save(tmp_path, wrong))


def test_another_network_is_refused(tmp_path: Path, state: State) -> None:
    with pytest.raises(WeightsError, match=r"not the weights of lenet5; missing: conv1.bias.*unexpected: bn1.weight"):
        load(LENET, save(tmp_path, state))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_key(tmp_path: Path, state: State, value: float) -> None:
    bad = state["layer1.1.bn2.running_var"].clone()
    bad[3] = value
    with pytest.raises(WeightsError, match=r"layer1.1.bn2.running_var holds NaN or infinity"):
        load(RESNET20, save(tmp_path, state | {"layer1.1.bn2.running_var": bad}))


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    trace = tmp_path / "it-ran"
    held = {"state_dict": Malicious(f"touch {trace}")}
    torch.save(held, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"bad.pth holds Python objects.*torch.save\(model.state_dict\(\)") as caught:
        load(LENET, str(tmp_path / "bad.pth"))
    assert not trace.exists()
    assert "weights_only" not in str(caught.value)  # torch's own words advise to switch the protection off


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, torch.nn.Linear(2, 2))
    with pytest.raises(WeightsError, match="holds Python objects"):
        load(LENET, path)


def test_a_scripted_module_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is old, its files are still about
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "mine.pt")  # type: ignore[no-untyped-call]
    with pytest.raises(WeightsError, match=r"mine.pt is no readable checkpoint") as caught:
        load(LENET, str(tmp_path / "mine.pt"))
    assert isinstance(caught.value.__cause__, RuntimeError)  # torch's refusal, not its warning


@pytest.mark.parametrize("name", ["mine.pth", "mine.safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match=name):
        load(LENET, str(tmp_path / name))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (torch.zeros(3), "holds a Tensor, not a dictionary"),
        ({"conv1.weight": [1.0]}, "holds no tensor under conv1.weight"),
        ({}, "missing: conv1.weight"),
    ],
)
def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path: Path, held: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load(LENET, save(tmp_path, held))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("absent.pth", "absent.pth cannot be read"),
        ("model.onnx", "weights are read from .pth, .th, .pt, .safetensors or made by random:SEED"),
        ("random:", "names no seed"),
        ("random:-1", "names no seed"),
        ("random:99999999999999999999", "names no seed"),
    ],
)
def test_what_names_no_weights_is_refused(weights: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load(LENET, weights)


def photographs_logits(architecture: Architecture, seed: int) -> np.ndarray[Any, Any]:
    network = Normalize(random_network(architecture, seed), architecture.mean, architecture.std).eval()
    size = Size(architecture.size, architecture.size)
    return ask(network, sample_images(2, size, architecture.channels))


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "resnet110", "resnet50"])
def test_random_logits_of_two_photographs_differ_by_about_one(name: str) -> None:
    china, flower = photographs_logits(find(name), 0)
    assert 0.3 < np.sqrt(np.mean((china - flower) ** 2)) < 3
    assert np.abs([china, flower]).max() < 10


def test_random_weights_are_those_of_their_seed() -> None:
    assert_same(random_network(RESNET20, 5).state_dict(), random_network(RESNET20, 5).state_dict())
    assert not torch.equal(
        random_network(RESNET20, 5).state_dict()["conv1.weight"],
        random_network(RESNET20, 6).state_dict()["conv1.weight"],
    )


def test_random_batchnorms_are_not_trivial(state: State) -> None:
    for key in ("weight", "bias", "running_mean", "running_var"):
        assert state[f"layer2.0.bn1.{key}"].std() > 0.01


def test_random_weights_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    random_network(LENET, 1)
    assert torch.equal(torch.rand(1), expected)


def test_random_takes_the_classes_that_are_asked_for() -> None:
    loaded = load(RESNET20, "random:0", classes=37)
    assert loaded.architecture.classes == 37
    assert loaded.network.state_dict()["linear.weight"].shape[0] == 37
    assert (loaded.source.kind, loaded.source.name, loaded.source.sha256) == ("random", "random:0", None)
