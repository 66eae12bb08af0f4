"""The deep image prior: degradations by hand, the fit, and that the frozen generator is the fitted one."""

from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from scipy.interpolate import NearestNDInterpolator
from torch import nn

from bundle.views import Size
from export.errors import ExportError
from export.models.deep_image_prior import encoder_decoder
from export.restore.degradation import Downsampled, Masked, add_noise, lanczos2, psnr, random_mask
from export.restore.fit import Average, Fit, Observation
from export.restore.freeze import draw, freeze, record_statistics, to_onnx
from export.restore.job import Net
from export.restore.recipes import NETS
from export.verify import sample_images


def photograph(height: int, width: int) -> torch.Tensor:
    """A crop of a photograph, [1, 3, height, width]."""
    return torch.from_numpy(sample_images(1, Size(width, height), 3)).permute(0, 3, 1, 2) / 255


def begin(net: Net, iterations: int, side: int = 64, seed: int = 0) -> Fit:
    """A fit to a photograph that is as it should be."""
    observed = Observation(photograph(side, side), nn.Identity(), side, side)
    return Fit(observed, replace(NETS[net], iterations=iterations), seed, average=0.9)


def finished(fit: Fit) -> Fit:
    for _ in fit:
        pass
    return fit


def test_the_kernel_is_lanczos_of_two_lobes_a_half_pixel_off() -> None:
    x = np.array([0.25, 0.75, 1.25, 1.75])  # of factor 2, to the right of the middle
    right = np.sin(np.pi * x) * np.sin(np.pi * x / 2) / (np.pi * x) ** 2 * 2
    whole = np.concatenate([right[::-1], right])
    assert np.allclose(lanczos2(2).numpy(), whole / whole.sum(), atol=1e-12)
    assert len(lanczos2(8)) == 32


@pytest.mark.parametrize("factor", [4, 8])
def test_the_small_picture_is_that_of_the_plain_sum_over_the_kernel(factor: int) -> None:
    picture = torch.rand(1, 3, 3 * factor, 2 * factor)
    kernel = np.outer(lanczos2(factor), lanczos2(factor))
    border = 3 * factor // 2
    around = np.pad(picture[0].numpy(), ((0, 0), (border, border), (border, border)), mode="edge")
    expected = [
        [
            [(plane[y : y + 4 * factor, x : x + 4 * factor] * kernel).sum() for x in (0, factor)]
            for y in range(0, 3 * factor, factor)
        ]
        for plane in around
    ]
    assert np.allclose(Downsampled(factor)(picture)[0], expected, atol=1e-5)


def test_a_ramp_is_seen_at_the_middles_of_its_blocks() -> None:
    ramp = torch.arange(48.0).expand(1, 3, 8, 48)
    small = Downsampled(4)(ramp)
    assert small.shape == (1, 3, 2, 12)
    assert torch.allclose(small[..., 2:-2], (4 * torch.arange(12.0) + 1.5)[2:-2].expand(1, 3, 2, 8), atol=1e-4)


def test_missing_pixels_move_nothing() -> None:
    known = random_mask(10, 12, 0.4, torch.Generator().manual_seed(0))
    assert known.sum() == 72
    masked, picture = Masked(known), photograph(10, 12)
    output = torch.rand(1, 3, 10, 12, requires_grad=True)
    nn.functional.mse_loss(masked(output), masked(picture)).backward()  # type: ignore[no-untyped-call]
    assert output.grad is not None
    assert ((output.grad != 0) == (known > 0)).all()
    assert (masked(picture) == masked(picture + 7 * (1 - known))).all()


def test_the_noise_has_the_levels_that_were_asked_for() -> None:
    noisy = add_noise(torch.full((1, 3, 200, 200), 0.5), 25, torch.Generator().manual_seed(0))
    assert noisy.std().item() == pytest.approx(25 / 255, rel=0.02)


def test_psnr_of_a_tenth_everywhere_is_20_db() -> None:
    assert psnr(0.1**2) == pytest.approx(20)
    assert psnr(0) == float("inf")
    assert np.isnan(psnr(float("nan")))  # and no perfect picture


def test_the_mean_of_outputs_is_weighted_by_age_alone() -> None:
    average = Average(0.5)
    means = [average.add(torch.tensor([value])).item() for value in (1.0, 2.0, 4.0)]
    assert means == pytest.approx([1, (1 + 2 * 2) / 3, (1 + 2 * 2 + 4 * 4) / 7])
    last = Average(0)
    assert [last.add(torch.tensor([value])).item() for value in (1.0, 5.0)] == [1, 5]


