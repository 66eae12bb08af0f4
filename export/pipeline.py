"""One model, from job to bundle: build, load, fold, freeze, compare, evaluate, publish.

A stage that fails raises with its report, and nothing is published.
"""

import codecs
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from bundle.errors import BundleError, BundleExistsError
from bundle.labelled import png
from bundle.manifest import Evaluation, Folding, Manifest, Parity
from bundle.preprocess import Pixels
from bundle.store import GOLDEN, LABELS, MODEL, check_name, parse_labels, write_bundle
from export.architectures import Architecture, find
from export.convolutional import explicit, sliding
from export.cost import count_macs, find_costs
from export.data import digits
from export.errors import ExportError, GraphError, ParityError
from export.evaluate import evaluate
from export.exporters import EXPORTERS
from export.fold import fold_batchnorm, prove
from export.graph import Normalize, serialize, to_onnx
from export.jobs import FreezeJob
from export.modules import Foreign, Shape, load_module, load_program
from export.overrides import as_published, overridden, reshaped
from export.train.job import TrainJob
from export.verify import (
    compare,
    find_images,
    golden,
    one_thread,
    own_samples,
    parity_samples,
    require,
    sample_images,
)
from export.weights import RANDOM, Loaded, load

log = logging.getLogger(__name__)

Evaluations = tuple[Evaluation, ...]


def freeze(job: FreezeJob) -> Path:
    """Publishes a checkpoint, or random weights, as a bundle; returns its folder.

    Raises:
        ExportError, BundleError: what is wrong, and that nothing was published.
    """
    _require_free(job.repository, job.model, job.version)
    content = None if job.labels is None else _read_labels(job.labels)
    images = [] if job.images is None else find_images(job.images)
    log.info("loading %s", job.weights or job.program or job.module)
    source = _load(job, None if content is None else content.count(b"\n"))
    source = replace(source, architecture=overridden(source.architecture, job))
    classes = source.architecture.classes
    labels = tuple(map(str, range(classes))) if content is None else parse_labels(content, classes)
    return publish(job, source, labels, images=images)


def _load(job: FreezeJob, classes: int | None) -> Loaded:
    """The network that a job names, with its weights; `classes` is the number of labels."""
    shape = None if job.input is None else Shape.parse(job.input)
    if job.program is not None:
        return load_program(job.program, shape, dynamic=job.dynamic)
    if job.module is not None and shape is not None:
        return load_module(job.module, shape, weights=job.weights, classes=classes, dynamic=job.dynamic)
    if job.network is None or job.weights is None:
        raise ExportError("name a network with its weights, a module with its input, or a program")
    architecture = find(job.network)
    if job.weights.startswith(RANDOM):
        architecture = overridden(reshaped(architecture, job), job)
    loaded = load(architecture, job.weights, classes=classes)
    return replace(loaded, architecture=as_published(loaded.architecture, loaded.source))


def train(job: TrainJob) -> Path:
    """Trains a network and publishes its best epoch; of the digits with the accuracy of its graph on their test part.

    Raises:
        ExportError, BundleError, LabelledError: what is wrong, and that nothing was published.
    """
    from export.train.run import train as learn  # noqa: PLC0415 Lightning takes seconds to import, only this needs it

    architecture = find(job.network)
    _require_free(job.repository, job.model, job.version)
    content = None if job.labels is None else _read_labels(job.labels)
    labels = None if content is None else parse_labels(content, content.count(b"\n"))
    trained = learn(job, architecture, labels)
    if job.data != "digits":
        return publish(job, trained.loaded, trained.labels)
    return publish(job, trained.loaded, trained.labels, lambda model: _evaluate_digits(model, architecture))


