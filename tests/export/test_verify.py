"""A comparison that fails when it should."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bundle.errors import BundleError
from bundle.golden import Golden
from bundle.manifest import Input, Parity
from bundle.views import Size
from export.architectures import find
from export.errors import ExportError, GraphError, ParityError
from export.verify import (
    compare,
    find_images,
    golden,
    open_session,
    own_samples,
    parity_samples,
    require,
    run,
    sample_images,
)
from frozen import Frozen, freeze


def parity(frozen: Frozen, reference: nn.Module | None = None) -> Parity:
    architecture = frozen.loaded.architecture
    samples = parity_samples(architecture.input)
    return compare(reference or frozen.reference, frozen.model, samples, architecture.tolerance)


class Swapped(nn.Module):
    """Answers for the first image with the second's answer, and the other way round."""

    def __init__(self, reference: nn.Module) -> None:
        super().__init__()
        self.reference = reference

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        order = [1, 0, *range(2, len(images))] if len(images) > 1 else [0]
        logits, probabilities = self.reference(images)
        return logits[order], probabilities[order]


def test_graph_and_torch_agree_at_four_batch_sizes_and_two_other_shapes(resnet20: Frozen) -> None:
    report = parity(resnet20)
    assert [(case.batch, case.height, case.width) for case in report.cases] == [
        (1, 32, 32),
        (2, 32, 32),
        (7, 32, 32),
        (32, 32, 32),
        (2, 37, 41),
        (1, 48, 32),
    ]
    assert all(case.top1_agreement == 1 and 0 < case.max_rel < report.tolerance for case in report.cases)
    require(report)


def test_a_fixed_network_is_compared_at_its_own_size(lenet5: Frozen) -> None:
    report = parity(lenet5)
    assert [(case.batch, case.height, case.width) for case in report.cases] == [(n, 32, 32) for n in (1, 2, 7, 32)]
    require(report)


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_swapping_two_images_fails_the_comparison(name: str, request: pytest.FixtureRequest) -> None:
    frozen: Frozen = request.getfixturevalue(name)
    report = parity(frozen, Swapped(frozen.reference))
    assert all(case.max_rel > 0.1 for case in report.cases if case.batch > 1)
    with pytest.raises(
        ParityError, match=r"batch 2 at 32 x 32 by .*; batch 7 at .*; batch 32 at .*is allowed"
    ) as caught:
        require(report)
    assert caught.value.parity == report
    assert "batch 1 at" not in str(caught.value)


@pytest.mark.slow
def test_swapping_two_images_fails_the_comparison_of_resnet50() -> None:
    frozen = freeze("resnet50", "random:0")
    samples = parity_samples(frozen.loaded.architecture.input)[1:2]
    require(compare(frozen.reference, frozen.model, samples, 5e-5))
    report = compare(Swapped(frozen.reference), frozen.model, samples, 5e-5)
    assert report.cases[0].max_rel > 0.1
    with pytest.raises(ParityError):
        require(report)


@pytest.mark.parametrize("key", ["conv1", "layer3.2.conv2", "linear"])
def test_one_disturbed_layer_fails_the_comparison(resnet20: Frozen, key: str) -> None:
    disturbed = copy.deepcopy(resnet20.reference)
    weight = disturbed.network.get_submodule(key).weight
    assert isinstance(weight, torch.Tensor)
    weight.data[0] *= 1.01
    with pytest.raises(ParityError):
        require(parity(resnet20, disturbed))


def test_answers_that_are_not_finite_are_refused(lenet5: Frozen) -> None:
    broken = copy.deepcopy(lenet5.reference)
    broken.std.fill_(float("nan"))
    with pytest.raises(GraphError, match="logits are zero or not finite at batch 1, 32 x 32"):
        parity(lenet5, broken)


def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(GraphError, match="ONNX Runtime does not take the graph"):
        open_session(b"no graph")


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_are_photographs_crops_and_noise_all_different(channels: int) -> None:
    images = sample_images(32, Size(48, 40), channels)
    assert images.shape == (32, 40, 48, channels)
    assert len({image.tobytes() for image in images}) == 32
    roughness = np.abs(np.diff(images.astype(float), axis=2)).mean((1, 2, 3))
    assert roughness[3::4].min() > 80  # noise: 85 for independent uniform pixels
    assert np.delete(roughness, np.s_[3::4]).max() < 50


def test_samples_are_the_same_for_the_same_seed() -> None:
    size = Size(32, 32)
    assert np.array_equal(sample_images(6, size, 3, seed=1), sample_images(6, size, 3, seed=1))
    assert not np.array_equal(sample_images(6, size, 3, seed=1), sample_images(6, size, 3, seed=2))


def test_batches_are_the_ones_that_are_promised() -> None:
    wanted = Input(height=8, width=8, channels=1, dynamic=False, resize=8)
    assert [len(images) for images in parity_samples(wanted)] == [1, 2, 7, 32]


def test_golden_answers_accept_the_graph_and_refuse_another(resnet20: Frozen) -> None:
    made = golden(resnet20.reference, find("resnet20").input)
    again = Golden.from_bytes(made.to_bytes())
    assert (len(again.images), again.logits.shape) == (4, (4, 10))
    logits = run(open_session(resnet20.model), again.images)
    assert again.check(logits, "cpu") < 1e-5
    with pytest.raises(BundleError, match="the answers are off"):
        again.check(logits[::-1], "cpu")


# --- the user's own images


def photo(path: Path, seed: int = 0, size: tuple[int, int] = (60, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def test_own_images_are_found_in_the_order_of_their_names(tmp_path: Path) -> None:
    paths = [photo(tmp_path / name) for name in ("b.png", "a/z.webp", "a/y.JPG", "c.jpeg")]
    (tmp_path / "Thumbs.db").touch()
    assert find_images(tmp_path) == sorted(paths)


def test_of_many_images_64_evenly_spaced_ones_are_taken(tmp_path: Path) -> None:
    for number in range(640):
        (tmp_path / f"{number:03}.png").touch()
    assert [path.stem for path in find_images(tmp_path)] == [f"{number:03}" for number in range(0, 640, 10)]


def test_own_images_are_seen_as_the_service_sees_them(tmp_path: Path) -> None:
    wanted = Input(height=16, width=16, channels=3, dynamic=False, resize=20, interpolation="bicubic")
    paths = [photo(tmp_path / f"{number}.png", number) for number in range(33)]
    samples = own_samples(paths, wanted)
    assert [len(images) for images in samples] == [32, 1]
    # 60 x 40 becomes 30 x 20; the centre of that
    plain = Image.open(paths[32]).resize((30, 20), Image.Resampling.BICUBIC).crop((7, 2, 23, 18))
    np.testing.assert_array_equal(samples[1][0], np.asarray(plain))


def test_no_images_make_no_samples() -> None:
    assert own_samples([], Input(height=8, width=8, channels=1, dynamic=False, resize=8)) == []


@pytest.mark.parametrize("make", [lambda _: None, Path.touch, Path.mkdir])
def test_a_folder_without_images_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "photos")
    with pytest.raises(ExportError, match=r"photos (is no folder|holds no \.jpg, .* file); check the path"):
        find_images(tmp_path / "photos")


def test_a_damaged_image_is_refused_by_name(tmp_path: Path) -> None:
    photo(tmp_path / "bad.png").write_bytes(photo(tmp_path / "good.png").read_bytes()[:500])
    wanted = Input(height=8, width=8, channels=1, dynamic=False, resize=8)
    with pytest.raises(ExportError, match=r"bad.png, given with --images: .*cut short"):
        own_samples(find_images(tmp_path), wanted)
