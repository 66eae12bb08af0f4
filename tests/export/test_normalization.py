"""Local response normalisation against a sum written out by hand, and as one node of ONNX."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from export.architectures import Architecture, Preprocessing
from export.graph import serialize, to_onnx
from export.models import googlenet
from export.models.alexnet import AlexNet2012
from export.models.normalization import LocalResponseNorm
from export.models.vgg import CONFIGS, VGG
from frozen import freeze

Array = npt.NDArray[np.float64]


def by_hand(a: Array, n: int, alpha: float, beta: float, k: float) -> Array:
    """The formula of section 3.3 of the paper, with its own names: alpha multiplies the sum."""
    count = a.shape[1]
    b = np.empty_like(a)
    for i in range(count):
        total = np.zeros_like(a[:, i])
        for j in range(max(0, i - n // 2), min(count - 1, i + n // 2) + 1):
            total += a[:, j] ** 2
        b[:, i] = a[:, i] / (k + alpha * total) ** beta
    return b


PAPERS: list[tuple[Callable[[], nn.Module], tuple[int, float, float, float]]] = [
    (LocalResponseNorm, (5, 1e-4, 0.75, 2.0)),  # alexnet_2012 and vgg11_lrn
    (googlenet.PAPER.norm, (5, 1e-4 / 5, 0.75, 1.0)),  # Caffe's constants, whose alpha is divided by 5
    (lambda: LocalResponseNorm(3, 0.5, 0.25, 1.5), (3, 0.5, 0.25, 1.5)),
]


class Alone(nn.Module):
    """The normalisation of pixels as they are, and what makes logits of it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.mix, self.norm = nn.Conv2d(3, 12, 1), norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.norm(self.mix(x))).flatten(1)


@pytest.mark.parametrize(("norm", "constants"), PAPERS)
@pytest.mark.parametrize("training", [False, True])
def test_torch_is_the_sum_by_hand(
    norm: Callable[[], nn.Module], constants: tuple[int, float, float, float], training: bool
) -> None:
    a = np.random.default_rng(0).normal(0, 60, (2, 12, 3, 5))
    found = norm().train(training)(torch.from_numpy(a)).numpy()
    np.testing.assert_allclose(found, by_hand(a, *constants), rtol=1e-12)


@pytest.mark.parametrize(("norm", "constants"), PAPERS)
def test_onnx_runtime_is_the_sum_by_hand(
    norm: Callable[[], nn.Module], constants: tuple[int, float, float, float]
) -> None:
    network = Alone(norm()).eval()
    pixels = Preprocessing(8, (0.0,) * 3, (1.0,) * 3, scale=1.0)
    row = Architecture("alone", Alone, "", "", 12 * 16, 3, 4, pixels, dynamic=False, tolerance=1e-6)
    model = to_onnx(network, row)
    assert [node.op_type for node in model.graph.node].count("LRN") == 1
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    session = onnxruntime.InferenceSession(serialize(model), providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"images": images})[0].reshape(5, 12, 4, 4)
    weight, bias = (value.detach().double().numpy() for value in network.mix.parameters())
    a = np.einsum("oi,nhwi->nohw", weight[:, :, 0, 0], images.astype(np.float64)) + bias[:, None, None]
    # Single precision: a sum of 12 squares and a power round to a few units in the last place.
    assert (np.abs(found - by_hand(a, *constants)) / np.abs(a).max()).max() < 1e-6


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (AlexNet2012, 2),
        (lambda: VGG(CONFIGS["vgg11_lrn"]), 1),
        (lambda: googlenet.GoogLeNet(googlenet.PAPER), 2),
    ],
)
def test_networks_normalise_where_the_papers_say(build: Callable[[], nn.Module], count: int) -> None:
    with torch.device("meta"):
        modules = list(build().modules())
    assert sum(isinstance(module, LocalResponseNorm) for module in modules) == count


def test_training_has_a_gradient() -> None:
    x = torch.randn(1, 7, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LocalResponseNorm(alpha=0.1).train(), x)


def test_an_even_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="4 channels have no middle"):
        LocalResponseNorm(4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet_2012", "googlenet_2014"])
def test_the_graph_holds_one_node_for_each_normalisation(name: str) -> None:
    nodes = onnx.load_from_string(freeze(name, "random:0").model).graph.node
    constants = [{a.name: a.i or round(a.f, 9) for a in node.attribute} for node in nodes if node.op_type == "LRN"]
    expected = {"alpha": 5e-4, "bias": 2.0} if name == "alexnet_2012" else {"alpha": 1e-4, "bias": 1.0}
    assert constants == [{"size": 5, "beta": 0.75} | expected] * 2
