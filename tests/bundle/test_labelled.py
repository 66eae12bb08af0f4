"""What is opened: parts, halves, digests; and what is not opened."""

import gzip
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.errors import LabelledError
from bundle.labelled import Labelled, open_labelled
from labelling import (
    CIFAR,
    DIGITS,
    IMAGES,
    LABELS,
    PETS,
    colours,
    idx,
    pixels,
    refusal,
    small,
    touch,
    write_cifar,
)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar-10-python.tar.gz", "cifar-10-python.tar.gz is packed; unpack it"),
        ("images.npz", "images.npz is no labelled data; what is read: a folder with"),
        ("t10k-labels-idx1-ubyte", "is no labelled data; what is read"),
    ],
)
def test_other_files_are_refused_with_what_is_read(tmp_path: Path, name: str, message: str) -> None:
    touch(tmp_path, name)
    assert message in refusal(tmp_path / name)


def test_what_is_not_there(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none.csv'} is not there" in refusal(tmp_path / "none.csv")


class Images:
    """An image is its place."""

    def name(self, place: int) -> str:
        return str(place)

    def encoded(self, place: int) -> bytes:
        return bytes([place])

    content = encoded

    def array(self, place: int) -> None:
        return None


def data_of(*labels: int) -> Labelled:
    return Labelled("data", Images(), np.array(labels, np.int64))


def places(data: Labelled) -> list[int]:
    return [int(example.name) for example in data]


@pytest.mark.parametrize(
    ("part", "expected"),
    [("3:", [3, 4, 5]), ("-2:", [4, 5]), (":2", [0, 1]), (":-4", [0, 1]), ("1:3", [1, 2]), (":", [0, 1, 2, 3, 4, 5])],
)
def test_part(tmp_path: Path, part: str, expected: list[int]) -> None:
    images, labels = colours(6)
    path = write_cifar(tmp_path, "cifar-10-batches-bin/test_batch.bin", images, labels)
    data = open_labelled(path, CIFAR, part)
    assert places(data) == expected
    assert data.labels.tolist() == [example.label for example in data] == [labels[place] for place in expected]
    assert data.name == f"test_batch.bin[{part}]"
    assert np.array_equal(pixels(data[-1].image), images[expected[-1]])


@pytest.mark.parametrize("part", ["", "3", "1:2:3", "a:", "1.5:", " 1:", "\u0661:", "--1:"])
def test_a_malformed_part(tmp_path: Path, part: str) -> None:
    touch(tmp_path, "cat/a.jpg")
    assert f"part {part!r} is not START:STOP" in refusal(tmp_path, PETS, part)


@pytest.mark.parametrize("part", ["1:", "0:0", ":-1", "5:3"])
def test_an_empty_part(tmp_path: Path, part: str) -> None:
    touch(tmp_path, "cat/a.jpg")
    assert f"part {part} of {tmp_path.name} is empty; images in all: 1" in refusal(tmp_path, PETS, part)


@given(labels=st.lists(st.integers(0, 5), min_size=2, max_size=60), seed=st.integers(0, 1000))
def test_split_halves_every_class(labels: list[int], seed: int) -> None:
    data = data_of(*labels)
    validation, test = data.split(seed)
    assert sorted(places(validation) + places(test)) == list(range(len(labels)))
    for half in (validation, test):
        assert [labels[place] for place in places(half)] == half.labels.tolist()
        assert places(half) == sorted(places(half))
    difference = np.bincount(validation.labels, minlength=6) - np.bincount(test.labels, minlength=6)
    assert np.abs(difference).max() <= 1
    assert abs(difference.sum()) <= 1
    assert places(data.split(seed)[0]) == places(validation)


def test_split_is_drawn_by_its_seed() -> None:
    data = data_of(*[0] * 30, *[1] * 30)
    assert [half.name for half in data.split()] == ["data validation", "data test"]
    assert places(data.split(0)[0]) != places(data.split(1)[0])
    drawn = np.mean([np.isin(np.arange(60), places(data.split(seed)[0])) for seed in range(400)], axis=0)
    assert np.abs(drawn - 0.5).max() < 0.15  # six standard deviations of 400 draws


def test_a_part_can_be_split_and_a_single_image_not() -> None:
    part = data_of(0, 1, 0, 1, 0, 1, 0, 1).part("4:")
    assert sorted(place for half in part.split() for place in places(half)) == [4, 5, 6, 7]
    with pytest.raises(LabelledError, match="1 image cannot be split"):
        data_of(0).split()


def test_digest_is_of_images_and_labels_in_order() -> None:
    def sha256(content: bytes) -> bytes:
        return hashlib.sha256(content).digest()

    expected = sha256(sha256(b"\0") + (3).to_bytes(8) + sha256(b"\1") + (4).to_bytes(8))
    assert data_of(3, 4).digest() == expected.hex()
    assert data_of(2, 3, 4).part("1:").digest() != expected.hex()  # other images
    assert data_of(4, 3).digest() != expected.hex()


def test_digest_of_files_is_read_once(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg")
    data, same = open_labelled(tmp_path, PETS), open_labelled(tmp_path, PETS)
    digest = data.digest()
    (tmp_path / "dog/b.jpg").write_bytes(b"changed")
    assert data.digest() == digest
    assert same.digest() != digest


def test_digest_of_arrays_is_of_pixels_and_shape(tmp_path: Path) -> None:
    images, labels = small()
    digests = []
    for at, array in enumerate((images, images.copy(), images.reshape(7, 4, 5), images + 1)):
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / f"{IMAGES}.gz").write_bytes(gzip.compress(idx(array), at))
        (folder / LABELS).write_bytes(idx(labels))
        digests.append(open_labelled(folder, DIGITS).digest())
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_any_thread_may_read(tmp_path: Path) -> None:
    images, labels = small(50)
    (tmp_path / IMAGES).write_bytes(idx(images))
    (tmp_path / LABELS).write_bytes(idx(labels))
    data = open_labelled(tmp_path, DIGITS)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(data.__getitem__, range(50))) == list(data)


def test_labels_cannot_be_changed_and_the_end_is_an_end() -> None:
    data = data_of(0, 1)
    with pytest.raises(ValueError, match="read-only"):
        data.labels[0] = 1
    with pytest.raises(IndexError):
        data[2]


def test_the_folder_one_stands_in_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "pets/cat/a.jpg")
    monkeypatch.chdir(tmp_path / "pets")
    assert open_labelled(Path(), PETS).name == "pets"
    assert open_labelled(Path("..", "pets"), PETS).name == "pets"
