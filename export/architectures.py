"""The table of the networks: how each is built, what it wants to see, and how exactly its graph must answer.

Class count and input channels come from the checkpoint; the ones here are only what a network without one has.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import nn

from bundle.manifest import Input
from bundle.preprocess import Interpolation
from export.errors import ExportError
from export.models import bn_inception, googlenet
from export.models.alexnet import AlexNet, AlexNet2012
from export.models.bn_inception import BNInception
from export.models.googlenet import GoogLeNet
from export.models.inception import InceptionV2, InceptionV3
from export.models.lenet import LeNet5, LeNet5Of1998, LeNetCaffe
from export.models.resnet import BasicBlock, Bottleneck, ResNet, Shortcuts
from export.models.resnet_cifar import CifarResNet
from export.models.vgg import CONFIGS, VGG

Statistics = tuple[float, ...]
"""One value for each input channel, in the network's order of channels."""


@dataclass(frozen=True)
class Preprocessing:
    """What the network sees of an image: (pixel * scale - mean) / std, of pixels from 0 to 255."""

    resize: int
    """The shorter side of an image before the crop."""
    mean: Statistics
    std: Statistics
    scale: float = 1 / 255
    channels: Literal["rgb", "bgr", "grey"] = "rgb"
    """The order in which the network takes them; the graph's own input is always RGB, or grey."""
    interpolation: Interpolation = "bilinear"

    def spread(self, channels: int) -> "Preprocessing":
        """The same for 1 or 3 channels: where their number changes, each has the mean of the statistics."""
        if channels == len(self.mean):
            return self
        mean, std = ((sum(values) / len(values),) * channels for values in (self.mean, self.std))
        return replace(self, mean=mean, std=std, channels="grey" if channels == 1 else "rgb")


@dataclass(frozen=True)
class Architecture:
    name: str
    build: Callable[..., nn.Module]
    """(classes, channels) -> the network, taking normalised float NCHW; `auxiliary=True` adds heads for training."""
    stem: str
    """The key of the first layer's weight, which shows how many channels come in."""
    head: str
    """The key of the weight whose rows are the classes."""
    classes: int
    channels: int
    size: int
    """Height and width of the input."""
    preprocessing: Preprocessing
    """How its training saw images, unless the weights say otherwise."""
    dynamic: bool
    """Whether the graph takes other heights and widths."""
    tolerance: float
    """The bound on the largest |difference| from torch by the largest |logit|: a few times what random weights show."""
    smallest: int = 8
    """The smallest height and width that the graph takes, where others than its own."""
    window: int | None = None
    """Height and width of the feature map that a fully connected head takes (export/convolutional.py)."""
    auxiliary: tuple[str, ...] = ()
    """How the keys of the heads begin that are there for training only: checkpoints hold them, the graph does not."""
    depthwise: int = 0
    """The rows of the stem's weight for each input channel, where each row sees one channel only; 0: it is not so."""
    width: int | None = None
    """Of the input, where it is not the height."""
    activation: str | None = None
    """In place of the network's own, where it was trained so; `build` knows it."""

    def channels_of(self, stem: tuple[int, ...]) -> int:
        """How many channels a network with a stem's weight of this shape takes."""
        return stem[0] // self.depthwise if self.depthwise else stem[1]

    @property
    def input(self) -> Input:
        """What the manifest says of the input."""
        return Input(
            height=self.size,
            width=self.width or self.size,
            channels=3 if self.channels == 3 else 1,  # noqa: PLR2004 RGB
            dynamic=self.dynamic,
            resize=self.preprocessing.resize,
            interpolation=self.preprocessing.interpolation,
        )

    def shaped(self, classes: int, channels: int) -> "Architecture":
        """The same row for a checkpoint's classes and channels; for grey the statistics of RGB are averaged."""
        return replace(self, classes=classes, channels=channels, preprocessing=self.preprocessing.spread(channels))


def find(name: str) -> Architecture:
    """The row of a network.

    Raises:
        ExportError: no network has this name.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise ExportError(f"there is no network {name!r}; choose one of {', '.join(ARCHITECTURES)}") from None


IMAGENET = Preprocessing(256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""torchvision's."""

