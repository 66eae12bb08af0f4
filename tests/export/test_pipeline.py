"""From job to bundle; nothing is published when a step fails."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn

from bundle.errors import BundleError, BundleExistsError
from bundle.store import Bundle, open_bundle
from export import architectures, catalogue
from export.architectures import find
from export.errors import ExportError, FoldError, WeightsError
from export.evaluate import evaluate
from export.jobs import FreezeJob
from export.models.lenet import LeNet5
from export.models.resnet_cifar import CifarResNet
from export.pipeline import freeze
from export.verify import open_session, run
from export.weights import random_network
from live import encode, serve
from samples import photographs
from service.settings import Settings


@pytest.fixture
def job(tmp_path: Path) -> FreezeJob:
    return FreezeJob(network="lenet5", weights="random:0", repository=tmp_path / "models")


def labels(job: FreezeJob, count: int) -> Path:
    path = job.repository.parent / "labels.txt"
    path.write_text("".join(f"class {index}\n" for index in range(count)))
    return path


def published(job: FreezeJob) -> list[Path]:
    return sorted(job.repository.rglob("*")) if job.repository.exists() else []


def test_a_bundle_opens_and_passes_its_golden_check(job: FreezeJob) -> None:
    folder = freeze(job.model_copy(update={"network": "resnet20"}))
    bundle = open_bundle(job.repository, "resnet20", 1)
    manifest = bundle.manifest
    assert folder == job.repository / "resnet20" / "1"
    assert bundle.golden.check(run(open_session(bundle.model), bundle.golden.images), "cpu") < 1e-5
    assert bundle.labels == tuple("0123456789")
    assert (manifest.parameters, manifest.folded_parameters, manifest.macs) == (269_722, 269_034, 40_551_040)
    assert (manifest.folding.layers, len(manifest.parity.cases)) == (19, 6)
    assert (manifest.source.kind, manifest.source.name) == ("random", "random:0")
    assert manifest.tools.keys() == {"exporter", "torch", "onnx", "onnxscript"}
    assert manifest.evaluations == ()


def test_the_same_job_gives_the_same_digest(job: FreezeJob) -> None:
    freeze(job)
    freeze(job)
    assert open_bundle(job.repository, "lenet5", 1).digest == open_bundle(job.repository, "lenet5", 2).digest


def test_labels_name_version_and_classes(job: FreezeJob) -> None:
    folder = freeze(job.model_copy(update={"labels": labels(job, 37), "name": "mine", "version": 5}))
    bundle = open_bundle(job.repository, "mine", 5)
    assert folder == job.repository / "mine" / "5"
    assert (bundle.manifest.classes, len(bundle.labels), bundle.labels[36]) == (37, 37, "class 36")


def test_a_checkpoint_of_ones_own(job: FreezeJob) -> None:
    colour = find("lenet5").shaped(3, 3)
    weights = job.repository.parent / "mine.pth"
    torch.save({"model": random_network(colour, 1).state_dict()}, weights)
    freeze(job.model_copy(update={"weights": str(weights), "labels": labels(job, 3)}))
    manifest = open_bundle(job.repository, "lenet5", 1).manifest
    assert (manifest.classes, manifest.input.channels) == (3, 3)
    assert (manifest.source.kind, manifest.source.name) == ("file", "mine.pth")


def test_the_number_of_labels_must_be_the_number_of_classes(job: FreezeJob) -> None:
    weights = job.repository.parent / "mine.pth"
    torch.save(random_network(find("lenet5"), 1).state_dict(), weights)
    with pytest.raises(BundleError, match="there are 37 labels for 10 classes"):
        freeze(job.model_copy(update={"weights": str(weights), "labels": labels(job, 37)}))
    assert published(job) == []


def test_labels_of_other_editors_are_read(job: FreezeJob) -> None:
    path = labels(job, 0)
    path.write_bytes("\ufeffcat\r\nhérisson".encode())
    freeze(job.model_copy(update={"labels": path}))
    assert open_bundle(job.repository, "lenet5", 1).labels == ("cat", "hérisson")


def wrong_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(architectures.ARCHITECTURES, "lenet5", replace(find("lenet5"), tolerance=1e-12))


def wrong_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unfoldable(classes: int, channels: int) -> nn.Module:
        layers = OrderedDict(first=nn.BatchNorm2d(channels), relu=nn.ReLU(), rest=LeNet5(classes, channels))
        return nn.Sequential(layers)

    row = replace(find("lenet5"), build=unfoldable, head="rest.fc3.weight", stem="rest.conv1.weight")
    monkeypatch.setitem(architectures.ARCHITECTURES, "lenet5", row)


@pytest.mark.parametrize(("breaks", "error"), [(wrong_tolerance, ExportError), (wrong_network, FoldError)])
def test_nothing_is_published_when_a_step_fails(
    job: FreezeJob,
    monkeypatch: pytest.MonkeyPatch,
    breaks: Callable[[pytest.MonkeyPatch], None],
    error: type[ExportError],
) -> None:
    breaks(monkeypatch)
    with pytest.raises(error):
        freeze(job)
    assert published(job) == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"network": "resnet21"}, ExportError, "no network 'resnet21'"),
        ({"weights": "absent.pth"}, WeightsError, "absent.pth cannot be read"),
        ({"labels": Path("absent.txt")}, BundleError, "absent.txt cannot be read"),
        ({"name": "../up"}, BundleError, "no model name"),
    ],
)
def test_wrong_jobs_are_refused_at_once(
    job: FreezeJob, changes: dict[str, str | Path], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        freeze(job.model_copy(update=changes))
    assert published(job) == []


def test_a_version_that_is_there_is_refused_before_any_work(job: FreezeJob) -> None:
    (job.repository / "lenet5" / "4").mkdir(parents=True)
    with pytest.raises(BundleExistsError, match="lenet5 has a version 4"):
        freeze(job.model_copy(update={"version": 4, "weights": "absent.pth"}))


# --- preprocessing, overruled


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(random_network(find("resnet20"), 1).state_dict(), path)
    return path


def frozen(job: FreezeJob, **changes: Any) -> Bundle:
    values = {key: value for key, value in job.model_dump().items() if value is not None}
    folder = freeze(FreezeJob(**{**values, **changes}))
    return open_bundle(folder.parent.parent, folder.parent.name, int(folder.name))


def test_arithmetic_ends_in_the_graph(job: FreezeJob, checkpoint: Path) -> None:
    """Caffe's: BGR from 0 to 255, the mean taken off, a deviation that is not 1."""
    options = {"channels": "bgr", "scale": 1.0, "mean": (104.0, 117.0, 123.0), "std": (60.0,)}
    bundle = frozen(job, network="resnet20", weights=str(checkpoint), **options)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    network = find("resnet20").build(10, 3).double().eval()
    network.load_state_dict(torch.load(checkpoint))
    pixels = (images[..., ::-1].astype(np.float64) - [104, 117, 123]) / 60
    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
    found = run(open_session(bundle.model), images)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(run(open_session(bundle.model), images[..., ::-1]) - expected).max() > 0.01 * np.abs(expected).max()


