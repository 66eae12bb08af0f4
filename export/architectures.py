"""The table of the networks: how each is built, what it wants to see, and how exactly its graph must answer.

Class count and input channels come from the checkpoint; the ones here are only what a network without one has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from bundle.manifest import Input
from export.errors import ExportError
from export.models.lenet import LeNet5
from export.models.resnet import BasicBlock, Bottleneck, ResNet
from export.models.resnet_cifar import CifarResNet

Means = tuple[float, ...]
"""One value for each input channel."""


@dataclass(frozen=True)
class Architecture:
    name: str
    build: Callable[[int, int], nn.Module]
    """(classes, channels) -> the network, taking normalised float NCHW."""
    stem: str
    """The key of the weight whose columns are the input channels."""
    head: str
    """The key of the weight whose rows are the classes."""
    classes: int
    channels: int
    size: int
    """Height and width of the input."""
    resize: int
    """The shorter side of an image before the crop."""
    mean: Means
    std: Means
    """Of pixels in [0, 1]: the network sees (pixel / 255 - mean) / std."""
    dynamic: bool
    """Whether the graph takes other heights and widths."""
    tolerance: float
    """The bound on the largest |difference| from torch by the largest |logit|: a few times what random weights show."""

    @property
    def input(self) -> Input:
        """What the manifest says of the input."""
        return Input(
            height=self.size,
            width=self.size,
            channels=3 if self.channels == 3 else 1,  # noqa: PLR2004 RGB
            dynamic=self.dynamic,
            resize=self.resize,
        )

    def shaped(self, classes: int, channels: int) -> "Architecture":
        """The same row for a checkpoint's classes and channels; for grey the statistics of RGB are averaged."""

        def spread(values: Means) -> Means:
            return values if channels == self.channels else (sum(values) / len(values),) * channels

        return replace(self, classes=classes, channels=channels, mean=spread(self.mean), std=spread(self.std))


def find(name: str) -> Architecture:
    """The row of a network.

    Raises:
        ExportError: no network has this name.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise ExportError(f"there is no network {name!r}; choose one of {', '.join(ARCHITECTURES)}") from None


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# LeCun et al. (1998): a background pixel is -0.1, a foreground pixel 1.175.
LENET = Architecture(
    "lenet5",
    LeNet5,
    stem="conv1.weight",
    head="fc3.weight",
    classes=10,
    channels=1,
    size=32,
    resize=36,
    mean=(0.1 / 1.275,),
    std=(1 / 1.275,),
    dynamic=False,
    tolerance=2e-5,  # measured: 2e-6
)


def imagenet(
    name: str, block: type[BasicBlock | Bottleneck], blocks: Sequence[int], *, v1: bool = False
) -> Architecture:
    return Architecture(
        name,
        partial(ResNet, block, tuple(blocks), v1=v1),
        stem="conv1.weight",
        head="fc.weight",
        classes=1000,
        channels=3,
        size=224,
        resize=256,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        dynamic=True,
        tolerance=1e-4 if sum(blocks) > 16 else 5e-5,  # noqa: PLR2004 measured: 2e-5 for resnet152, 7e-6 for resnet50
    )


def cifar(n: int) -> Architecture:
    return Architecture(
        f"resnet{6 * n + 2}",
        partial(CifarResNet, n),
        stem="conv1.weight",
        head="linear.weight",
        classes=10,
        channels=3,
        size=32,
        resize=32,
        mean=IMAGENET_MEAN,  # as the public weights want, for CIFAR too
        std=IMAGENET_STD,
        dynamic=True,
        tolerance=2e-5,  # measured: 2e-6 for resnet20, 5e-6 for resnet110
    )


ARCHITECTURES: dict[str, Architecture] = {
    row.name: row
    for row in (
        LENET,
        imagenet("resnet18", BasicBlock, (2, 2, 2, 2)),
        imagenet("resnet34", BasicBlock, (3, 4, 6, 3)),
        imagenet("resnet50", Bottleneck, (3, 4, 6, 3)),
        imagenet("resnet101", Bottleneck, (3, 4, 23, 3)),
        imagenet("resnet152", Bottleneck, (3, 8, 36, 3)),
        imagenet("resnet50_v1", Bottleneck, (3, 4, 6, 3), v1=True),
        imagenet("resnet101_v1", Bottleneck, (3, 4, 23, 3), v1=True),
        imagenet("resnet152_v1", Bottleneck, (3, 8, 36, 3), v1=True),
        *map(cifar, (3, 5, 7, 9, 18)),
    )
}