# BVLC subtracts the mean image; these are the means of its channels, as its GoogLeNet has them. The papers say "the
# mean". BVLC also warps images to 256 x 256; here they keep their aspect, as in the papers.
CAFFE = Preprocessing(256, mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), scale=1.0, channels="bgr")

HALVES = (0.5, 0.5, 0.5)
TENSORFLOW = Preprocessing(256, mean=HALVES, std=HALVES)
"""[-1, 1]. torchvision hides the same in `transform_input`, behind the statistics of ImageNet."""

# LeCun et al. (1998): a background pixel is -0.1, a foreground pixel 1.175.
LECUN = Preprocessing(36, mean=(0.1 / 1.275,), std=(1 / 1.275,), channels="grey")


def lenet(
    name: str,
    build: Callable[..., nn.Module],
    tolerance: float,
    *,
    stem: str,
    head: str,
    size: int = 32,
    preprocessing: Preprocessing = LECUN,
) -> Architecture:
    """A row with 10 classes of grey images."""
    return Architecture(
        name,
        build,
        stem=stem,
        head=head,
        classes=10,
        channels=1,
        size=size,
        preprocessing=preprocessing,
        dynamic=False,
        tolerance=tolerance,
    )


def imagenet(
    name: str,
    build: Callable[..., nn.Module],
    tolerance: float,
    *,
    stem: str = "conv1.weight",
    head: str = "fc.weight",
    size: int = 224,
    preprocessing: Preprocessing = IMAGENET,
    smallest: int = 8,
    window: int | None = None,
    auxiliary: tuple[str, ...] = (),
    depthwise: int = 0,
) -> Architecture:
    """A row with 1000 classes of RGB images."""
    return Architecture(
        name,
        build,
        stem=stem,
        head=head,
        classes=1000,
        channels=3,
        size=size,
        preprocessing=preprocessing,
        dynamic=True,
        tolerance=tolerance,
        smallest=smallest if window is None else size,
        window=window,
        auxiliary=auxiliary,
        depthwise=depthwise,
    )


def vgg(name: str, *, batchnorm: bool = False) -> Architecture:
    return imagenet(
        name + "_bn" * batchnorm,
        partial(VGG, CONFIGS[name], batchnorm=batchnorm),
        2e-4,  # measured: 1e-5 for vgg11_lrn, 4e-5 for vgg19
        stem="features.0.weight",
        head="classifier.6.weight",
        window=7,
    )


def basic(name: str, blocks: tuple[int, ...], shortcuts: Shortcuts = "B") -> Architecture:
    # measured: 3e-6, 1e-5 for resnet34_c
    return imagenet(name, partial(ResNet, partial(BasicBlock, shortcuts=shortcuts), blocks), 5e-5)


def bottleneck(layers: int, blocks: tuple[int, ...], *, v1: bool = False) -> Architecture:
    build = partial(ResNet, partial(Bottleneck, v1=v1), blocks)
    return imagenet(f"resnet{layers}" + "_v1" * v1, build, 5e-5)  # measured: 2e-6 for resnet50, 5e-6 for resnet152


def cifar(n: int, *, plain: bool = False) -> Architecture:
    return Architecture(
        f"{'plain' if plain else 'resnet'}{6 * n + 2}",
        partial(CifarResNet, n, plain=plain),
        stem="conv1.weight",
        head="linear.weight",
        classes=10,
        channels=3,
        size=32,
        preprocessing=replace(IMAGENET, resize=32),  # its statistics are what the public weights want for CIFAR too
        dynamic=True,
        tolerance=2e-5,  # measured: 2e-6 for resnet20, 5e-6 for resnet110 and plain110
    )