def test_geometry_ends_in_the_manifest(job: FreezeJob, checkpoint: Path) -> None:
    bundle = frozen(job, network="resnet20", weights=str(checkpoint), resize=60, crop=48, interpolation="bicubic")
    wanted = bundle.manifest.input
    assert (wanted.height, wanted.width, wanted.resize, wanted.interpolation) == (48, 48, 60, "bicubic")
    assert bundle.golden.images.shape == (4, 48, 48, 3)
    assert bundle.manifest.macs == (40_551_040 - 640) * 48**2 // 32**2 + 640
    assert bundle.manifest.parity.cases[0].height == 48


def test_bicubic_images_are_evaluated_and_served_as_pillow_draws_them(job: FreezeJob, checkpoint: Path) -> None:
    bundle = frozen(job, network="resnet20", weights=str(checkpoint), interpolation="bicubic", resize=40)
    photo = photographs()[0].crop((100, 100, 400, 300))  # 300 x 200
    drawn = photo.resize((60, 40), Image.Resampling.BICUBIC).crop((14, 4, 46, 36))
    logits = run(open_session(bundle.model), np.asarray(drawn)[None]).astype(np.float64)[0]
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    (answer,) = evaluate(bundle.model, bundle.manifest.input, [encode(photo)], [0], data="one").answers
    assert answer.index == expected.argmax()
    assert answer.probability == pytest.approx(expected.max(), rel=1e-5)
    with serve(Settings(repository=job.repository, port=0)) as client:
        told = client.post("/v1/models/resnet20:classify?top_k=10", content=encode(photo)).json()["predictions"]
    assert [score["probability"] for score in told] == pytest.approx(sorted(expected, reverse=True), rel=1e-5)


