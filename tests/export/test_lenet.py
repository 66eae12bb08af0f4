"""LeNet-5 of 1998 against the counts of its paper, and Caffe's against its example."""

import numpy as np
import pytest
import torch
from torch import nn

from export.architectures import find
from export.graph import Normalize
from export.models.lenet import C3, LeNet5Of1998, RadialBasis, SparseMaps, Subsampling, codes, squash
from export.verify import ask, sample_images
from export.weights import random_network
from frozen import freeze
from parity import worst

# The columns of the paper's table I: the maps of S2 that each map of C3 sees.
TABLE_1 = (
    *({0, 1, 2}, {1, 2, 3}, {2, 3, 4}, {3, 4, 5}, {0, 4, 5}, {0, 1, 5}),
    *({0, 1, 2, 3}, {1, 2, 3, 4}, {2, 3, 4, 5}, {0, 3, 4, 5}, {0, 1, 4, 5}, {0, 1, 2, 5}),
    *({0, 1, 3, 4}, {1, 2, 4, 5}, {0, 2, 3, 5}, {0, 1, 2, 3, 4, 5}),
)


def test_each_map_of_c3_sees_the_maps_of_table_1_and_no_other() -> None:
    layer = SparseMaps()
    x = torch.randn(1, 6, 5, 5)
    before = layer(x)
    for source in range(6):
        disturbed = x.clone()
        disturbed[:, source] += 1
        changed = (layer(disturbed) != before).flatten().nonzero().flatten().tolist()
        assert changed == [target for target, sources in enumerate(TABLE_1) if source in sources]
    assert sum(map(len, TABLE_1)) == 60


def test_a_map_of_c3_is_the_sum_of_its_kernels() -> None:
    layer = SparseMaps()
    x = torch.randn(2, 6, 8, 9)
    conv = layer.convs[1]
    assert isinstance(conv, nn.Conv2d)
    sources = C3[1][3]  # map 9
    expected = sum(
        torch.nn.functional.conv2d(x[:, source : source + 1], conv.weight[3:4, index : index + 1])
        for index, source in enumerate(sources)
    )
    assert conv.bias is not None
    torch.testing.assert_close(layer(x)[:, 9:10], expected + conv.bias[3])


def test_parameters_of_each_layer_are_the_papers() -> None:
    network = LeNet5Of1998()
    counts = {name: sum(p.numel() for p in layer.parameters()) for name, layer in network.named_children()}
    assert counts == {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164, "rbf": 0}
    assert network.rbf.codes.numel() == 840


def test_connections_are_the_papers() -> None:
    """Every product with a weight, every bias, and every point that a subsampling reads, at every place."""
    grids: dict[str, tuple[int, ...]] = {}
    network = LeNet5Of1998()
    for name, layer in network.named_children():
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: grids.update({name: output.shape[1:]}))
    network(torch.zeros(1, 1, 32, 32))
    parameters = {name: sum(p.numel() for p in layer.parameters()) for name, layer in network.named_children()}
    places = {name: int(np.prod(shape[1:])) for name, shape in grids.items()}
    connections = {name: parameters[name] * places[name] for name in ("c1", "c3", "c5", "f6")}
    connections |= {name: 5 * int(np.prod(grids[name])) for name in ("s2", "s4")} | {"rbf": 840}
    assert connections["c1"] == 122_304
    assert connections["s2"] == 5_880
    assert connections["c3"] == 151_600
    assert sum(connections.values()) == 340_908


def test_subsampling_is_the_sum_times_a_weight_plus_a_bias() -> None:
    layer = Subsampling(2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, 3.0]))
        layer.bias.copy_(torch.tensor([0.5, -1.0]))
    x = torch.arange(16.0).reshape(1, 2, 2, 4)
    assert layer(x).tolist() == [[[[(0 + 1 + 4 + 5) * 2 + 0.5, (2 + 3 + 6 + 7) * 2 + 0.5]], [[125.0, 149.0]]]]


def test_the_activation_takes_one_to_one() -> None:
    assert squash(torch.tensor([0.0, 1.0, -1.0, 100.0])).tolist() == pytest.approx([0, 1, -1, 1.7159], abs=1e-4)


def test_the_answer_is_minus_the_squared_distance_to_each_code() -> None:
    x = torch.randn(3, 84)
    expected = [[-((row - code) ** 2).sum().item() for code in codes(10)] for row in x]
    np.testing.assert_allclose(RadialBasis(10)(x).numpy(), expected, rtol=1e-5)


def test_codes_are_plus_and_minus_one_and_far_apart() -> None:
    for classes in (3, 10, 37):
        values = codes(classes)
        assert values.shape == (classes, 84)
        assert set(values.flatten().tolist()) == {-1.0, 1.0}
        apart = (values[:, None] != values).sum(2) + 84 * torch.eye(classes)
        assert apart.min() >= 5  # of 84 dots
    assert torch.equal(codes(37)[:10], codes(10))


def test_codes_are_drawings_of_the_digits() -> None:
    seven = codes(10)[7].reshape(12, 7)
    assert (seven[0] == 1).all()
    assert seven[1:].argmax(1).tolist() == [0, 5, 4, 4, 3, 3, 2, 2, 1, 1, 1]  # the stroke goes down to the left


def test_codes_are_no_parameters_but_come_with_a_checkpoint() -> None:
    network = LeNet5Of1998()
    assert "rbf.codes" in network.state_dict()
    assert "rbf.codes" not in dict(network.named_parameters())


def test_caffes_pixels_are_divided_by_256() -> None:
    pixels = find("lenet_caffe").preprocessing
    assert (pixels.scale, pixels.mean, pixels.std, find("lenet_caffe").size) == (1 / 256, (0.0,), (1.0,), 28)


@pytest.mark.parametrize("name", ["lenet5_bn", "lenet5_1998", "lenet_caffe"])
def test_random_logits_of_two_photographs_differ_by_about_one(name: str) -> None:
    row = find(name)
    network = Normalize(random_network(row, 0), row.preprocessing).eval()
    china, flower = ask(network, sample_images(2, row.input.size, 1))
    assert 0.3 < np.sqrt(np.mean((china - flower) ** 2)) < 3


@pytest.mark.parametrize("name", ["lenet5_bn", "lenet5_1998", "lenet_caffe"])
def test_the_graph_answers_as_torch(name: str) -> None:
    frozen = freeze(name, "random:0")
    assert worst(frozen) < find(name).tolerance
