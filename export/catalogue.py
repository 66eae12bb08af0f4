"""The public weights: which file is of which network, how to know it, and how its authors evaluated it.

torchvision 0.28.0's for ImageNet (its meta data: single crop, bilinear, antialiased) and akamaster's ResNets for
CIFAR-10 (the errors of its README). The eight hex digits in a name are the first of the file's sha256.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from export.errors import ExportError

PYTORCH = "https://download.pytorch.org/models/"
AKAMASTER = "https://raw.githubusercontent.com/akamaster/pytorch_resnet_cifar10/master/pretrained_models/"


@dataclass(frozen=True)
class PublicWeights:
    network: str
    """The name in `export.architectures` of the network that they are of."""
    file: str
    sha256_prefix: str
    url: str
    mib: float
    """Size of the file, rounded to a thousandth."""
    top1: float | None
    """Percent, on ImageNet's validation set or CIFAR-10's test set; None: they have no usable classifier."""
    top5: float | None
    resize: int
    """The shorter side of an image before the crop: part of the weights, for it may differ from the network's row."""
    crop: int
    license: str | None
    """Of the weights, where their authors name one; torchvision's are under the terms of the data they learned from."""


def find(sha256: str) -> PublicWeights | None:
    """The public weights that a file with this digest holds; None for a file that is not public."""
    return next((row for row in PUBLIC if sha256.startswith(row.sha256_prefix)), None)


def named(file: str) -> PublicWeights | None:
    """The public weights of this file name."""
    return next((row for row in PUBLIC if row.file == file), None)


def matching(name: str) -> tuple[PublicWeights, ...]:
    """The rows of a file, of a network, or of `all`.

    Raises:
        ExportError: nothing has this name.
    """
    rows = tuple(row for row in PUBLIC if name in ("all", row.network, row.file))
    if not rows:
        raise ExportError(f"there are no public weights {name!r}; multicrop-export weights list shows them all")
    return rows


def chosen(names: Iterable[str]) -> tuple[PublicWeights, ...]:
    """The rows that these names mean, each once; of a network the most accurate file."""
    rows: dict[PublicWeights, None] = {}
    for name in names:
        found = matching(name)
        of_a_network = name != "all" and len(found) > 1
        rows |= dict.fromkeys([max(found, key=lambda row: row.top1 or 0)] if of_a_network else found)
    return tuple(rows)


def _imagenet(
    network: str, file: str, top1: float | None, top5: float | None, mib: float, resize: int = 256, crop: int = 224
) -> PublicWeights:
    digits = file.removesuffix(".pth").rpartition("-")[2]
    return PublicWeights(network, file, digits, PYTORCH + file, mib, top1, top5, resize, crop, license=None)


def _cifar(network: str, digits: str, top1: float, mib: float) -> PublicWeights:
    file = f"{network}-{digits}.th"
    return PublicWeights(network, file, digits, AKAMASTER + file, mib, top1, None, 32, 32, license="BSD-2-Clause")


PUBLIC: tuple[PublicWeights, ...] = (
    _imagenet("alexnet", "alexnet-owt-7be5be79.pth", 56.522, 79.066, 233.087),
    _imagenet("vgg11", "vgg11-8a719046.pth", 69.020, 88.628, 506.840),
    _imagenet("vgg11_bn", "vgg11_bn-6002323d.pth", 70.370, 89.810, 506.881),
    _imagenet("vgg13", "vgg13-19584684.pth", 69.928, 89.246, 507.545),
    _imagenet("vgg13_bn", "vgg13_bn-abd245e5.pth", 71.586, 90.374, 507.590),
    _imagenet("vgg16", "vgg16-397923af.pth", 71.592, 90.382, 527.796),
    _imagenet("vgg16", "vgg16_features-amdegroot-88682ab5.pth", None, None, 527.802),
    _imagenet("vgg16_bn", "vgg16_bn-6c64b313.pth", 73.360, 91.516, 527.866),
    _imagenet("vgg19", "vgg19-dcbb9e9d.pth", 72.376, 90.876, 548.051),
    _imagenet("vgg19_bn", "vgg19_bn-c79401a0.pth", 74.218, 91.842, 548.143),
    _imagenet("googlenet", "googlenet-1378be20.pth", 69.778, 89.530, 49.731),
    _imagenet("inception_v3", "inception_v3_google-0cc3c7bd.pth", 77.294, 93.450, 103.903, 342, 299),
    _imagenet("resnet18", "resnet18-f37072fd.pth", 69.758, 89.078, 44.661),
    _imagenet("resnet34", "resnet34-b627a593.pth", 73.314, 91.420, 83.275),
    _imagenet("resnet50", "resnet50-0676ba61.pth", 76.130, 92.862, 97.781),
    _imagenet("resnet50", "resnet50-11ad3fa6.pth", 80.858, 95.434, 97.790, 232),
    _imagenet("resnet101", "resnet101-63fe2227.pth", 77.374, 93.546, 170.511),
    _imagenet("resnet101", "resnet101-cd907fc2.pth", 81.886, 95.780, 170.530, 232),
    _imagenet("resnet152", "resnet152-394f9c45.pth", 78.312, 94.046, 230.434),
    _imagenet("resnet152", "resnet152-f82ba261.pth", 82.284, 96.002, 230.474, 232),
    _cifar("resnet20", "12fca82f", 91.73, 1.048),
    _cifar("resnet32", "d509ac18", 92.63, 1.802),
    _cifar("resnet44", "014dd654", 93.10, 2.557),
    _cifar("resnet56", "4bfd9763", 93.39, 3.311),
)