def test_random_weights_may_be_grey_or_in_colour(job: FreezeJob) -> None:
    assert frozen(job, network="resnet20", channels="grey").manifest.input.channels == 1
    assert frozen(job, channels="rgb", mean=(0.5, 0.5, 0.5)).manifest.input.channels == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 28}, "lenet5 takes 32 x 32 pixels only; leave --crop 28 out"),
        ({"resize": 30}, "lenet5 resizes the shorter side to 30 and crops 32; give --resize 32 or more"),
        ({"network": "resnet20", "crop": 48}, "resizes the shorter side to 32 and crops 48; give --resize 48 or more"),
        ({"network": "resnet20", "crop": 7}, "resnet20 takes 8 x 8 pixels and more; --crop 7 is less"),
        ({"mean": (0.5, 0.5)}, "--mean has 2 values; lenet5 takes 1 channels"),
        ({"network": "resnet20", "std": (0.5, 0.5)}, "--std has 2 values; resnet20 takes 3 channels"),
    ],
)
def test_an_override_that_the_network_cannot_follow_is_refused(
    job: FreezeJob, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        frozen(job, **changes)
    assert published(job) == []


def test_the_channels_of_a_checkpoint_are_not_overruled(job: FreezeJob, checkpoint: Path) -> None:
    with pytest.raises(ExportError, match="resnet20 takes 3 channels; give --channels rgb or bgr"):
        frozen(job, network="resnet20", weights=str(checkpoint), channels="grey")


@pytest.mark.parametrize(
    "wrong",
    [{"mean": (float("nan"),)}, {"std": (0.0,)}, {"std": (-1.0,)}, {"std": (float("inf"),)}, {"scale": 0.0},
     {"scale": float("nan")}, {"resize": 0}, {"crop": 0}, {"channels": "hsv"}, {"interpolation": "nearest"}],
)  # fmt: skip
def test_numbers_that_no_image_could_use_are_refused(job: FreezeJob, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        frozen(job, **wrong)


# --- the user's own images


def test_own_images_are_compared_and_counted(job: FreezeJob) -> None:
    photos = job.repository.parent / "photos"
    photos.mkdir()
    for number, photo in enumerate(photographs()):
        photo.save(photos / f"{number}.jpg")
    parity = frozen(job, images=photos).manifest.parity
    assert parity.images == 2
    assert [case.batch for case in parity.cases] == [1, 2, 7, 32, 2]
    assert frozen(job).manifest.parity.images == 0


def test_a_wrong_folder_of_images_is_refused_before_any_work(job: FreezeJob) -> None:
    with pytest.raises(ExportError, match="absent is no folder; check the path given with --images"):
        frozen(job, images=Path("absent"), weights="absent.pth")


def test_public_weights_bring_their_own_geometry(
    monkeypatch: pytest.MonkeyPatch, job: FreezeJob, checkpoint: Path
) -> None:
    """As torchvision's second weights of ResNet-50, resized to 232; and what is asked for still overrules them."""
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    row = replace(catalogue.PUBLIC[-1], network="resnet20", file="mine.pth", sha256_prefix=digest[:8], resize=35)
    monkeypatch.setattr(catalogue, "PUBLIC", (row,))
    job = job.model_copy(update={"network": "resnet20", "weights": str(checkpoint)})
    assert frozen(job).manifest.input.resize == 35
    assert frozen(job, resize=44).manifest.input.resize == 44


def test_a_resnet_with_37_classes_answers_over_http(job: FreezeJob) -> None:
    bundle = frozen(job, network="resnet18", name="pets", labels=labels(job, 37), crop=64, resize=64)
    photo = photographs()[1].resize((64, 64))
    expected = run(open_session(bundle.model), np.asarray(photo)[None]).argmax()
    with serve(Settings(repository=job.repository, port=0)) as client:
        answer = client.post("/v1/models/pets:classify?top_k=37", content=encode(photo)).json()
    assert answer["predictions"][0]["label"] == f"class {expected}"
    assert sum(score["probability"] for score in answer["predictions"]) == pytest.approx(1)


@pytest.mark.slow
def test_resnet50_with_37_classes(job: FreezeJob) -> None:
    freeze(job.model_copy(update={"network": "resnet50", "labels": labels(job, 37)}))
    bundle = open_bundle(job.repository, "resnet50", 1)
    graph = onnx.load_from_string(bundle.model).graph
    assert sum(node.op_type == "BatchNormalization" for node in graph.node) == 0
    assert [case.batch for case in bundle.manifest.parity.cases] == [1, 2, 7, 32, 2, 1]
    assert bundle.manifest.folding.layers == 53
    assert bundle.manifest.folded_parameters == 25_530_472 - 963 * 2049
    images = np.zeros((3, 224, 224, 3), np.uint8)
    assert run(open_session(bundle.model), images).shape == (3, 37)


def test_public_resnet20_is_right_915_times_of_1000(shared: Path, tmp_path: Path) -> None:
    weights = shared / "weights" / "cifar10_resnet20-12fca82f.th"
    with np.load(shared / "cifar10" / "cifar10_test_first1000.npz") as arrays:
        images, classes = arrays["images"], arrays["labels"]

    network = CifarResNet(3).eval()
    state = torch.load(weights, weights_only=True, map_location="cpu")["state_dict"]
    network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()}, strict=False)
    pixels = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.inference_mode():
        answers = network(torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float()).argmax(1).numpy()
    assert (answers == classes).sum() == 915

    freeze(FreezeJob(network="resnet20", weights=str(weights), repository=tmp_path))
    bundle = open_bundle(tmp_path, "resnet20", 1)
    pictures = [encode(Image.fromarray(image)) for image in images]
    found = evaluate(
        bundle.model, bundle.manifest.input, pictures, classes, data="CIFAR-10, first 1000 of the test part"
    )
    assert found.evaluation.top1 == 915
    assert [answer.index for answer in found.answers] == answers.tolist()


@pytest.mark.slow
def test_the_digest_does_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    """GoogLeNet: its float32 sums in torch differ between one and two threads."""
    job = FreezeJob(network="googlenet_2014", weights="random:0", repository=tmp_path)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            freeze(job)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    digests = [open_bundle(tmp_path, job.model, version).digest for version in (1, 2)]
    assert digests[0] == digests[1]
