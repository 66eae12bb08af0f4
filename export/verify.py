"""The comparison of the frozen graph with torch, on real pixels, as data."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn

from bundle.errors import ImageError
from bundle.golden import TOLERANCE, Golden
from bundle.manifest import Input, Parity, ParityCase
from bundle.preprocess import ImageLimits, Opened, Pixels
from bundle.render import Scaled, render
from bundle.views import Box, Size, View, center_view, shorter_side
from export.errors import ExportError, GraphError, ParityError

BATCHES = (1, 2, 7, 32)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

MOST_IMAGES = 64
"""Of the user's own that are compared: two full batches tell as much as a thousand."""

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
"""scikit-learn's."""


def sample_images(count: int, size: Size, channels: int, seed: int = 0) -> Pixels:
    """Images to try a network on: uint8 [count, height, width, channels], the same for the same arguments.

    The first two are the centres of two photographs, then come random crops of them at random scales; every fourth
    is noise.
    """
    generator = np.random.default_rng(seed)
    images = np.empty((count, size.height, size.width, channels), np.uint8)
    for index in range(count):
        photograph = _photograph(PHOTOGRAPHS[index % 2], channels)
        view = _view(photograph, size, None if index < len(PHOTOGRAPHS) else generator)
        render(photograph, [view], images[index : index + 1])
        if index % 4 == 3:  # noqa: PLR2004 every fourth
            images[index] = generator.integers(0, 256, images[index].shape, np.uint8)
    return images


def parity_samples(wanted: Input) -> list[Pixels]:
    """One array for each case of the comparison: four batch sizes, and two other shapes where it takes them."""
    images = sample_images(max(BATCHES), wanted.size, wanted.channels)
    cases = [images[:batch] for batch in BATCHES]
    if wanted.dynamic:
        landscape = Size(wanted.width * 5 // 4 + 1, wanted.height * 9 // 8 + 1)
        portrait = Size(wanted.width, wanted.height * 3 // 2)
        cases += [sample_images(2, landscape, wanted.channels), sample_images(1, portrait, wanted.channels)]
    return cases


def find_images(folder: Path) -> list[Path]:
    """The images of a folder and of those in it, at most `MOST_IMAGES`, evenly spaced in the order of their names.

    Raises:
        ExportError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise ExportError(f"{folder.name} is no folder; check the path given with --images")
    found = image_files(folder)
    if not found:
        raise ExportError(f"{folder.name} holds no {', '.join(SUFFIXES)} file; check the path given with --images")
    count = min(len(found), MOST_IMAGES)
    return [found[index * len(found) // count] for index in range(count)]


def image_files(folder: Path) -> list[Path]:
    """The images of a folder and of those in it, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def central_view(image: bytes, wanted: Input) -> Pixels:
    """The central view of an encoded image, uint8 [height, width, channels], as the service draws it.

    Raises:
        ImageError: it cannot be read.
    """
    opened = Opened(image, ImageLimits())
    view = center_view(opened.size, wanted.size, wanted.resize)
    rows = np.empty((1, wanted.height, wanted.width, wanted.channels), np.uint8)
    Scaled.of(opened, [view], wanted).draw([view], rows)
    drawn: Pixels = rows[0]
    return drawn


def own_samples(paths: Sequence[Path], wanted: Input) -> list[Pixels]:
    """The central views of images, in arrays of at most 32, as the service draws them.

    Raises:
        ExportError: a file cannot be read, or is no image.
    """
    rows = np.empty((len(paths), wanted.height, wanted.width, wanted.channels), np.uint8)
    for row, path in zip(rows, paths, strict=True):
        try:
            row[:] = central_view(path.read_bytes(), wanted)
        except (ImageError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ExportError(f"{path.name}, given with --images: {reason}") from error
    return [rows[start : start + max(BATCHES)] for start in range(0, len(rows), max(BATCHES))]


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch and new sessions compute on one core: float32 sums depend on how they are divided.

    What is measured is part of the manifest, and the digest must not depend on the number of cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """The graph on ONNX Runtime's CPU provider, on as many cores as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise GraphError(f"ONNX Runtime does not take the graph: {error}") from error


def run(session: onnxruntime.InferenceSession, images: Pixels) -> npt.NDArray[np.float32]:
    """The logits [n, classes]; GraphError where ONNX Runtime fails, for want of memory say."""
    try:
        logits: npt.NDArray[np.float32] = session.run(["logits"], {"images": images})[0]
    except Exception as error:
        raise GraphError(f"ONNX Runtime fails on images of shape {images.shape}: {error}") from error
    return logits


def compare(reference: nn.Module, model: bytes, samples: Sequence[Pixels], tolerance: float) -> Parity:
    """Compares the logits of the graph with those of torch.

    Args:
        reference: takes uint8 NHWC and returns (logits, probabilities), as `export.graph.Normalize` does.
        model: the graph's bytes.
        samples: one array for each case.
        tolerance: the bound on `max_rel`; only `require` asks for it.
    """
    session = open_session(model)
    cases = tuple(compare_case(ask(reference, images), run(session, images), images) for images in samples)
    return Parity(tolerance=tolerance, cases=cases)


def require(parity: Parity) -> None:
    """Raises `ParityError` unless every case is within the tolerance."""
    if not all(case.max_rel <= parity.tolerance for case in parity.cases):
        raise ParityError(parity)


def golden(reference: nn.Module, wanted: Input) -> Golden:
    """Four images with torch's logits: both photographs, a crop, noise."""
    images = sample_images(4, wanted.size, wanted.channels, seed=1)
    return Golden(images, ask(reference, images), dict(TOLERANCE))


def ask(reference: nn.Module, images: Pixels) -> npt.NDArray[np.float32]:
    """Torch's logits [n, classes]."""
    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = reference(torch.from_numpy(images))[0].numpy()
    return logits


def compare_case(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32], images: Pixels) -> ParityCase:
    """One comparison of logits [n, classes] for n images; GraphError where they are zero or not finite."""
    batch, height, width, _ = images.shape
    difference, largest = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    if not (np.isfinite(difference) and largest > 0):
        raise GraphError(f"logits are zero or not finite at batch {batch}, {height} x {width}; check the weights")
    return ParityCase(
        batch=batch,
        height=height,
        width=width,
        max_abs=difference,
        max_rel=difference / largest,
        top1_agreement=float((found.argmax(1) == expected.argmax(1)).mean()),
    )


@cache
def _photograph(name: str, channels: int) -> Image.Image:
    image = Image.fromarray(load_sample_image(name))
    return image.convert("L") if channels == 1 else image


def _view(image: Image.Image, size: Size, generator: np.random.Generator | None) -> View:
    """The centre of the image, or a random crop of it at a random scale."""
    whole, shorter = Size(*image.size), max(size)
    if generator is None:
        return center_view(whole, size, shorter)
    resized = shorter_side(whole, round(shorter * generator.uniform(1.0, 2.5)))
    left = int(generator.integers(0, resized.width - size.width + 1))
    top = int(generator.integers(0, resized.height - size.height + 1))
    return View(resized, Box(left, top, *size), size, mirrored=bool(generator.integers(0, 2)))
