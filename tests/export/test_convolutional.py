"""The dense form: the head of a network over every place of a larger image's feature map."""

from collections import OrderedDict

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from bundle.manifest import Input
from export.architectures import ARCHITECTURES
from export.convolutional import explicit, sliding
from export.exporters import from_program


class Little(nn.Module):
    """Stride 4 to a map of 3 x 3 at its native 12 x 12, and a head on that map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.features = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(36, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class Bundled(nn.Module):
    """What an exporter takes: pixels in, logits and probabilities out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.network(images.float().permute(0, 3, 1, 2))
        return logits, logits.softmax(1)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return Little().eval()


def test_at_native_size_it_is_the_network_itself(network: nn.Module) -> None:
    x = torch.randn(3, 2, 12, 12)
    with torch.inference_mode():
        assert torch.allclose(sliding(network, 3)(x), network(x), atol=1e-6)
        assert torch.equal(explicit(network, 3)(x), network(x))


def test_at_a_larger_size_it_is_the_mean_over_the_places(network: nn.Module) -> None:
    """20 x 16 gives a map of 5 x 4 and the head 3 x 2 places; the sum is written out here."""
    x = torch.randn(2, 2, 20, 16)
    with torch.inference_mode():
        maps = nn.Sequential(OrderedDict(network.named_children()))[0](x)
        head = nn.Sequential(OrderedDict(network.named_children()))[1]
        places = [
            head(maps[:, :, top : top + 3, left : left + 3].reshape(2, 36)) for top in range(3) for left in range(2)
        ]
        expected = torch.stack(places).mean(0)
        assert torch.allclose(sliding(network, 3)(x), expected, atol=1e-6)
        assert torch.allclose(explicit(network, 3)(x), expected, atol=1e-6)


def test_one_graph_takes_any_size(network: nn.Module) -> None:
    wanted = Input(height=12, width=12, channels=3, dynamic=True, resize=12)
    two = nn.Sequential(nn.Conv2d(3, 2, 1), sliding(network, 3)).eval()
    model = from_program(Bundled(two).eval(), wanted, 12)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for height, width in ((12, 12), (12, 13), (20, 16), (31, 47)):
        images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
        with torch.inference_mode():
            expected = Bundled(two)(torch.from_numpy(images))[0].numpy()
        found = session.run(["logits"], {"images": images})[0]
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_networks_that_pool_globally_are_dense_as_they_are(network: nn.Module) -> None:
    assert sliding(network, None) is network
    assert explicit(network, None) is network


def test_the_rows_with_a_window_are_those_with_a_fully_connected_head() -> None:
    found = {name: row.window for name, row in ARCHITECTURES.items() if row.window is not None}
    assert found == {
        name: 6 if name.startswith("alexnet") else 7 for name in ARCHITECTURES if name.startswith(("alexnet", "vgg"))
    }
    assert all(ARCHITECTURES[name].smallest == ARCHITECTURES[name].size for name in found)
