"""MATLAB 5 files, against SciPy, which wrote them."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from bundle.labelled import open_labelled
from bundle.matlab import byte_arrays
from labelling import (
    CIFAR,
    colours,
    refusal,
    rows,
)


@pytest.mark.parametrize("packed", [False, True])
def test_arrays_of_matlab_files(packed: bool) -> None:
    """As SciPy writes them; a short array and a short name stand inside their tags."""
    wanted = {"d": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "labels": np.array([[1], [2], [3]], np.uint8)}
    others = {
        "text": "letters",
        "wide": np.arange(5),
        "part": {"of": np.zeros((2, 2), np.uint8)},
        "none": np.zeros((0, 0)),
    }
    buffer = io.BytesIO()
    savemat(buffer, others | wanted, do_compression=packed)
    found = byte_arrays(buffer.getvalue())
    assert {name: array.tolist() for name, array in found.items() if name in wanted} == {
        name: array.tolist() for name, array in wanted.items()
    }
    assert not {"text", "part"} & found.keys()


@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_or_cut_matlab_file_is_no_worse_than_refused(packed: bool) -> None:
    """SciPy's reader ends the process on some of these."""
    images, _ = colours(1)
    buffer, generator = io.BytesIO(), np.random.default_rng(0)
    savemat(buffer, {"data": rows(images)}, do_compression=packed)
    whole = buffer.getvalue()
    for _ in range(1000):
        content = bytearray(whole)
        content[generator.integers(124, 220)] = generator.integers(0, 256)
        with contextlib.suppress(ValueError):
            byte_arrays(bytes(content))
    assert byte_arrays(whole[:128]) == {}
    for length in (0, 127, *range(129, 400), *range(400, len(whole), 97)):
        with pytest.raises(ValueError, match=r"cut short|damaged|not a little-endian"):
            byte_arrays(whole[:length])


@pytest.mark.parametrize("version", [b"\x00\x02IM", b"\x01\x00MI"])
def test_other_versions_of_matlab_files_are_refused(version: bytes) -> None:
    with pytest.raises(ValueError, match="not a little-endian MATLAB 5 file"):
        byte_arrays(bytes(124) + version + bytes(200))


def test_a_packed_matlab_array_is_checked(tmp_path: Path) -> None:
    images, labels = colours()
    buffer = io.BytesIO()
    savemat(buffer, {"data": rows(images), "labels": np.array([labels], np.uint8)}, do_compression=True)
    content = bytearray(buffer.getvalue())
    (tmp_path / "test_batch.mat").write_bytes(content)
    assert open_labelled(tmp_path, CIFAR).labels.tolist() == labels
    content[5000] ^= 1  # a pixel
    (tmp_path / "test_batch.mat").write_bytes(content)
    assert refusal(tmp_path, CIFAR) == "test_batch.mat is no MATLAB 5 file, damaged or cut short; fetch it again"
