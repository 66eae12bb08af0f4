"""The generators against the published networks: parameters, grids, the range of what they draw."""

from collections.abc import Callable

import pytest
import torch

from export.fold import fold_batchnorm
from export.models import deep_image_prior as models
from export.models.deep_image_prior import Generator
from export.restore.recipes import NETS


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (models.skip, 2_217_831),
        (lambda: models.skip(128), 3_002_627),
        (models.hourglass, 2_157_955),
        (models.small, 572_827),
        (lambda: models.encoder_decoder(2), 59_635),
        (lambda: models.encoder_decoder(4), 1_060_339),
        (lambda: models.encoder_decoder(6), 2_996_467),
        (lambda: models.ResNet(1), 158_979),
        (lambda: models.UNet(1), 1_616_315),
    ],
)
def test_the_parameters_are_those_of_the_public_networks(network: Callable[[], Generator], parameters: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in network().parameters()) == parameters


@pytest.mark.parametrize("name", NETS)
def test_the_smallest_grid_is_drawn_on_and_a_smaller_one_is_not(name: str) -> None:
    recipe = next(recipe for net, recipe in NETS.items() if net == name)
    network = recipe.build()
    side = network.smallest
    assert side % network.multiple == 0
    with torch.no_grad():
        drawn = network(recipe.draw(side, side + network.multiple, torch.Generator().manual_seed(0)))
        assert drawn.shape == (1, 3, side, side + network.multiple)
        assert 0 <= drawn.min() < drawn.max() <= 1
        smaller = side - network.multiple
        with pytest.raises((RuntimeError, ValueError)):
            network(torch.rand(1, recipe.channels, smaller, smaller))


def test_coordinates_are_a_z_of_two_channels() -> None:
    z = NETS["hourglass"].draw(3, 5, torch.Generator())
    assert z[0, 0, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert z[0, 1, :, 0].tolist() == [0, 0.5, 1]
    assert (z[0, 0] == z[0, 0, :1]).all()
    assert (z[0, 1] == z[0, 1, :, :1]).all()


def test_a_batchnorm_of_joined_grids_folds_exactly() -> None:
    """It is read by a convolution that reflects, and reflected pixels have been through it; in float64, see it."""
    torch.manual_seed(0)
    network = models.small().double().eval()
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            assert values is not None
            values.uniform_(0.5, 1.5)
    folded, count = fold_batchnorm(network)
    assert count == len(norms)
    assert not [module for module in folded.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    z = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        assert (folded(z) - network(z)).abs().max() < 1e-12