@one_thread()
def publish(
    job: FreezeJob | TrainJob,
    loaded: Loaded,
    labels: tuple[str, ...],
    evaluations: Callable[[bytes], Evaluations] = lambda _: (),
    images: Sequence[Path] = (),
) -> Path:
    """Folds, freezes, compares, evaluates and writes a network with its weights.

    Args:
        job: what was asked for.
        loaded: the network.
        labels: of its classes.
        evaluations: of the graph's bytes.
        images: the user's own, compared in addition.
    """
    network, architecture = loaded.network, loaded.architecture
    samples = [*parity_samples(architecture.input), *own_samples(images, architecture.input)]
    reference = Normalize(explicit(network, architecture.window), architecture.preprocessing).eval()
    log.info("folding")
    folded, proof = _fold(loaded)
    exporter, model, parity = _freeze(folded, architecture, reference, samples)
    parity = parity.model_copy(update={"images": len(images)})
    manifest = Manifest(
        architecture=architecture.name,
        classes=architecture.classes,
        input=architecture.input,
        parameters=parameters(network),
        folded_parameters=parameters(folded),
        macs=count_macs(network, architecture.input),
        costs=find_costs(folded, architecture.input) if architecture.dynamic else (),
        source=loaded.source,
        folding=proof,
        parity=parity,
        evaluations=evaluations(model),
        tools={"exporter": exporter} | {tool: version(tool) for tool in ("torch", "onnx", "onnxscript")},
        files={},
    )
    files = {
        MODEL: model,
        LABELS: "".join(f"{label}\n" for label in labels).encode(),
        GOLDEN: golden(reference, architecture.input).to_bytes(),
    }
    log.info("publishing")
    try:
        return write_bundle(job.repository, job.model, manifest, files, job.version)
    except OSError as error:
        raise ExportError(f"{job.model} cannot be written to {job.repository}: {error.strerror or error}") from error


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _fold(loaded: Loaded) -> tuple[nn.Module, Folding]:
    """The network without BatchNorm, and the proof that it is still the same one."""
    architecture = loaded.architecture
    images = torch.from_numpy(sample_images(4, architecture.input.size, architecture.channels))
    exact = Normalize(nn.Identity(), architecture.preprocessing).double().normalized(images)
    layers = loaded.layers if isinstance(loaded, Foreign) else sliding(loaded.network, architecture.window)
    folded, count = fold_batchnorm(layers, exact.float())
    return folded, prove(loaded.network, folded, count, exact)


def _freeze(
    folded: nn.Module, architecture: Architecture, reference: nn.Module, samples: Sequence[Pixels]
) -> tuple[str, bytes, Parity]:
    """The graph of the first exporter that makes one which answers as torch does.

    Raises:
        ExportError: no exporter does; it says what was wrong with each.
    """
    failed: list[GraphError | ParityError] = []
    for name, exporter in EXPORTERS.items():
        try:
            log.info("freezing through %s", name)
            model = serialize(to_onnx(folded, architecture, exporter))
            log.info("comparing with torch")
            parity = compare(reference, model, samples, architecture.tolerance)
            require(parity)
        except (GraphError, ParityError) as error:
            log.info("%s: %s", name, error)
            failed.append(error)
        else:
            return name, model, parity
    reports = "; ".join(f"through {name}: {error}" for name, error in zip(EXPORTERS, failed, strict=True))
    raise ExportError(f"{architecture.name} cannot be frozen; {reports}") from failed[0]


def _evaluate_digits(model: bytes, architecture: Architecture) -> Evaluations:
    """The only place where the test part is read: after the epoch was chosen and the graph was compared."""
    log.info("evaluating")
    test = digits().test
    images = [png(image) for image in test.images]
    return tuple(
        evaluate(model, architecture.input, images, test.classes, data="digits, test part", views=views).evaluation
        for views in ("center", "ten_crop")
    )


def _require_free(repository: Path, name: str, version: int | None) -> None:
    """What `write_bundle` would refuse after minutes of work is refused at once."""
    folder = repository / check_name(name)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BundleError(f"{name} is a link or a file in the repository; export into a real folder")
    if version is not None and os.path.lexists(folder / str(version)):
        raise BundleExistsError(f"{name} has a version {version}; leave --version out, or choose another")


def _read_labels(path: Path) -> bytes:
    """The file, with a newline at the end of every line, and without the mark that some editors put first."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read; check the path given with --labels") from error
    return content.removeprefix(codecs.BOM_UTF8).removesuffix(b"\n") + b"\n"
