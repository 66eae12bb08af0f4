"""One model, from job to bundle: build, load, fold, freeze, compare, evaluate, publish.

A stage that fails raises with its report, and nothing is published.
"""

import codecs
import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bundle.errors import BundleError, BundleExistsError
from bundle.manifest import Evaluation, Folding, Manifest
from bundle.store import GOLDEN, LABELS, MODEL, check_name, parse_labels, versions, write_bundle
from export.architectures import Architecture, find
from export.data import DIGITS, digits, png
from export.evaluate import evaluate
from export.fold import fold_batchnorm, prove
from export.graph import Normalize, serialize, to_onnx
from export.jobs import FreezeJob, TrainJob
from export.verify import compare, golden, parity_samples, require, sample_images
from export.weights import Loaded, load

log = logging.getLogger(__name__)

Evaluations = tuple[Evaluation, ...]


def freeze(job: FreezeJob) -> Path:
    """Publishes a checkpoint, or random weights, as a bundle; returns its folder.

    Raises:
        ExportError, BundleError: what is wrong, and that nothing was published.
    """
    architecture = find(job.network)
    _require_free(job)
    content = None if job.labels is None else _read_labels(job.labels)
    log.info("loading %s", job.weights)
    loaded = load(architecture, job.weights, classes=None if content is None else content.count(b"\n"))
    classes = loaded.architecture.classes
    labels = tuple(map(str, range(classes))) if content is None else parse_labels(content, classes)
    return publish(job, loaded, labels)


def train(job: TrainJob) -> Path:
    """Trains a network, publishes its best epoch with the accuracy of its graph on the test part."""
    from export.train import train_digits  # noqa: PLC0415 Lightning takes seconds to import, and only this needs it

    architecture = find(job.network)
    _require_free(job)
    loaded = train_digits(architecture, job.seed)
    return publish(job, loaded, DIGITS, lambda model: _evaluate_digits(model, architecture))


def publish(
    job: FreezeJob | TrainJob,
    loaded: Loaded,
    labels: tuple[str, ...],
    evaluations: Callable[[bytes], Evaluations] = lambda _: (),
) -> Path:
    """Folds, freezes, compares, evaluates and writes a network with its weights."""
    network, architecture = loaded.network, loaded.architecture
    reference = Normalize(network, architecture.mean, architecture.std).eval()
    log.info("folding")
    folded, layers = fold_batchnorm(network)
    proof = _prove(architecture, network, folded, layers)
    log.info("freezing")
    model = serialize(to_onnx(folded, architecture))
    log.info("comparing with torch")
    parity = compare(reference, model, parity_samples(architecture.input), architecture.tolerance)
    require(parity)
    manifest = Manifest(
        architecture=architecture.name,
        classes=architecture.classes,
        input=architecture.input,
        parameters=parameters(network),
        folded_parameters=parameters(folded),
        macs=macs(architecture),
        source=loaded.source,
        folding=proof,
        parity=parity,
        evaluations=evaluations(model),
        tools={tool: version(tool) for tool in ("torch", "onnx", "onnxscript")},
        files={},
    )
    files = {
        MODEL: model,
        LABELS: "".join(f"{label}\n" for label in labels).encode(),
        GOLDEN: golden(reference, architecture.input).to_bytes(),
    }
    log.info("publishing")
    return write_bundle(job.repository, job.name or job.network, manifest, files, job.version)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def macs(architecture: Architecture) -> int:
    """Multiply-adds of the convolutions and linear layers for one image at native size."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = architecture.build(architecture.classes, architecture.channels).eval()
        network(torch.zeros(1, architecture.channels, architecture.size, architecture.size))
    return int(counter.get_total_flops()) // 2


def _prove(architecture: Architecture, network: nn.Module, folded: nn.Module, layers: int) -> Folding:
    images = torch.from_numpy(sample_images(4, architecture.input.size, architecture.channels)).double() / 255
    mean, std = torch.tensor(architecture.mean).double(), torch.tensor(architecture.std).double()
    return prove(network, folded, layers, ((images - mean) / std).permute(0, 3, 1, 2))


def _evaluate_digits(model: bytes, architecture: Architecture) -> Evaluations:
    """The only place where the test part is read: after the epoch was chosen and the graph was compared."""
    log.info("evaluating")
    test = digits().test
    images = [png(image) for image in test.images]
    return tuple(
        evaluate(model, architecture.input, images, test.classes, data="digits, test part", views=views).evaluation
        for views in ("center", "ten_crop")
    )


def _require_free(job: FreezeJob | TrainJob) -> None:
    """What `write_bundle` would refuse after minutes of work is refused at once."""
    name = check_name(job.name or job.network)
    if job.version in versions(job.repository, name):
        raise BundleExistsError(f"{name} has a version {job.version}; leave --version out, or choose another")


def _read_labels(path: Path) -> bytes:
    """The file, with a newline at the end of every line, and without the mark that some editors put first."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read; check the path given with --labels") from error
    return content.removeprefix(codecs.BOM_UTF8).removesuffix(b"\n") + b"\n"
