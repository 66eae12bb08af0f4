"""The command `frontier`: versions x plans on labelled images, error against cost, and what to deploy.

bundles -> combinations -> measure, latency -> Frontier -> frontier.png .svg .html .json, serving.toml
"""

import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import onnxruntime
import PIL
import torch
from tqdm import tqdm

from bundle.accuracy import keep
from bundle.aggregate import Average
from bundle.beside import write_atomically
from bundle.errors import ImageError
from bundle.labelled import Labelled
from bundle.plan import Plan
from bundle.preprocess import ImageLimits, probe
from bundle.serving import SERVING
from bundle.stop import Rule
from export.combinations import Combination, combine, find_targets, open_data
from export.errors import ExportError
from export.evaluate import Measurement, measure
from export.frontier_page import Frontier
from export.goals import Configuration, Goals, decide
from export.jobs import FrontierJob
from export.plot import draw, to_png
from export.runner import Runner
from export.svg import to_svg
from export.target import Target

ALONE = 20
"""Images whose latency is measured."""
ENOUGH_SECONDS = 10
"""After so long three of them are enough."""


def run(job: FrontierJob) -> Frontier:
    """Measures, and writes all files.

    Raises:
        ExportError, BundleError, LabelledError: before anything is measured, where nothing can be.
    """
    targets = find_targets(job.bundles)
    _require_apart(job.out, targets)
    goals = Goals(error=job.error, gmacs=job.gmacs, latency_ms=job.latency_ms, throughput=job.throughput)
    data = open_data(job, targets)
    combinations, left = combine(job, targets, data)
    _require_places(job.out, targets)
    found, unread = _measure(combinations, data)
    configurations = tuple(sorted(found, key=lambda c: (c.accuracy.gmacs, c.error)))
    frontier = Frontier(
        data=data.name,
        data_sha256=data.digest(),
        images=len(data),
        unread=unread,
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        alone=min(ALONE, len(data) - unread),
        configurations=configurations,
        left_out=tuple(left),
        goals=goals,
        answer=decide(configurations, goals) if goals.bounds() else None,
        tools={"onnxruntime": onnxruntime.__version__, "Pillow": PIL.__version__},
    )
    _write(frontier, job.out)
    return frontier


def latency_ms(runner: Runner, images: Sequence[bytes], plan: Plan, rule: Rule, how: Average) -> float:
    """The median time of one image alone, on one thread: decoded, drawn, run, averaged.

    Args:
        runner: of the bundle.
        images: encoded, none of them damaged; the first is also run before, to warm up.
        plan: of the views.
        rule: when to stop.
        how: over the views.
    """
    times: list[float] = []
    for image in [images[0], *images]:
        started = time.perf_counter()
        runner.answer(image, plan, rule, how)
        times.append(time.perf_counter() - started)
        if len(times) > 3 and sum(times) > ENOUGH_SECONDS:  # noqa: PLR2004 one to warm up and three
            break
    return 1000 * statistics.median(times[1:])


def _require_apart(out: Path, targets: Sequence[Target]) -> None:
    """A repository's folders are models, and a serving.toml written to one would be in force at once."""
    for target in targets:
        if target.folder.parent in (out.resolve(), *out.resolve().parents):
            raise ExportError(f"{out} is in the repository, whose folders are models; choose another place with --out")


def _require_places(out: Path, targets: Sequence[Target]) -> None:
    """Whether results can be written is seen before hours of work, not after."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{out} cannot be made a folder: {error.strerror}; choose another --out") from error
    for target in targets:
        keep(target.folder, target.bundle.digest, [])


def _measure(combinations: Sequence[Combination], data: Labelled) -> tuple[list[Configuration], int]:
    """Measures one after the other, and keeps each result beside its bundle; also how many images are unreadable."""
    first = data[0].image
    costs = [_seconds(each, first) for each in combinations]
    found: list[Configuration] = []
    unread = 0
    runner: Runner | None = None
    with _progress(sum(costs) * len(data)) as bar:
        for each, cost in zip(combinations, costs, strict=True):
            bundle = each.target.bundle
            if runner is None or bundle.digest != found[-1].digest:  # one session a bundle, one at a time
                runner = Runner(bundle.model, bundle.manifest.input)
            bar.set_description_str(f"{each.target.name} {each.plan.name}")
            measurement = measure(
                bundle,
                data,
                each.plan,
                average=each.average,
                stop=each.stop,
                calibrations=each.calibrations,
                runner=runner,
                answered=partial(bar.update, cost),
            )
            keep(each.target.folder, bundle.digest, [measurement.accuracy])
            unread = max(unread, len(measurement.unread))
            some = _some(data, measurement)
            found.append(
                Configuration(
                    model=bundle.name,
                    version=bundle.version,
                    digest=bundle.digest,
                    accuracy=measurement.accuracy,
                    latency_ms=latency_ms(runner, some, each.plan, each.rule, each.average),
                )
            )
    return found, unread


def _some(data: Labelled, measurement: Measurement) -> list[bytes]:
    """Images that can be read, from everywhere in the data: their order is often that of the classes."""
    places = [place for place, answer in enumerate(measurement.answers) if answer]
    count = min(len(places), ALONE)
    return [data[places[index * len(places) // count]].image for index in range(count)]


def _progress(total: float) -> "tqdm[NoReturn]":
    layout = "{desc} |{bar}| {percentage:.0f}%, {elapsed} so far, about {remaining} to go"
    return tqdm(total=total, bar_format=layout, smoothing=0.05, disable=None)


def _seconds(combination: Combination, image: bytes) -> float:
    """About how long an image takes in comparison with other plans."""
    manifest = combination.target.bundle.manifest
    try:
        size = probe(image, ImageLimits())
    except ImageError:
        size = manifest.input.size
    views = combination.plan.views(size, manifest.input).distinct()
    return 1e-3 + sum(1e-4 + manifest.macs_at(view.size) / 25e9 for view in views)


def _write(frontier: Frontier, out: Path) -> None:
    """All files of the frontier; those of an earlier one are replaced, its serving.toml too."""
    chosen = frontier.answer.configuration if frontier.answer and frontier.answer.met else None
    figure = draw(frontier.configurations, frontier.goals, chosen)
    svg = to_svg(figure, frontier.configurations)
    write_atomically(out / "frontier.png", to_png(figure))
    write_atomically(out / "frontier.svg", svg.encode())
    write_atomically(out / "frontier.json", frontier.model_dump_json(indent=1).encode() + b"\n")
    write_atomically(out / "frontier.html", frontier.html(svg).encode())
    if chosen is None:
        (out / SERVING).unlink(missing_ok=True)
    else:
        write_atomically(out / SERVING, frontier.serving().encode())
