"""MNIST and CIFAR-10 in the forms of their pages, against the arrays that they were made of."""

import gzip
import hashlib
import os
import pickle
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.labelled import open_labelled
from bundle.preprocess import Pixels
from bundle.published import find_published, read_published
from labelling import (
    CIFAR,
    DIGITS,
    FORMS,
    IMAGES,
    LABELS,
    binary,
    colours,
    idx,
    listed,
    matlab,
    pixels,
    python_2_pickle,
    refusal,
    rows,
    small,
    write_cifar,
)


@pytest.mark.parametrize(
    ("images_name", "labels_name"),
    [
        (IMAGES, LABELS),
        (f"{IMAGES}.gz", f"{LABELS}.gz"),
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
        ("train-images.idx3-ubyte.gz", "train-labels-idx1-ubyte"),
    ],
)
def test_idx(tmp_path: Path, images_name: str, labels_name: str) -> None:
    images, labels = small()
    for name, array in ((images_name, images), (labels_name, labels)):
        (tmp_path / name).write_bytes(gzip.compress(idx(array)) if name.endswith(".gz") else idx(array))
    for path, name in ((tmp_path / images_name, images_name), (tmp_path, tmp_path.name)):
        data = open_labelled(path, DIGITS)
        assert data.name == name
        assert listed(data) == [(str(place), label) for place, label in enumerate(labels)]
        assert all(np.array_equal(pixels(example.image), image) for example, image in zip(data, images, strict=True))


def test_a_folder_of_both_means_the_test_part(tmp_path: Path) -> None:
    for stem, count in (("train", 9), ("t10k", 4)):
        images, labels = small(count)
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(idx(labels))
    assert len(open_labelled(tmp_path, DIGITS)) == 4
    assert len(open_labelled(tmp_path / "train-images-idx3-ubyte", DIGITS)) == 9


def zipped(content: bytes) -> bytes:
    return gzip.compress(content)


@pytest.mark.parametrize("pack", [bytes, zipped], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:-1], "is cut short"),
        (lambda whole: whole[:17], "is cut short"),
        (lambda whole: whole[:15], "is cut short"),
        (lambda _: b"", "does not begin as an IDX file of 3 dimensions"),
        (lambda whole: whole + b"\0", "goes on after the 140 bytes"),
        (lambda whole: b"\0\0\x08\x01" + whole[4:], "does not begin as an IDX file of 3 dimensions"),
        (lambda whole: b"\0\0\x0d\x03" + whole[4:], "does not begin as"),
        (lambda whole: whole[:4] + b"\xff" * 12 + whole[16:], "is cut short"),
        (lambda whole: whole[:12] + bytes(4), "is cut short"),
    ],
)
def test_a_damaged_idx_file_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes], message: str, pack: Callable[[bytes], bytes]
) -> None:
    images, labels = small()
    name = IMAGES if pack is bytes else f"{IMAGES}.gz"
    (tmp_path / name).write_bytes(pack(damage(idx(images))))
    (tmp_path / LABELS).write_bytes(idx(labels))
    refused = refusal(tmp_path, DIGITS)
    assert refused.startswith(name)
    assert message in refused


@pytest.mark.parametrize(
    "damage", [lambda packed: packed[:-9], lambda packed: packed[:-8] + bytes(8), lambda _: b"no gzip"]
)
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    images, labels = small()
    (tmp_path / f"{IMAGES}.gz").write_bytes(damage(gzip.compress(idx(images))))
    (tmp_path / LABELS).write_bytes(idx(labels))
    assert refusal(tmp_path, DIGITS) == f"{IMAGES}.gz is damaged or cut short; fetch it again"


def test_no_more_is_unpacked_than_the_header_announces(tmp_path: Path) -> None:
    images, labels = small()
    (tmp_path / f"{IMAGES}.gz").write_bytes(gzip.compress(idx(images) + bytes(1 << 24), 1))
    (tmp_path / LABELS).write_bytes(idx(labels))
    tracemalloc.start()
    try:
        assert "goes on after the 140 bytes" in refusal(tmp_path, DIGITS)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_idx_labels_are_checked(tmp_path: Path) -> None:
    images, labels = small()
    (tmp_path / IMAGES).write_bytes(idx(images))
    assert refusal(tmp_path, DIGITS) == f"{IMAGES} has no labels beside it; put {LABELS} into the same folder"
    (tmp_path / LABELS).write_bytes(idx(labels[:-1]))
    assert refusal(tmp_path, DIGITS) == f"{IMAGES} has 7 images, {LABELS} 6 labels"
    labels[3] = 10
    (tmp_path / LABELS).write_bytes(idx(labels))
    assert refusal(tmp_path, DIGITS) == f"{LABELS}: image 3 has label 10, the model has 10 classes"


