"""Which images are trained on, which choose the epoch, and what becomes of an image on its way."""

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bundle.errors import LabelledError
from bundle.labelled import CIFAR, class_names, open_training
from bundle.preprocess import ImageLimits, decode
from bundle.render import render
from bundle.views import Size, center_view
from export.architectures import find
from export.errors import ExportError
from export.train import data as training_data
from export.train.data import Epoch, Pictures, open_data
from export.train.recipe import Area, Centre, Padded, Scale, Square
from tiny import labelled, write_folders

WANTED = find("resnet20").input


def write_idx(path: Path, values: npt.NDArray[np.int64]) -> None:
    header = bytes((0, 0, 8, values.ndim)) + b"".join(size.to_bytes(4) for size in values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_mnist(folder: Path, count: int = 40, stem: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    write_idx(folder / f"{stem}-images-idx3-ubyte", np.arange(count * 4).reshape(count, 2, 2))
    write_idx(folder / f"{stem}-labels-idx1-ubyte", np.arange(count) % 4)
    return folder


def write_cifar(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]):
        rows = np.full((20, 3073), number, np.uint8)
        rows[:, 0] = np.arange(20) % 10
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    rows[:, 1:] = 200
    (folder / "test_batch.bin").write_bytes(rows.tobytes())
    return folder


def test_of_cifar_all_five_batches_are_trained_on_and_the_test_batch_never(tmp_path: Path) -> None:
    data = open_data(str(write_cifar(tmp_path / "cifar")))
    assert data.labels == CIFAR
    assert (len(data.train), len(data.validation)) == (90, 10)
    values = {int(part.array(index)[0, 0, 0]) for part in (data.train, data.validation) for index in range(len(part))}  # type: ignore[index]
    assert values == {0, 1, 2, 3, 4}


def test_of_mnist_the_training_images_are_trained_on_and_the_test_images_never(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist", 10, "t10k")
    data = open_data(str(write_mnist(tmp_path / "mnist")))
    assert data.labels == ("0", "1", "2", "3")
    assert len(data.train) + len(data.validation) == 40
    assert data.digits


def test_a_folder_with_test_images_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelledError, match="holds t10k-images-idx3-ubyte and no training images"):
        open_training(write_mnist(tmp_path / "mnist", 10, "t10k"), ("0", "1", "2", "3"))


def test_a_tenth_of_each_class_chooses_the_epoch_and_always_the_same(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", 30)
    first, again = (open_data(str(tmp_path / "photos")) for _ in range(2))
    assert Counter(first.validation.labels.tolist()) == {0: 3, 1: 3, 2: 3}
    assert Counter(first.train.labels.tolist()) == {0: 27, 1: 27, 2: 27}
    assert first.validation.places.tolist() == again.validation.places.tolist()
    assert not set(first.train.places) & set(first.validation.places)
    assert first.split == {
        "by": "one in 10 of each class",
        "seed": 0,
        "part": None,
        "train": 81,
        "validation": 9,
    }


def test_a_part_chooses_the_epoch_and_is_not_trained_on(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    for part in (":30", None):
        data = open_data(str(tmp_path / "mnist"), part=part, validation="20:30")
        assert data.validation.places.tolist() == list(range(20, 30))
        rest = range(30) if part else range(40)
        assert data.train.places.tolist() == [place for place in rest if not 20 <= place < 30]


def test_a_part_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    with pytest.raises(ExportError, match="leaves no image to train on"):
        open_data(str(tmp_path / "mnist"), part="20:30", validation="15:35")


def test_folders_train_and_val_beside_each_other_are_what_they_say(tmp_path: Path) -> None:
    write_folders(tmp_path / "imagenet" / "train", 4)
    write_folders(tmp_path / "imagenet" / "val", 2, seed=1)
    write_folders(tmp_path / "imagenet" / "test", 2, seed=2)
    data = open_data(str(tmp_path / "imagenet"))
    assert data.labels == ("stripe_0", "stripe_1", "stripe_2")
    assert (len(data.train), len(data.validation)) == (12, 6)
    assert data.split["by"] == "val, beside the others"


def test_other_data_can_choose_the_epoch(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", 4)
    other = write_folders(tmp_path / "others", 2, seed=1)
    data = open_data(str(tmp_path / "photos"), validation=str(other))
    assert (len(data.train), len(data.validation)) == (12, 6)


def test_classes_of_a_csv_file_are_its_labels_in_order(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file,label\nb.png,dog\na.png,cat\nc.png,dog\n")
    assert class_names(tmp_path / "list.csv") == ("cat", "dog")
    (tmp_path / "list.csv").write_text("file,label\nb.png,3\na.png,1\n")
    assert class_names(tmp_path / "list.csv") == ("0", "1", "2", "3")


def test_classes_can_be_put_in_another_order(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", 10, classes=2)
    data = open_data(str(tmp_path / "photos"), labels=("stripe_1", "stripe_0"))
    first = data.train[0]
    assert data.labels[first.label] == Path(first.name).parent.name


def test_one_image_of_each_class_cannot_be_held_out(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", 1)
    with pytest.raises(ExportError, match="photos has one image of each class; give others with --validation"):
        open_data(str(tmp_path / "photos"))


def test_data_that_is_not_there_is_named() -> None:
    with pytest.raises(LabelledError, match=r"nowhere is not there; name the folder or file .* or digits"):
        open_data("nowhere")


def test_the_digits_have_parts_of_their_own() -> None:
    with pytest.raises(ExportError, match="leave --part and --validation out"):
        open_data("digits", part=":10")


def test_a_folder_is_seen_as_the_service_shows_it(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", 2)
    data = open_training(tmp_path / "photos", class_names(tmp_path / "photos"))
    rows, classes = Epoch(Pictures(data, WANTED, Centre()), 0, 0).__getitems__(list(range(len(data))))
    assert classes.tolist() == data.labels.tolist()
    for row, example in zip(rows.numpy(), data, strict=True):
        image: Image.Image = decode(example.image, 3, ImageLimits())
        straight = np.empty((1, 32, 32, 3), np.uint8)
        render(image, [center_view(Size(*image.size), Size(32, 32), 32)], straight)
        np.testing.assert_array_equal(row, straight[0])


def test_images_in_memory_and_in_files_are_drawn_alike(tmp_path: Path) -> None:
    memory = labelled(6, 32)
    for index in range(6):
        folder = tmp_path / f"{memory.labels[index]}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(memory.array(index)).save(folder / f"{index}.png")  # type: ignore[arg-type]
    files = open_training(tmp_path, ("0", "1", "2"))
    order = [int(Path(example.name).stem) for example in files]
    for crop in (Padded(padding=4), Scale(shortest=32, longest=48), Area()):
        both = [
            Epoch(Pictures(data, WANTED, crop), 0, 0, mirrored=True)
            for data in (memory.take(np.array(order), "m"), files)
        ]
        first, second = (epoch.__getitems__(list(range(6)))[0] for epoch in both)
        np.testing.assert_array_equal(first, second)


def test_what_would_take_too_much_memory_is_resized_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, crop, places = find("alexnet").input, Square(side=256), list(range(8))
    kept = Pictures(labelled(8), wanted, crop)
    monkeypatch.setattr(training_data, "MOST_BYTES", 8 * 256 * 256 * 3 - 1)
    tracemalloc.start()
    anew = Pictures(labelled(8), wanted, crop)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 256 * 256 * 3
    rows = [Epoch(pictures, 0, 0).__getitems__(places)[0].numpy().astype(int) for pictures in (kept, anew)]
    assert np.abs(rows[0] - rows[1]).max() <= 1


def test_what_is_random_follows_from_seed_epoch_and_image_alone() -> None:
    pictures = Pictures(labelled(8), WANTED, Padded(padding=4))
    whole = Epoch(pictures, 7, 3, mirrored=True).__getitems__(list(range(8)))[0]
    backwards = Epoch(pictures, 7, 3, mirrored=True).__getitems__([5, 2])[0]
    np.testing.assert_array_equal(backwards, whole[[5, 2]])
    for seed, epoch in ((8, 3), (7, 4)):
        assert not np.array_equal(Epoch(pictures, seed, epoch, mirrored=True).__getitems__(list(range(8)))[0], whole)


def test_half_of_the_images_are_mirrored() -> None:
    pictures = Pictures(labelled(400), WANTED, Centre())
    plain = Epoch(pictures, 0, 0).__getitems__(list(range(400)))[0].numpy()
    seen = Epoch(pictures, 0, 0, mirrored=True).__getitems__(list(range(400)))[0].numpy()
    same = (seen == plain).all((1, 2, 3))
    np.testing.assert_array_equal(seen[~same], plain[~same][:, :, ::-1])
    assert 170 < same.sum() < 230


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", 1)
    (tmp_path / "photos" / "stripe_0" / "0.png").write_bytes(b"no image")
    data = open_training(tmp_path / "photos", class_names(tmp_path / "photos"))
    with pytest.raises(LabelledError, match=r"photos: stripe_0/0\.png: the bytes are not a JPEG"):
        Epoch(Pictures(data, WANTED, Centre()), 0, 0).__getitems__([0])
