"""Image files whose classes their folders or a CSV file say."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from bundle.errors import LabelledError
from bundle.labelled import open_labelled
from labelling import (
    CIFAR,
    PETS,
    listed,
    pixels,
    refusal,
    touch,
)


def test_folders_named_by_labels(tmp_path: Path) -> None:
    touch(
        tmp_path, "hen/b.PNG", "hen/a.jpg", "cat/deep/z.webp", "cat/deeper/still/y.JPEG", "cat/notes.txt", "readme.png"
    )
    touch(tmp_path, "cat/._a.jpg", ".cache/x.jpg", "hen/.thumbs/a.jpg")
    (tmp_path / "dog").mkdir()
    data = open_labelled(tmp_path, PETS)
    assert listed(data) == [("cat/deep/z.webp", 0), ("cat/deeper/still/y.JPEG", 0), ("hen/a.jpg", 2), ("hen/b.PNG", 2)]
    assert data[2].image == b"hen/a.jpg"
    assert (len(data), data.labels.tolist()) == (4, [0, 0, 2, 2])
    assert data.labels.dtype == np.int64


def test_labels_may_be_missing_and_beat_indices_and_order(tmp_path: Path) -> None:
    touch(tmp_path, "2/a.jpg", "1/b.jpg")
    assert listed(open_labelled(tmp_path, ("2", "1"))) == [("1/b.jpg", 1), ("2/a.jpg", 0)]


def test_folders_named_by_index(tmp_path: Path) -> None:
    touch(tmp_path, "002/a.jpg", "010/b.jpg", "000/c.jpg")
    classes = tuple(f"n{index}" for index in range(11))
    assert listed(open_labelled(tmp_path, classes)) == [("000/c.jpg", 0), ("002/a.jpg", 2), ("010/b.jpg", 10)]


def test_as_many_folders_as_classes_are_the_classes_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "n03/c.jpg", "n01/a.jpg", "n02/b.jpg")
    assert listed(open_labelled(tmp_path, PETS)) == [("n01/a.jpg", 0), ("n02/b.jpg", 1), ("n03/c.jpg", 2)]


def test_folders_that_say_nothing_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "lion/b.jpg")
    assert "'lion' is no label" in refusal(tmp_path)
    touch(tmp_path, "tiger/c.jpg")
    assert open_labelled(tmp_path, PETS).labels.tolist() == [0, 1, 2]  # cat, lion, tiger: cat is where it should be
    assert "'cat' is the label of class 2, but 'lion'" in refusal(tmp_path, ("dog", "hen", "cat"))


def test_parts_do_not_pass_for_classes(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/a.jpg", "val/cat/b.jpg")
    assert "'train' is no label" in refusal(tmp_path, ("cat", "dog"))


def test_a_label_of_two_classes_is_no_folder(tmp_path: Path) -> None:
    touch(tmp_path, "crane/a.jpg", "cat/b.jpg")
    message = refusal(tmp_path, ("crane", "cat", "crane"))
    assert "'crane' is the label of classes 0 and 2" in message
    assert "CSV" in message


def test_no_image_is_an_error(tmp_path: Path) -> None:
    assert "holds no image; what is read: " in refusal(tmp_path)
    touch(tmp_path, "cat/a.txt", "b.jpg")
    assert "holds no image" in refusal(tmp_path)


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "dog":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert refusal(tmp_path).endswith("dog cannot be read: Permission denied")


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "cat/b.jpg")
    data = open_labelled(tmp_path, PETS)
    (tmp_path / "cat/b.jpg").unlink()
    assert data[0].image == b"cat/a.jpg"
    with pytest.raises(LabelledError, match=r"cat/b\.jpg cannot be read"):
        data[1]


def written(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("file,label\na.jpg,hen\nb/c.png,0\n", [2, 0]),
        ("\ufeffFile, Label ,size\r\na.jpg,hen,3\r\n\r\nb/c.png,dog\r\n,,\r\n", [2, 1]),
        ("a.jpg,1\nb/c.png,cat", [1, 0]),
        ('note,label,file\n"two\nlines, one field",dog,a.jpg\n,hen,b/c.png\n', [1, 2]),
        ("file,class_index,class_name\na.jpg,2,x\nb/c.png,1,y\n", [2, 1]),
        ("class_index,file,label\n2,a.jpg,cat\n2,b/c.png,dog\n", [0, 1]),
    ],
)
def test_csv(tmp_path: Path, text: str, labels: list[int]) -> None:
    touch(tmp_path, "a.jpg", "b/c.png")
    data = open_labelled(written(tmp_path, text), PETS)
    assert listed(data) == list(zip(["a.jpg", "b/c.png"], labels, strict=True))
    assert data[1].image == b"b/c.png"
    assert data.name == "labels.csv"


def test_a_text_beats_an_index(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    path = written(tmp_path, "a.jpg,1\n")
    assert open_labelled(path, ("1", "0")).labels.tolist() == [0]
    path.write_text("file,class_index\na.jpg,1\n")
    assert open_labelled(path, ("1", "0")).labels.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,cat\na.jpg\n", "labels.csv, line 2: the fields are ['a.jpg']"),
        ("a.jpg,cat\n\na.jpg,cat,3\n", "labels.csv, line 3: the fields are ['a.jpg', 'cat', '3']"),
        ("size,file,label\n3,a.jpg\n", "labels.csv, line 2: the fields are ['3', 'a.jpg']"),
        ("a.jpg,cat\nb.jpg,cat\n", "labels.csv, line 2: the file 'b.jpg' is not there"),
        ("file,label\n,cat\n", "labels.csv, line 2: the file '' is not there"),
        ("a.jpg,lion\n", "labels.csv, line 1: 'lion' is no label of the model and no index below 4"),
        ("a.jpg,4\n", "labels.csv, line 1: '4' is no label"),
        ("a.jpg,-1\n", "labels.csv, line 1: '-1' is no label"),
        ("a.jpg,\n", "labels.csv, line 1: '' is no label"),
        ("a.jpg," + "9" * 5000 + "\n", "is no label"),
        ("a.jpg,hen\n", "'hen' is the label of classes 2 and 3"),
        ("file,class_index\na.jpg,cat\n", "line 2: 'cat' is no label"),
        ("path,label\na.jpg,cat\n", "its columns are path, label; name them file and label"),
        ("file,kind\na.jpg,cat\n", "its columns are file, kind"),
        ("a.jpg,cat,3\n", "its columns are a.jpg, cat, 3"),
        ('a.jpg,cat\na.jpg,"cat\n', "labels.csv, line 2: no CSV; check its quotation marks"),
        ("a.jpg,cat\n" + "x" * 200_000, "labels.csv, line 2: no CSV"),
        ("", "holds no image"),
        ("file,label\n", "holds no image"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "a.jpg")
    assert message in refusal(written(tmp_path, text), ("cat", "dog", "hen", "hen"))


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes("a.jpg,Kätzchen".encode("latin-1"))
    assert "labels.csv is not UTF-8" in refusal(path)


def test_the_shared_csv_files_are_read_as_they_are(shared: Path) -> None:
    cifar = open_labelled(shared / "cifar10" / "labels.csv", CIFAR)
    assert np.bincount(cifar.labels).tolist() == [5] * 10
    truth = np.load(shared / "cifar10" / "cifar10_test_first1000.npz")
    assert (cifar[0].name, cifar[0].label) == ("png_domestic_cat_s_000907.png", 3)
    assert np.array_equal(pixels(cifar[0].image), truth["images"][0])
    imagenet = open_labelled(shared / "imagenet100" / "labels.csv", [f"c{index}" for index in range(1000)])
    assert imagenet.labels.tolist() == list(range(0, 1000, 10))


def test_a_folder_of_images_without_folders_of_classes_is_told_what_is_missing(tmp_path: Path) -> None:
    """As ImageNet's validation images are: there are images, but nothing says which class each is of."""
    (tmp_path / "n01440764_tench.JPEG").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("")
    assert "its images lie in no folder of a class; " in refusal(tmp_path)
    assert "or name a CSV file of file and label" in refusal(tmp_path)