def test_mnist_is_mnist(shared: Path) -> None:
    """The md5 sums are those of the published raw files."""
    data = open_labelled(shared / "mnist", DIGITS)
    assert (len(data), data[:5].labels.tolist()) == (60_000, [5, 0, 4, 1, 9])
    assert np.bincount(data.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    path = find_published(shared / "mnist")
    assert path is not None
    images, labels = read_published(path, 10)
    assert hashlib.md5(idx(images), usedforsecurity=False).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    assert (
        hashlib.md5(idx(labels.astype(np.uint8)), usedforsecurity=False).hexdigest()
        == "a25bea736e30d166cdddb491f175f624"
    )
    assert np.array_equal(pixels(data[-1].image), images[-1])
    held_out = open_labelled(shared / "mnist", DIGITS, "-10000:")
    assert (len(held_out), held_out.name, held_out[0].name) == (10_000, "mnist[-10000:]", "50000")
    assert np.array_equal(pixels(held_out[0].image), images[50_000])


def test_the_pickle_made_here_is_one() -> None:
    images, labels = colours()
    batch = pickle.loads(python_2_pickle(images, labels), encoding="bytes")  # noqa: S301 - made here
    assert list(batch) == [b"batch_label", b"labels", b"data", b"filenames"]
    assert np.array_equal(batch[b"data"], rows(images))
    assert batch[b"labels"] == labels


@pytest.mark.parametrize("form", FORMS)
def test_cifar(tmp_path: Path, form: str) -> None:
    images, labels = colours()
    path = write_cifar(tmp_path, form, images, labels)
    for place, name in ((path, path.name), (path.parent, path.parent.name), (tmp_path, tmp_path.name)):
        data = open_labelled(place, CIFAR)
        assert data.name == name
        assert listed(data) == [(str(place), label) for place, label in enumerate(labels)]
        assert all(np.array_equal(pixels(example.image), image) for example, image in zip(data, images, strict=True))


def test_a_training_batch_may_be_named(tmp_path: Path) -> None:
    images, labels = colours()
    for name, form in (("data_batch_1.bin", binary), ("data_batch_2", python_2_pickle), ("data_batch_3.mat", matlab)):
        (tmp_path / name).write_bytes(form(images, labels))
        assert open_labelled(tmp_path / name, CIFAR).labels.tolist() == labels


def test_a_batch_that_python_3_pickled_again_is_read(tmp_path: Path) -> None:
    images, labels = colours()
    for data in (rows(images), np.asfortranarray(rows(images))):
        (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol=4))
        assert np.array_equal(pixels(open_labelled(tmp_path, CIFAR)[5].image), images[5])


@pytest.fixture(scope="module")
def real(shared: Path) -> tuple[Pixels, list[int]]:
    arrays = np.load(shared / "cifar10" / "cifar10_test_first1000.npz")
    return arrays["images"], arrays["labels"].tolist()


def test_the_forms_of_the_real_images_agree(tmp_path: Path, real: tuple[Pixels, list[int]], shared: Path) -> None:
    opened = [open_labelled(write_cifar(tmp_path / str(at), form, *real), CIFAR) for at, form in enumerate(FORMS)]
    for data in opened:
        assert data.labels.tolist() == real[1]
        assert np.array_equal(pixels(data[999].image), real[0][999])
    assert len({data.digest() for data in opened}) == 1
    with Image.open(shared / "cifar10" / "png_hydrofoil_s_000078.png") as original:  # the file of row 1
        assert np.array_equal(pixels(opened[0][1].image), np.asarray(original))


class Evil:
    """Its pickle makes a folder when it is read by the plain unpickler."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    images, labels = colours()
    evil = pickle.dumps({"data": rows(images), "labels": labels, "more": Evil(tmp_path / "made")}, protocol=protocol)
    (tmp_path / "test_batch").write_bytes(evil)
    assert re.fullmatch(
        r"test_batch: it asks for \S+, which no published batch holds; it was not run", refusal(tmp_path)
    )
    assert not (tmp_path / "made").exists()
    pickle.loads(evil)  # noqa: S301 - that it would have
    assert (tmp_path / "made").exists()


class Called:
    def __init__(self, what: Callable[..., object], *values: object) -> None:
        self.call = what, values

    def __repr__(self) -> str:
        """Without an address: a test is named by it, in every process the same."""
        return f"Called({self.call[0].__qualname__})"

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    "batch",
    [
        {"data": Called(np.dtype, "u1"), "labels": [1]},
        {"data": np.zeros((2, 3072), np.int32), "labels": [1, 1]},
        {"data": np.zeros((2, 3072), object), "labels": [1, 1]},
        {"data": np.zeros((2, 3072), np.int8), "labels": [1, 1]},
        {"data": np.zeros((2, 3071), np.uint8), "labels": [1, 1]},
        {"data": np.zeros(3072, np.uint8), "labels": [1]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 1.5]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [[1], [1, 2]]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": ["1", "1"]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 1 << 70]},
        {"data": np.zeros((2, 3072), np.uint8)},
        {"labels": [1, 1]},
        ["data"],
    ],
    ids=repr,
)
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, batch: object) -> None:
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=4))
    assert refusal(tmp_path, CIFAR).startswith("test_batch")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kept", [0.97, 0.55, 1e-3])
def test_a_cut_batch_is_refused(tmp_path: Path, form: str, kept: float) -> None:
    """But for a binary one that is cut between two images: nothing in it says how many there were."""
    path = write_cifar(tmp_path, form, *colours())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert refusal(path, CIFAR).startswith(path.name)


@pytest.mark.parametrize("form", FORMS)
def test_a_label_out_of_range_is_refused(tmp_path: Path, form: str) -> None:
    images, labels = colours()
    path = write_cifar(tmp_path, form, images, [*labels[:4], 200, 3])
    assert refusal(path, CIFAR) == f"{path.name}: image 4 has label 200, the model has 10 classes"
