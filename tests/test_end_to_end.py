"""From weights to an HTTP answer: what a client is told is what torch says, image for image."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from bundle import store
from bundle.aggregate import Average
from bundle.labelled import png
from export import architectures, pipeline
from export.data import digits
from export.evaluate import evaluate
from export.graph import Normalize
from export.jobs import FreezeJob
from export.train.job import TrainJob
from export.weights import load
from live import encode, serve
from service.settings import Settings


def ask(client: httpx.Client, model: str, image: bytes, **params: str | int) -> dict[str, Any]:
    answer = client.post(f"/v1/models/{model}:classify", content=image, params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ask_all(client: httpx.Client, model: str, images: list[bytes], **params: str | int) -> list[dict[str, Any]]:
    """Several at once, so that they share lanes and batches."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda image: ask(client, model, image, **params), images))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    pipeline.train(TrainJob(network="lenet5", data="digits", repository=folder))
    return folder


@pytest.fixture(scope="module")
def lenet(trained: Path) -> Iterator[httpx.Client]:
    with serve(Settings(repository=trained, port=0)) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["center", "ten_crop"])
def test_digits_over_http_are_the_evaluation_in_process(trained: Path, lenet: httpx.Client, plan: str) -> None:
    bundle = store.open_bundle(trained, "lenet5", 1)
    test = digits().test
    images = [png(image) for image in test.images]
    expected = evaluate(bundle.model, bundle.manifest.input, images, test.classes, data="digits", views=plan)
    answers = ask_all(lenet, "lenet5", images, views=plan)
    best = [answer["predictions"][0] for answer in answers]
    assert [score["index"] for score in best] == [answer.index for answer in expected.answers]
    assert [score["probability"] for score in best] == pytest.approx(
        [answer.probability for answer in expected.answers], abs=1e-6
    )
    right = sum(score["index"] == truth for score, truth in zip(best, test.classes, strict=True))
    published = {evaluation.views: evaluation.top1 for evaluation in bundle.manifest.evaluations}
    assert right == published[plan]
    print(f"digits {plan}: {right} of {len(images)} = {right / len(images):.2%}")


@pytest.mark.slow
def test_the_center_crop_reads_98_percent_of_the_digits(trained: Path) -> None:
    manifest = store.open_bundle(trained, "lenet5", 1).manifest
    center = next(evaluation for evaluation in manifest.evaluations if evaluation.views == "center")
    assert center.images == 360
    assert center.top1 / center.images >= 0.98


@pytest.mark.slow
def test_every_cifar_image_over_http_is_answered_as_torch_does(shared: Path, tmp_path: Path) -> None:
    """The public ResNet-20: 915 of the first 1000 test images, in torch on whole float images and over HTTP."""
    weights = shared / "weights/cifar10_resnet20-12fca82f.th"
    data = np.load(shared / "cifar10/cifar10_test_first1000.npz")
    images, labels = data["images"], data["labels"]

    row = architectures.find("resnet20")
    network = load(row, str(weights)).network.eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        logits = network((pixels - mean) / std)
    truth = torch.softmax(logits, 1).numpy()

    pipeline.freeze(FreezeJob(network="resnet20", weights=str(weights), repository=tmp_path))
    with serve(Settings(repository=tmp_path, port=0)) as client:
        answers = ask_all(client, "resnet20", [encode(Image.fromarray(image)) for image in images], top_k=10)
    found = np.zeros_like(truth)
    for number, answer in enumerate(answers):
        for score in answer["predictions"]:
            found[number, score["index"]] = score["probability"]
    assert found.argmax(1).tolist() == truth.argmax(1).tolist()
    assert (found.argmax(1) == labels).sum() == 915
    # Logits up to the constant that softmax forgets, of the answers that are not rounded away.
    shown = np.minimum(found, truth) > 1e-30
    apart = np.abs(np.log(np.where(shown, found, 1)) - np.log(np.where(shown, truth, 1)))
    assert np.abs(found - truth).max() < 1e-5
    print(f"915 of 1000; largest |probability difference| {np.abs(found - truth).max():.1e}, |log| {apart.max():.1e}")


@pytest.mark.parametrize("averaging", ["probabilities", "logits"])
def test_ten_views_of_a_photograph_are_torch_on_ten_crops(tmp_path: Path, averaging: Average) -> None:
    """Straight-line torch and Pillow: resize the whole image, cut, mirror, run one view after the other."""
    from sklearn.datasets import load_sample_images  # noqa: PLC0415 slow to import, and only this test needs it

    photo = Image.fromarray(load_sample_images().images[0])  # 640 x 427
    pipeline.freeze(FreezeJob(network="resnet18", weights="random:3", repository=tmp_path))
    row = architectures.find("resnet18")
    network = Normalize(load(row, "random:3").network, row.preprocessing).eval()

    resized = photo.resize((383, 256), Image.Resampling.BILINEAR)
    corners = [(0, 0), (159, 0), (0, 32), (159, 32), (80, 16)]  # (383 - 224) / 2 = 79.5 goes to the even 80
    crops = [resized.crop((x, y, x + 224, y + 224)) for x, y in corners]
    views = [view for crop in crops for view in (crop, crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT))]
    with torch.inference_mode():
        logits = torch.cat([network(torch.from_numpy(np.asarray(view)[None].copy()))[0] for view in views]).double()
    expected = logits.softmax(1).mean(0) if averaging == "probabilities" else logits.mean(0).softmax(0)

    with serve(Settings(repository=tmp_path, port=0)) as client:
        answer = ask(client, "resnet18", encode(photo), views="ten_crop", average=averaging, top_k=1000)
    views = answer["views"]
    assert (views["plan"], views["planned"], views["computed"], views["average"]) == ("ten_crop", 10, 10, averaging)
    found = {score["index"]: score["probability"] for score in answer["predictions"]}
    # One level of a pixel here and there separates cutting first from resizing first (tests/bundle).
    assert [found[index] for index in range(1000)] == pytest.approx(expected.tolist(), rel=1e-2, abs=1e-6)
