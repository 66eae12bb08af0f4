"""LeNet-5 four times: as it was in 1998, as it is usually coded again, with BatchNorm, and as Caffe's example.

name           parameters (10 classes)
lenet5              61,706   6-16-120-84-10 with dense maps
lenet5_bn           61,932   the same with BatchNorm; folded it is lenet5 again
lenet5_1998         60,000   and 840 fixed values of the output codes
lenet_caffe        431,080   20-50-500-10
"""

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, max_pool2d


class LeNet5(nn.Module):
    """As it is usually coded again: 6-16-120-84-10.

    Departures from LeCun et al. (1998): C3 sees all maps of S2, the subsampling has no weights, the activation is a
    plain tanh, and the output is linear instead of radial basis functions. The names of the layers are those of
    PyTorch's own tutorial, whose checkpoints are the common ones.
    """

    def __init__(self, classes: int = 10, channels: int = 1, *, batchnorm: bool = False) -> None:
        """`batchnorm`: before each activation (Ioffe and Szegedy, 2015), where a bias would have no effect."""
        super().__init__()
        bias = not batchnorm
        self.conv1 = nn.Conv2d(channels, 6, 5, bias=bias)
        self.conv2 = nn.Conv2d(6, 16, 5, bias=bias)
        self.fc1 = nn.Linear(16 * 5 * 5, 120, bias=bias)
        self.fc2 = nn.Linear(120, 84, bias=bias)
        self.fc3 = nn.Linear(84, classes)
        self.tanh1, self.tanh2, self.tanh3, self.tanh4 = (nn.Tanh() for _ in range(4))
        self.bn1, self.bn2 = (nn.BatchNorm2d(maps) if batchnorm else nn.Identity() for maps in (6, 16))
        self.bn3, self.bn4 = (nn.BatchNorm1d(units) if batchnorm else nn.Identity() for units in (120, 84))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # N x 1 x 32 x 32
        x = self.tanh1(self.bn1(self.conv1(x)))  # N x 6 x 28 x 28
        x = avg_pool2d(x, 2)  # N x 6 x 14 x 14
        x = self.tanh2(self.bn2(self.conv2(x)))  # N x 16 x 10 x 10
        x = avg_pool2d(x, 2)  # N x 16 x 5 x 5
        x = self.tanh3(self.bn3(self.fc1(x.flatten(1))))  # N x 120
        x = self.tanh4(self.bn4(self.fc2(x)))  # N x 84
        logits: torch.Tensor = self.fc3(x)  # N x classes
        return logits


C3 = (
    ((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 0), (5, 0, 1)),
    (
        *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 0), (4, 5, 0, 1), (5, 0, 1, 2)),
        *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    ),
    ((0, 1, 2, 3, 4, 5),),
)
"""The maps of S2 that each of the 16 maps of C3 sees (table I), map by map; together those that see as many."""

# 7 x 12 for each digit, drawn for this file: the paper's own bitmaps are a picture.
DRAWINGS = """
.#####. ...#... .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
##...## ..##... ##...## ##...## ...###. ##..... .##.... ##...## ##...## ##...##
##...## .###... ##...## .....## ..####. ##..... ##..... .....## ##...## ##...##
##...## ####... .....## .....## .##.##. ##..... ##..... ....##. ##...## ##...##
##...## ..##... .....## .....## ##..##. ##..... ##..... ....##. .##.##. ##...##
##.#.## ..##... ....##. ..####. ##..##. ######. ######. ...##.. ..###.. ##...##
##.#.## ..##... ...##.. .....## ##..##. .....## ##...## ...##.. .##.##. .######
##...## ..##... ..##... .....## ####### .....## ##...## ..##... ##...## .....##
##...## ..##... .##.... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ..##... ##..... .....## ....##. .....## ##...## .##.... ##...## .....##
##...## ..##... ##..... ##...## ....##. ##...## ##...## .##.... ##...## ....##.
.#####. ####### ####### .#####. ....##. .#####. .#####. .##.... .#####. .####..
"""


