"""What a client is told of many views, against torch and the straight lines of tests/straight.py.

The networks are whole and their weights random: the largest probability of 1000 is 3e-3 to 2e-2.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import straight
from export import pipeline
from export.architectures import find
from export.graph import Normalize
from export.jobs import FreezeJob
from export.models.vgg import VGG
from export.verify import sample_images
from export.weights import Loaded, load
from live import encode, serve
from samples import photographs
from service.settings import Settings
from straight import PROTOCOLS, Answer

OF_CROPS, OF_WHOLE_IMAGES = 2e-5, 1e-7
"""Bounds on probabilities. Seen: 1e-8, and 4e-6 where crops are drawn one by one: then a cut resize moves a few hundred
of 150,528 values by one level."""


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Path]:
    """Removed at once: VGG-16 is half a gigabyte."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def published(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Loaded]:
    """Writes a bundle with random weights; gives its network in torch."""
    # What four batch sizes and other shapes prove is the subject of other tests, and half of the time of this one.
    monkeypatch.setattr(pipeline, "parity_samples", lambda wanted: [sample_images(2, wanted.size, wanted.channels)])

    def write(name: str) -> Loaded:
        loaded = load(find(name), "random:0")
        job = FreezeJob(network=name, weights="random:0", repository=repository)
        pipeline.publish(job, loaded, tuple(map(str, range(1000))))
        return loaded

    return write


def asked(client: httpx.Client, model: str, image: Image.Image, views: str) -> npt.NDArray[np.float64]:
    """The probabilities of all classes, over HTTP."""
    answer = client.post(
        f"/v1/models/{model}:classify", content=encode(image), params={"views": views, "top_k": 1000}, timeout=600
    )
    assert answer.status_code == 200, answer.text
    probabilities = {score["index"]: score["probability"] for score in answer.json()["predictions"]}
    return np.array([probabilities[index] for index in range(1000)])


def require_equal(
    what: str, found: npt.NDArray[np.float64], truth: list[Answer], wrong: list[Answer], bound: float
) -> None:
    """Compares with the mean of `truth`; that of `wrong`, a likely mistake, would be seen."""
    expected, mistake = straight.mean(truth), straight.mean(wrong)
    apart, visible = np.abs(found - expected), np.abs(mistake - expected).max()
    print(f"{what}: |p - p| {apart.max():.1e} of p up to {expected.max():.1e}; a mistake would be {visible:.1e}")
    assert apart.max() < bound
    assert visible > 10 * bound


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "views", "photograph", "bound"),
    [("googlenet", "googlenet_144", 0, OF_CROPS), ("resnet50", "dense_five_scale", 1, OF_WHOLE_IMAGES)],
)
def test_an_answer_over_http_is_that_of_the_straight_lines(
    repository: Path, published: Callable[[str], Loaded], model: str, views: str, photograph: int, bound: float
) -> None:
    loaded = published(model)
    network = Normalize(loaded.network, loaded.architecture.preprocessing).eval()
    image = photographs()[photograph]
    truth = straight.answers(network, PROTOCOLS[views](image, 224, 256))
    with serve(Settings(repository=repository, port=0, timeout=600)) as client:
        found = asked(client, model, image, views)
    require_equal(f"{model} {views}", found, truth, wrong=truth[::2], bound=bound)  # without the mirror images


@pytest.mark.slow
def test_what_vgg_says_of_crops_and_dense_and_both_is_that_of_the_straight_lines(
    repository: Path, published: Callable[[str], Loaded]
) -> None:
    """The 150 crops and the 6 whole images are run once in torch and serve all three comparisons."""
    image = photographs()[0]
    loaded = published("vgg16")
    vgg, preprocessing = cast("VGG", loaded.network), loaded.architecture.preprocessing
    of_crops = Normalize(vgg, preprocessing).eval()
    of_any_size = Normalize(straight.fully_convolutional(vgg.features, vgg.classifier), preprocessing).eval()
    crops = straight.answers(of_crops, straight.vgg_150(image, 224, 256))
    whole = straight.answers(of_any_size, straight.dense_multiscale(image, 224, 256))
    halves = [(p, 1 / 150) for p, _ in crops] + [(p, 1 / 6) for p, _ in whole]
    with serve(Settings(repository=repository, port=0, timeout=600)) as client:
        for views, truth, wrong, bound in (
            ("vgg_150", crops, crops[::2], OF_CROPS),
            ("dense_multiscale", whole, whole[::2], OF_WHOLE_IMAGES),
            ("multicrop_dense", halves, crops + whole, OF_CROPS),
        ):
            require_equal(f"vgg16 {views}", asked(client, "vgg16", image, views), truth, wrong, bound)
