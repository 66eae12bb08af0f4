"""Checkpoints as people save them, and those that must be refused."""

import hashlib
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from bundle.views import Size
from export import catalogue
from export.architectures import Architecture, find
from export.catalogue import PublicWeights
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
        lambda s: {"state_dict": s, "activation": "gelu"},
        lambda s: {"model": s, "optimizer": {"lr": 0.1}, "activation": {"name": "relu"}},
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
    assert (architecture.channels, len(architecture.preprocessing.mean), architecture.input.channels) == (1, 1, 1)


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


AUXILIARY = replace(RESNET20, auxiliary=("aux1.", "aux2."))


def test_auxiliary_heads_are_left_out_by_name_and_counted(
    tmp_path: Path, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    heads = {"aux1.fc.weight": torch.zeros(2, 2), "aux1.fc.bias": torch.zeros(2), "aux2.conv.weight": torch.zeros(1)}
    path = save(tmp_path, prefixed(state | heads, "module."))
    with caplog.at_level("INFO", "export.weights"):
        assert_same(load(AUXILIARY, path).network.state_dict(), state)
    assert caplog.messages == ["left out 3 tensors of the auxiliary heads (aux1., aux2.)"]


def test_what_only_looks_like_an_auxiliary_head_is_unexpected(tmp_path: Path, state: State) -> None:
    path = save(tmp_path, state | {"auxiliary.weight": torch.zeros(1), "layer1.aux1.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"unexpected: auxiliary.weight, layer1.aux1.weight$"):
        load(AUXILIARY, path)


def test_without_auxiliary_heads_in_its_row_a_network_refuses_them(tmp_path: Path, state: State) -> None:
    with pytest.raises(WeightsError, match=r"unexpected: aux1.fc.bias$"):
        load(RESNET20, save(tmp_path, state | {"aux1.fc.bias": torch.zeros(2)}))


def publish(monkeypatch: pytest.MonkeyPatch, content: bytes, network: str, top1: float | None = 90.0) -> str:
    """Makes the content the only public weights there are; returns their file name."""
    prefix = hashlib.sha256(content).hexdigest()[:8]
    file = f"{network}-{prefix}.pth"
    row = PublicWeights(network, file, prefix, f"http://weights.invalid/{file}", 1.0, top1, None, 32, 32, license=None)
    monkeypatch.setattr(catalogue, "PUBLIC", (row,))
    return file


@pytest.mark.parametrize("name", ["resnet50_v1", "resnet101"])
def test_a_public_file_of_another_network_is_refused_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = publish(monkeypatch, b"torchvision's", "resnet50")
    (tmp_path / "cats.pth").write_bytes(b"torchvision's")
    with pytest.raises(WeightsError, match=f"cats.pth is the public {file} of resnet50, not of {name}"):
        load(find(name), str(tmp_path / "cats.pth"))


def test_a_public_file_without_a_classifier_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, b"features", "resnet20", top1=None)
    (tmp_path / "mine.pth").write_bytes(b"features")
    with pytest.raises(WeightsError, match="holds features and no usable classifier"):
        load(RESNET20, str(tmp_path / "mine.pth"))


def test_a_file_that_only_has_the_name_of_a_public_one_is_refused(tmp_path: Path, state: State) -> None:
    path = save(tmp_path, state, "resnet20-12fca82f.th")
    with pytest.raises(WeightsError, match=r"resnet20-12fca82f.th is not the public file of this name"):
        load(RESNET20, path)


def test_a_network_of_the_users_own_takes_public_weights(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, state)
    publish(monkeypatch, Path(path).read_bytes(), "resnet32")
    assert_same(load(replace(RESNET20, name="mine:build"), path).network.state_dict(), state)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet50", "resnet50 halves the grid at the 3x3 convolution of a block, resnet50_v1 at the other"),
        (
            "resnet101_v1",
            "resnet101_v1 halves the grid at the first 1x1 convolution of a block, resnet101 at the other",
        ),
    ],
)
def test_the_stride_that_shapes_cannot_tell_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, words: str
) -> None:
    path = save(tmp_path, {})
    with caplog.at_level("INFO", "export.weights"), pytest.raises(WeightsError, match="missing"):
        load(find(name), path)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(words)


def test_nothing_is_said_of_strides_where_there_is_one_form_or_the_file_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path, {})
    with caplog.at_level("INFO", "export.weights"):
        with pytest.raises(WeightsError, match="missing"):
            load(find("resnet18"), path)
        publish(monkeypatch, Path(path).read_bytes(), "resnet50")
        with pytest.raises(WeightsError, match="missing"):
            load(find("resnet50"), path)
    assert caplog.messages == []


def test_a_public_file_is_found_in_the_cache(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    content = Path(save(tmp_path, state)).read_bytes()
    file = publish(monkeypatch, content, "resnet20")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=f"{file} is not here; multicrop-export weights fetch {file} downloads it"):
        load(RESNET20, file)
    (tmp_path / "multicrop").mkdir()
    (tmp_path / "multicrop" / file).write_bytes(content)
    loaded = load(RESNET20, file)
    assert_same(loaded.network.state_dict(), state)
    assert (loaded.source.name, str(loaded.source.sha256)[:8]) == (file, file[-12:-4])
    (tmp_path / file).write_bytes(b"damaged")  # a file here comes before the cache
    with pytest.raises(WeightsError, match="is not the public file of this name"):
        load(RESNET20, file)


def test_the_public_weights_of_resnet20(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "export.weights"):
        loaded = load(RESNET20, str(shared / "weights" / "cifar10_resnet20-12fca82f.th"))
    row = catalogue.find(str(loaded.source.sha256))
    assert row is not None
    assert (row.network, caplog.messages) == ("resnet20", [])
    with pytest.raises(WeightsError, match=r"the public resnet20-12fca82f.th of resnet20, not of resnet32"):
        load(find("resnet32"), str(shared / "weights" / "cifar10_resnet20-12fca82f.th"))


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
    network = Normalize(random_network(architecture, seed), architecture.preprocessing).eval()
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