def test_half_of_the_pixels_are_filled_in_better_than_by_their_neighbours() -> None:
    picture = photograph(64, 64)
    known = random_mask(64, 64, 0.5, torch.Generator().manual_seed(0))
    masked = Masked(known)
    recipe = replace(NETS["encoder-decoder"], build=partial(encoder_decoder, 3), iterations=200)
    *_, step = Fit(Observation(masked(picture), masked, 64, 64), recipe, 0, 0.95)
    places = np.argwhere(known[0, 0].numpy() > 0)
    values = picture[0].permute(1, 2, 0).numpy()
    nearest = NearestNDInterpolator(places, values[*places.T])(*np.indices((64, 64)))
    missing = known[0, 0] == 0

    def error(other: torch.Tensor) -> float:
        return psnr(((other - picture)[0, :, missing] ** 2).mean().item())

    found, filled = error(step.picture), error(torch.from_numpy(nearest).permute(2, 0, 1)[None])
    print(f"{found:.2f} dB, nearest {filled:.2f} dB")
    assert found > filled + 1


def test_the_same_seed_gives_the_same_picture_and_another_seed_another() -> None:
    first, again, other = (finished(begin("small", 5, seed=seed)).last() for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


def test_a_fit_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    finished(begin("small", 2))
    assert (torch.rand(3) == expected).all()


def test_a_fit_that_falls_apart_goes_on_with_earlier_weights() -> None:
    fit = begin("small", 60)
    steps = iter(fit)
    before = [step.fitted for step in islice(steps, 30)][-1]
    assert fit.generator.network.colours.bias is not None
    with torch.no_grad():
        fit.generator.network.colours.bias.fill_(1e4)  # white, without any gradient: no step leads out of it
    assert [step.fitted for step in islice(steps, 9)][-1] < before - 5
    assert fit.restarts == 0
    after = next(steps)
    assert fit.restarts == 1
    assert after.number == 41
    assert after.fitted > before - 5


def test_a_fit_that_is_no_number_ends_with_its_step() -> None:
    fit = begin("small", 60)
    steps = iter(fit)
    assert len(list(islice(steps, 30))) == 30
    assert fit.generator.network.colours.bias is not None
    with torch.no_grad():
        fit.generator.network.colours.bias.fill_(float("nan"))
    with pytest.raises(ExportError, match="what the generator draws is no number any more"):
        fit.last()
    with pytest.raises(ExportError, match="the fit at step 31 is no number any more; take another --seed"):
        next(steps)


def test_a_picture_of_any_size_is_the_middle_of_what_is_drawn() -> None:
    fit = begin("small", 1, side=70)
    assert fit.generator.canvas == (96, 96)
    with torch.no_grad():
        whole = fit.generator.network(fit.z)
    assert torch.allclose(fit.last(), whole[:, :, 13:83, 13:83], atol=1e-6)


@pytest.mark.parametrize("net", ["encoder-decoder", "small", "resnet", "unet"])
def test_the_frozen_generator_draws_what_the_fitted_one_draws(net: Net, tmp_path: Path) -> None:
    fit = finished(begin(net, 8))
    path = tmp_path / "generator.onnx"
    freeze(fit.generator, fit.z, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (own,) = session.run(["picture"], {})
    (given,) = session.run(None, {"z": fit.z.contiguous().numpy()})
    assert own.shape == (1, 3, 64, 64)
    assert (own == given).all()
    assert np.abs(own - fit.last().numpy()).max() <= 1e-4
    (other,) = session.run(None, {"z": np.random.default_rng(0).random(fit.z.shape, np.float32)})
    assert np.abs(own - other).max() > 1e-3
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "BatchNormalization" not in operators
    assert ("InstanceNormalization" in operators) == (net == "unet")


def test_the_unbiased_variance_that_torch_keeps_draws_another_picture() -> None:
    """The recipe of the paper's reproductions: one training pass with momentum 1, then (n - 1) / n of the variance."""
    fit = finished(begin("small", 30))
    network, expected = fit.generator, fit.last()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    counts: dict[nn.Module, int] = {}
    for norm in norms:
        norm.momentum = 1
        norm.register_forward_hook(lambda norm, _, output: counts.update({norm: output[0, 0].numel()}))
    fit.last()
    with torch.no_grad():
        assert (network.eval()(fit.z) - expected).abs().max() > 1e-3
        for norm in norms:
            assert norm.running_var is not None
            norm.running_var *= (counts[norm] - 1) / counts[norm]
        assert (network(fit.z) - expected).abs().max() < 1e-4
    variances = [norm.running_var for norm in norms]
    record_statistics(network, fit.z)
    for norm, variance in zip(norms, variances, strict=True):
        assert norm.momentum == 1
        assert norm.running_var is not None
        assert variance is not None
        assert torch.allclose(norm.running_var, variance, rtol=1e-4)


def test_freezing_leaves_the_fitted_generator_as_it_is() -> None:
    fit = finished(begin("small", 3))
    before = {name: value.clone() for name, value in fit.generator.state_dict().items()}
    expected = fit.last()
    frozen = draw(to_onnx(fit.generator, fit.z))
    assert np.abs(frozen - expected.numpy()).max() <= 1e-4
    assert fit.generator.training
    assert all(
        (value == before[name]).all()
        for name, value in fit.generator.state_dict().items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
