"""Every published way to look at an image, written out as its paper says it: the truth of tests/test_protocols.py.

torch, NumPy and Pillow, nothing of this project, and nothing shared or saved: each view resizes the whole image anew.
Every function takes an upright RGB image, the size n of the network's square input and the shorter side `resize` that
the network is usually shown, all in pixels, and gives the views in the order of the paper's loops, each with its
weight. The papers give their scales for 224; for another n they are multiplied by n / 224 and rounded half to even, as
are the offsets of what is centred.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import nn

Seen = tuple[npt.NDArray[np.uint8], float]
"""A view, uint8 [height, width, 3], and its weight, relative to those of the other views."""

Answer = tuple[torch.Tensor, float]
"""The softmax of a view, float64 [K], and the view's weight."""

Network = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""uint8 [N, H, W, 3] to logits and probabilities, both [N, K]."""


def whole(image: Image.Image, shorter: int) -> Image.Image:
    """The image with that shorter side; the longer side is cut to whole pixels, as in torchvision."""
    width, height = image.size
    wanted = (shorter, int(shorter * height / width)) if width < height else (int(shorter * width / height), shorter)
    return image.resize(wanted, Image.Resampling.BILINEAR)


def seen(view: Image.Image, mirrored: bool = False) -> Seen:
    return np.asarray(ImageOps.mirror(view) if mirrored else view), 1.0


def square(image: Image.Image, left: int, top: int, side: int) -> Image.Image:
    """Black where it lies beyond the image."""
    return image.crop((left, top, left + side, top + side))


def five(image: Image.Image, n: int) -> list[tuple[int, int]]:
    """Left and top of n x n in the corners (left before right, top before bottom) and in the centre."""
    right, bottom = image.width - n, image.height - n
    return [(0, 0), (right, 0), (0, bottom), (right, bottom), (round(right / 2), round(bottom / 2))]


def three(image: Image.Image) -> list[tuple[int, int]]:
    """Left and top of the squares along the longer side: left, centre, right, or top, centre, bottom."""
    if image.width >= image.height:
        right = image.width - image.height
        return [(0, 0), (round(right / 2), 0), (right, 0)]
    bottom = image.height - image.width
    return [(0, 0), (0, round(bottom / 2)), (0, bottom)]


def center(image: Image.Image, n: int, resize: int) -> Iterator[Seen]:
    resized = whole(image, resize)
    yield seen(square(resized, *five(resized, n)[4], n))


def larger_center(image: Image.Image, n: int, _resize: int) -> Iterator[Seen]:
    """One larger view of the whole shorter side (Touvron et al., 2019, without their fine-tuning)."""
    side = round(288 * n / 224)
    resized = whole(image, side)
    yield seen(square(resized, *five(resized, side)[4], side))


def flips(image: Image.Image, n: int, resize: int) -> Iterator[Seen]:
    for mirrored in (False, True):
        resized = whole(image, resize)
        yield seen(square(resized, *five(resized, n)[4], n), mirrored)


def shifts(image: Image.Image, n: int, resize: int) -> Iterator[Seen]:
    """The centre and its neighbours, n // 8 pixels away (4 of 32, what trainings on CIFAR pad)."""
    d = n // 8
    for down, across in [(0, 0), (-d, 0), (0, -d), (0, d), (d, 0), (-d, -d), (-d, d), (d, -d), (d, d)]:
        resized = whole(image, resize)
        left, top = five(resized, n)[4]
        yield seen(square(resized, left + across, top + down, n))


def five_crop(image: Image.Image, n: int, resize: int) -> Iterator[Seen]:
    for place in range(5):
        resized = whole(image, resize)
        yield seen(square(resized, *five(resized, n)[place], n))


def ten_crop(image: Image.Image, n: int, resize: int) -> Iterator[Seen]:
    """Of the whole image (He et al., 2015, in their published code)."""
    for place in range(5):
        for mirrored in (False, True):
            resized = whole(image, resize)
            yield seen(square(resized, *five(resized, n)[place], n), mirrored)


def ten_crop_square(image: Image.Image, n: int, resize: int) -> Iterator[Seen]:
    """Of the central square (Krizhevsky et al., 2012)."""
    for place in range(5):
        for mirrored in (False, True):
            resized = whole(image, resize)
            middle = square(resized, *three(resized)[1], resize)
            yield seen(square(middle, *five(middle, n)[place], n), mirrored)


def six_of_squares(image: Image.Image, n: int, shorter: int, squares: tuple[int, ...]) -> Iterator[Seen]:
    """Of each square the five crops, then the square itself resized to n."""
    for number in squares:
        for place in range(6):
            for mirrored in (False, True):
                resized = whole(image, shorter)
                part = square(resized, *three(resized)[number], shorter)
                if place < 5:
                    part = square(part, *five(part, n)[place], n)
                else:
                    part = part.resize((n, n), Image.Resampling.BILINEAR)
                yield seen(part, mirrored)