def codes(classes: int) -> torch.Tensor:
    """What F6 should answer for each class, [classes, 84] of -1 and 1: the digits' drawings, then arbitrary codes."""
    rows = [line.split() for line in DRAWINGS.split("\n") if line]
    digits = [[1.0 if dot == "#" else -1.0 for row in rows for dot in row[digit]] for digit in range(10)]
    more = torch.randint(2, (max(classes - 10, 0), 84), generator=torch.Generator().manual_seed(1998), device="cpu")
    return torch.cat([torch.tensor(digits, device="cpu"), 2.0 * more - 1])[:classes]


class Subsampling(nn.Module):
    """The sum over squares of 2 x 2, times a weight for each map, plus a bias for each map."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((maps,), 0.25))
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sums = 4 * avg_pool2d(x, 2)
        return sums * self.weight[:, None, None] + self.bias[:, None, None]


class SparseMaps(nn.Module):
    """C3: each map is a 5 x 5 convolution of its own few maps of S2; 60 kernels instead of 96."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(len(maps) * len(maps[0]), len(maps), 5, groups=len(maps)) for maps in C3)
        self.inputs = [[source for sources in maps for source in sources] for maps in C3]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([conv(x[:, inputs]) for conv, inputs in zip(self.convs, self.inputs, strict=True)], 1)


class RadialBasis(nn.Module):
    """Minus the squared distance to the code of each class: the likeliest class has the largest answer.

    The paper's output is the distance itself, and its loss is that of the right class; with this sign a softmax makes
    of it the same posterior, up to the temperature.
    """

    codes: torch.Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.empty(classes, 84))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.codes.copy_(codes(len(self.codes)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # N x 84
        return -(x[:, None] - self.codes).square().sum(2)


def squash(x: torch.Tensor) -> torch.Tensor:
    """1.7159 tanh(2x/3): 1 and -1, the values of the codes, are not at its ends but where it bends most."""
    return 1.7159 * torch.tanh(x * (2 / 3))


class LeNet5Of1998(nn.Module):
    """LeCun et al. (1998), section II: sparse C3, trainable subsampling, scaled tanh, radial basis functions."""

    def __init__(self, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(channels, 6, 5)  # 156 parameters
        self.s2 = Subsampling(6)  # 12
        self.c3 = SparseMaps()  # 1,516
        self.s4 = Subsampling(16)  # 32
        self.c5 = nn.Conv2d(16, 120, 5)  # 48,120
        self.f6 = nn.Linear(120, 84)  # 10,164
        self.rbf = RadialBasis(classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # N x 1 x 32 x 32
        x = squash(self.c1(x))  # N x 6 x 28 x 28
        x = squash(self.s2(x))  # N x 6 x 14 x 14
        x = squash(self.c3(x))  # N x 16 x 10 x 10
        x = squash(self.s4(x))  # N x 16 x 5 x 5
        x = squash(self.c5(x)).flatten(1)  # N x 120
        x = squash(self.f6(x))  # N x 84
        logits: torch.Tensor = self.rbf(x)  # N x classes
        return logits


class LeNetCaffe(nn.Module):
    """The network of Caffe's MNIST example, with its names: wider, max pooling, and a single ReLU."""

    def __init__(self, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.ip1 = nn.Linear(50 * 4 * 4, 500)
        self.relu = nn.ReLU()
        self.ip2 = nn.Linear(500, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # N x 1 x 28 x 28
        x = max_pool2d(self.conv1(x), 2)  # N x 20 x 12 x 12
        x = max_pool2d(self.conv2(x), 2)  # N x 50 x 4 x 4
        x = self.relu(self.ip1(x.flatten(1)))  # N x 500
        logits: torch.Tensor = self.ip2(x)  # N x classes
        return logits