ARCHITECTURES: dict[str, Architecture] = {
    row.name: row
    for row in (
        lenet("lenet5", LeNet5, 2e-5, stem="conv1.weight", head="fc3.weight"),  # measured: 2e-6
        lenet("lenet5_bn", partial(LeNet5, batchnorm=True), 2e-5, stem="conv1.weight", head="fc3.weight"),  # likewise
        lenet("lenet5_1998", LeNet5Of1998, 2e-6, stem="c1.weight", head="rbf.codes"),  # measured: 2e-7, of 86
        lenet(
            "lenet_caffe",
            LeNetCaffe,
            2e-5,  # measured: 2e-6
            stem="conv1.weight",
            head="ip2.weight",
            size=28,
            # Caffe's example takes whole digits, and multiplies them by 1/256.
            preprocessing=Preprocessing(28, mean=(0.0,), std=(1.0,), scale=1 / 256, channels="grey"),
        ),
        imagenet(
            "alexnet_2012",
            AlexNet2012,
            5e-5,  # measured: 9e-6
            stem="features.0.weight",
            head="classifier.6.weight",
            size=227,
            preprocessing=CAFFE,
            window=6,
        ),
        imagenet(
            "alexnet",
            AlexNet,
            5e-5,  # measured: 1e-5
            stem="features.0.weight",
            head="classifier.6.weight",
            window=6,
        ),
        *map(vgg, CONFIGS),
        *(vgg(name, batchnorm=True) for name in ("vgg11", "vgg13", "vgg16", "vgg19")),
        imagenet(
            "googlenet_2014",
            partial(GoogLeNet, googlenet.PAPER),
            5e-5,  # measured: 1e-5
            stem="conv1.conv.weight",
            preprocessing=CAFFE,
            smallest=64,
            auxiliary=("aux1.", "aux2."),
        ),
        imagenet(
            "googlenet",
            partial(GoogLeNet, googlenet.TORCHVISION),
            5e-5,  # measured: 1e-5
            stem="conv1.conv.weight",
            preprocessing=TENSORFLOW,
            smallest=32,
            auxiliary=("aux1.", "aux2."),
        ),
        imagenet(
            "bn_inception_caffe",
            partial(BNInception, bn_inception.CAFFE),
            5e-5,  # measured: 1e-5
            stem="conv1_7x7_s2.weight",
            head="last_linear.weight",
            preprocessing=replace(CAFFE, mean=(104.0, 117.0, 128.0)),  # so says the public port
            smallest=32,
        ),
        imagenet(
            "bn_inception_slim",
            partial(BNInception, bn_inception.SLIM),
            5e-5,  # measured: 1e-5
            stem="conv1_7x7_s2.0.weight",
            depthwise=8,
            head="last_linear.weight",
            preprocessing=TENSORFLOW,
            smallest=32,
        ),
        imagenet(
            "inception_v2",
            InceptionV2,
            1e-4,  # measured: 2e-5
            stem="stem.0.conv.weight",
            size=299,
            preprocessing=replace(TENSORFLOW, resize=342),
            smallest=75,
        ),
        imagenet(
            "inception_v3",
            InceptionV3,
            1e-4,  # measured: 2e-5
            stem="Conv2d_1a_3x3.conv.weight",
            size=299,
            preprocessing=replace(TENSORFLOW, resize=342),
            smallest=75,
            auxiliary=("AuxLogits.",),
        ),
        basic("resnet18", (2, 2, 2, 2)),
        basic("resnet34", (3, 4, 6, 3)),
        bottleneck(50, (3, 4, 6, 3)),
        bottleneck(101, (3, 4, 23, 3)),
        bottleneck(152, (3, 8, 36, 3)),
        bottleneck(50, (3, 4, 6, 3), v1=True),
        bottleneck(101, (3, 4, 23, 3), v1=True),
        bottleneck(152, (3, 8, 36, 3), v1=True),
        basic("resnet18_a", (2, 2, 2, 2), "A"),
        basic("resnet34_a", (3, 4, 6, 3), "A"),
        basic("resnet34_c", (3, 4, 6, 3), "C"),
        basic("plain18", (2, 2, 2, 2), "plain"),
        basic("plain34", (3, 4, 6, 3), "plain"),
        *map(cifar, (3, 5, 7, 9, 18)),
        *(cifar(n, plain=True) for n in (3, 5, 7, 9, 18)),
    )
}