def googlenet_144(image: Image.Image, n: int, _resize: int) -> Iterator[Seen]:
    """Szegedy et al., 2015, section 7: 4 x 3 x 6 x 2."""
    for shorter in (256, 288, 320, 352):
        yield from six_of_squares(image, n, round(shorter * n / 224), (0, 1, 2))


def inception_144(image: Image.Image, n: int, _resize: int) -> Iterator[Seen]:
    """Szegedy et al., 2016, give the number alone; of 299 pixels these are 342, 384, 427 and 470."""
    for shorter in (256, 288, 320, 352):
        yield from six_of_squares(image, n, round(shorter * n / 224), (0, 1, 2))


def inception_12(image: Image.Image, n: int, _resize: int) -> Iterator[Seen]:
    """The smallest scale and the central square of the 144; the paper gives the number alone."""
    yield from six_of_squares(image, n, round(256 * n / 224), (1,))


def grid(image: Image.Image, n: int, shorter: int) -> Iterator[Seen]:
    """5 x 5 places from edge to edge, row by row, each plain and mirrored."""
    for row in range(5):
        for column in range(5):
            for mirrored in (False, True):
                resized = whole(image, shorter)
                left = round(column * (resized.width - n) / 4)
                top = round(row * (resized.height - n) / 4)
                yield seen(square(resized, left, top, n), mirrored)


def vgg_50(image: Image.Image, n: int, resize: int) -> Iterator[Seen]:
    """Simonyan and Zisserman, 2014, section 3.2: 50 crops of a scale."""
    yield from grid(image, n, resize)


def vgg_150(image: Image.Image, n: int, _resize: int) -> Iterator[Seen]:
    """The same at the three scales of a network trained on all of them."""
    for shorter in (256, 384, 512):
        yield from grid(image, n, round(shorter * n / 224))


def dense(image: Image.Image, _n: int, resize: int) -> Iterator[Seen]:
    """The uncropped image: the network slides over it (Simonyan and Zisserman, 2014, section 3.2)."""
    yield seen(whole(image, resize))


def dense_mirrored(image: Image.Image, _n: int, resize: int) -> Iterator[Seen]:
    for mirrored in (False, True):
        yield seen(whole(image, resize), mirrored)


def dense_multiscale(image: Image.Image, n: int, _resize: int) -> Iterator[Seen]:
    """Simonyan and Zisserman, 2014, section 4.2."""
    for shorter in (256, 384, 512):
        yield from dense_mirrored(image, n, round(shorter * n / 224))


def dense_five_scale(image: Image.Image, n: int, _resize: int) -> Iterator[Seen]:
    """He et al., 2015, section 3.4."""
    for shorter in (224, 256, 384, 480, 640):
        yield from dense_mirrored(image, n, round(shorter * n / 224))


def multicrop_dense(image: Image.Image, n: int, resize: int) -> Iterator[Seen]:
    """The mean of two posteriors, each itself a mean (Simonyan and Zisserman, 2014, section 4.3)."""
    for pixels, _ in vgg_150(image, n, resize):
        yield pixels, 1 / 2 / 150
    for pixels, _ in dense_multiscale(image, n, resize):
        yield pixels, 1 / 2 / 6


def fully_convolutional(features: nn.Module, classifier: nn.Sequential) -> nn.Module:
    """VGG for images of any size: its first fully connected layer as a 7 x 7 convolution, the others as 1 x 1.

    The map of class scores is averaged (Simonyan and Zisserman, 2014, section 3.2).
    """
    head: list[nn.Module] = []
    for layer in classifier:
        if isinstance(layer, nn.Linear):
            side = 1 if head else 7
            convolution = nn.Conv2d(layer.in_features // side**2, layer.out_features, side)
            convolution.weight = nn.Parameter(layer.weight.view(layer.out_features, -1, side, side))
            convolution.bias = layer.bias
            head.append(convolution)
        else:
            head.append(layer)
    return nn.Sequential(features, *head, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


PROTOCOLS: dict[str, Callable[[Image.Image, int, int], Iterator[Seen]]] = {
    protocol.__name__: protocol
    for protocol in (
        center,
        larger_center,
        flips,
        shifts,
        five_crop,
        ten_crop,
        ten_crop_square,
        googlenet_144,
        inception_144,
        inception_12,
        vgg_50,
        vgg_150,
        dense,
        dense_mirrored,
        dense_multiscale,
        dense_five_scale,
        multicrop_dense,
    )
}
"""By the names that a client asks for."""


def answers(network: Network, views: Iterable[Seen]) -> list[Answer]:
    """One view after the other."""
    with torch.inference_mode():
        logits = [(network(torch.from_numpy(pixels.copy())[None])[0][0], weight) for pixels, weight in views]
    return [(scores.double().softmax(0), weight) for scores, weight in logits]


def mean(answers: Iterable[Answer]) -> npt.NDArray[np.float64]:
    """What the network says of all views together: the weighted mean of the softmaxes, [K]."""
    total, weights = torch.zeros(1, dtype=torch.float64), 0.0
    for probabilities, weight in answers:
        total = total + weight * probabilities
        weights += weight
    return (total / weights).numpy()
