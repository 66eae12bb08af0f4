"""Labelled images made for tests: files, and MNIST's and CIFAR-10's forms as they are published."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from bundle.errors import LabelledError
from bundle.labelled import Labelled, open_labelled
from bundle.preprocess import Pixels

PETS = ("cat", "dog", "hen")
DIGITS = tuple("0123456789")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def pixels(example: bytes) -> Pixels:
    with Image.open(io.BytesIO(example)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def touch(root: Path, *names: str) -> None:
    """Files whose content is their name: nothing here looks into an image."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def listed(data: Labelled) -> list[tuple[str, int]]:
    return [(example.name, example.label) for example in data]


def refusal(path: Path, classes: tuple[str, ...] = PETS, part: str | None = None) -> str:
    with pytest.raises(LabelledError) as refused:
        open_labelled(path, classes, part)
    return str(refused.value)


def idx(array: Pixels) -> bytes:
    """As the page on MNIST has it: 0, 0, 8 for bytes, the number of dimensions, each of them, big-endian."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def small(count: int = 7, seed: int = 0) -> tuple[Pixels, Pixels]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, 5, 4), np.uint8), generator.integers(0, 10, count, np.uint8)


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def rows(images: Pixels) -> Pixels:
    """As published: of every image the red plane, then the green, then the blue one."""
    return np.stack([np.concatenate([image[..., colour].ravel() for colour in range(3)]) for image in images])


def python_2_pickle(images: Pixels, labels: list[int]) -> bytes:
    """What Python 2 and the numpy of 2009 wrote, opcode by opcode: byte strings, and the array's state in a tuple."""
    data = rows(images).tobytes()
    return b"".join(
        [
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x14testing batch 1 of 1q\x03U\x06labelsq\x04]q\x05(",
            *(b"K" + bytes([label]) for label in labels),
            b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09",
            b"(K\x01J" + struct.pack("<I", len(labels)) + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + struct.pack("<I", len(data)) + data + b"tbU\x09filenamesq\x0c]q\x0du.",
        ]
    )


def binary(images: Pixels, labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, rows(images), strict=True))


def matlab(images: Pixels, labels: list[int]) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, {"data": rows(images), "labels": np.array(labels, np.uint8)[:, None], "batch_label": "testing"})
    return buffer.getvalue()


FORMS: dict[str, Callable[[Pixels, list[int]], bytes]] = {
    "cifar-10-batches-bin/test_batch.bin": binary,
    "cifar-10-batches-py/test_batch": python_2_pickle,
    "cifar-10-batches-mat/test_batch.mat": matlab,
}


def write_cifar(root: Path, form: str, images: Pixels, labels: list[int]) -> Path:
    path = root / form
    path.parent.mkdir(parents=True)
    path.write_bytes(FORMS[form](images, labels))
    return path


def colours(count: int = 6) -> tuple[Pixels, list[int]]:
    generator = np.random.default_rng(1)
    return generator.integers(0, 256, (count, 32, 32, 3), np.uint8), generator.integers(0, 10, count).tolist()
