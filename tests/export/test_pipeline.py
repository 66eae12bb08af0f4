"""From job to bundle; nothing is published when a step fails."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from bundle.errors import BundleError, BundleExistsError
from bundle.store import open_bundle
from export import architectures
from export.architectures import find
from export.errors import ExportError, FoldError, ParityError, WeightsError
from export.evaluate import evaluate
from export.jobs import FreezeJob
from export.models.lenet import LeNet5
from export.models.resnet_cifar import CifarResNet
from export.pipeline import freeze
from export.verify import open_session, run
from export.weights import random_network


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
    assert (manifest.folding.layers, len(manifest.parity.cases)) == (19, 5)
    assert (manifest.source.kind, manifest.source.name) == ("random", "random:0")
    assert manifest.tools.keys() == {"torch", "onnx", "onnxscript"}
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


@pytest.mark.parametrize(("breaks", "error"), [(wrong_tolerance, ParityError), (wrong_network, FoldError)])
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


@pytest.mark.slow
def test_resnet50_with_37_classes(job: FreezeJob) -> None:
    freeze(job.model_copy(update={"network": "resnet50", "labels": labels(job, 37)}))
    bundle = open_bundle(job.repository, "resnet50", 1)
    graph = onnx.load_from_string(bundle.model).graph
    assert sum(node.op_type == "BatchNormalization" for node in graph.node) == 0
    assert [case.batch for case in bundle.manifest.parity.cases] == [1, 2, 7, 32, 2]
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
    pictures = [Image.fromarray(image) for image in images]
    found = evaluate(
        bundle.model, bundle.manifest.input, pictures, classes, data="CIFAR-10, first 1000 of the test part"
    )
    assert found.evaluation.top1 == 915
    assert [answer.index for answer in found.answers] == answers.tolist()
