"""Real networks on real images: in process and through a server, with every view and with early exit."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import HttpUrl

import mnist
from bundle import store
from bundle.accuracy import Accuracy
from bundle.labelled import Example, Labelled, open_labelled
from bundle.plans import PUBLISHED
from export import pipeline
from export.evaluate import Measurement, measure
from export.jobs import FreezeJob
from labelling import CIFAR, rows
from live import serve
from service.client import Client
from service.commands.evaluate import EvaluateJob, evaluate
from service.settings import Settings

pytestmark = pytest.mark.slow

SMALL_PLANS = ("center", "flips", "shifts")


@pytest.fixture(scope="module")
def cifar_file(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """The first 1000 test images in CIFAR-10's binary form."""
    arrays = np.load(shared / "cifar10" / "cifar10_test_first1000.npz")
    file = tmp_path_factory.mktemp("cifar") / "test_batch.bin"
    file.write_bytes(np.hstack([arrays["labels"].astype(np.uint8)[:, None], rows(arrays["images"])]).tobytes())
    return file


@pytest.fixture(scope="module")
def cifar(cifar_file: Path) -> Labelled:
    return open_labelled(cifar_file, CIFAR)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """ResNet-20 with its published weights, three networks for MNIST, and these as an ensemble."""
    folder = tmp_path_factory.mktemp("real") / "models"
    (folder.parent / "cifar.txt").write_text("\n".join(CIFAR))
    pipeline.freeze(
        FreezeJob(
            network="resnet20",
            weights=str(shared / "weights" / "cifar10_resnet20-12fca82f.th"),
            labels=folder.parent / "cifar.txt",
            repository=folder,
        )
    )
    for network in ("lenet5", "lenet_caffe", "lenet5_1998"):
        mnist.publish(network, shared / "mnist" / "train-images-idx3-ubyte.gz", folder, epochs=2, part=":10000")
    (folder / "three").mkdir()
    (folder / "three" / "ensemble.toml").write_text(
        """members = [
            {model = "mnist_lenet5", weight = 0.3},
            {model = "mnist_lenet_caffe", weight = 0.5, views = "five_crop"},
            {model = "mnist_lenet5_1998", weight = 0.2, views = "shifts"},
        ]"""
    )
    return folder


@pytest.fixture(scope="module")
def digits(shared: Path) -> Labelled:
    """2,000 of the 10,000 images that no training saw."""
    return open_labelled(shared / "mnist", [str(digit) for digit in range(10)], "50000:52000")


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[httpx.Client]:
    with serve(Settings(repository=repository, port=0)) as client:
        yield client


def measured(repository: Path, name: str, data: Labelled, plan: str, stop: str = "never") -> Measurement:
    return measure(store.open_bundle(repository, name, 1), data, PUBLISHED[plan], stop=stop)


def asked(client: httpx.Client, name: str, data: Labelled, **options: str | int) -> list[dict[str, Any]]:
    def ask(example: Example) -> dict[str, Any]:
        answer = client.post(f"/v1/models/{name}:classify", content=example.image, params=options)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, data))


@pytest.mark.parametrize(("plan", "right"), [("center", 915), ("flips", 931), ("shifts", 920)])
def test_resnet20_over_http_is_the_evaluation_in_process_image_for_image(
    repository: Path, client: httpx.Client, cifar: Labelled, plan: str, right: int
) -> None:
    expected = measured(repository, "resnet20", cifar, plan)
    answers = asked(client, "resnet20", cifar, views=plan, top_k=1)
    best = [answer["predictions"][0] for answer in answers]
    assert [score["index"] for score in best] == [answer.index for answer in expected.answers if answer]
    assert [score["probability"] for score in best] == pytest.approx(
        [answer.probability for answer in expected.answers if answer], abs=1e-5
    )
    assert expected.accuracy.top1 == right
    print(f"ResNet-20 {plan}: error {expected.accuracy.error():.2f} %, 95 % {expected.accuracy.interval()}")


def test_the_command_counts_through_the_server_what_is_counted_in_process(
    repository: Path, client: httpx.Client, cifar: Labelled, cifar_file: Path
) -> None:
    url = str(client.base_url)
    job = EvaluateJob(url=HttpUrl(url), model="resnet20", data=cifar_file, views=SMALL_PLANS, part=":300")
    with Client(url) as ours:
        found = [evaluated.accuracy for evaluated in evaluate(job, ours)]
    expected = [measured(repository, "resnet20", cifar.part(":300"), plan).accuracy for plan in SMALL_PLANS]
    assert [facts(result) for result in found] == [facts(result) for result in expected]


@pytest.mark.parametrize("plan", ["flips", "shifts"])
def test_exact_never_changes_the_best_class_of_cifar(repository: Path, cifar: Labelled, plan: str) -> None:
    unchanged(repository, "resnet20", cifar, plan)


@pytest.mark.parametrize("network", ["lenet5", "lenet_caffe", "lenet5_1998"])
@pytest.mark.parametrize("plan", ["ten_crop", "shifts"])
def test_exact_never_changes_the_best_class_of_mnist(
    repository: Path, digits: Labelled, network: str, plan: str
) -> None:
    unchanged(repository, f"mnist_{network}", digits, plan)


def unchanged(repository: Path, name: str, data: Labelled, plan: str) -> None:
    full, early = (measured(repository, name, data, plan, stop) for stop in ("never", "exact"))
    changed = [
        place
        for place, (whole, part) in enumerate(zip(full.answers, early.answers, strict=True))
        if whole is None or part is None or whole.index != part.index
    ]
    assert changed == []
    assert early.accuracy.mean_views <= full.accuracy.mean_views
    print(f"{name} {plan}: {early.accuracy.mean_views:.3f} of {full.accuracy.mean_views:g} views, 0 changed")


def test_exact_over_http_stops_where_it_stops_in_process(
    repository: Path, client: httpx.Client, digits: Labelled
) -> None:
    expected = measured(repository, "mnist_lenet5", digits, "shifts", "exact")
    answers = asked(client, "mnist_lenet5", digits, views="shifts", stop="exact", top_k=1)
    assert [answer["views"]["computed"] for answer in answers] == [a.views for a in expected.answers if a]
    assert [a["predictions"][0]["index"] for a in answers] == [a.index for a in expected.answers if a]


def test_an_ensemble_of_three_is_the_mean_of_what_they_say(client: httpx.Client, digits: Labelled) -> None:
    some = digits.part("0:100")
    together = probabilities(asked(client, "three", some, top_k=10))
    parts = [
        0.3 * probabilities(asked(client, "mnist_lenet5", some, top_k=10)),
        0.5 * probabilities(asked(client, "mnist_lenet_caffe", some, top_k=10, views="five_crop")),
        0.2 * probabilities(asked(client, "mnist_lenet5_1998", some, top_k=10, views="shifts")),
    ]
    difference = np.abs(together - sum(parts)).max()
    assert difference < 1e-6
    print(f"largest |probability difference| of the ensemble from the mean by hand: {difference:.1e}")


def probabilities(answers: list[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[images, classes]"""
    found = np.full((len(answers), 10), np.nan)
    for row, answer in zip(found, answers, strict=True):
        for score in answer["predictions"]:
            row[score["index"]] = score["probability"]
    return found


def facts(result: Accuracy) -> dict[str, Any]:
    """But for the speed."""
    return result.model_dump(exclude={"images_per_second"})
