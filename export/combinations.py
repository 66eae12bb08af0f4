"""Which versions, plans and stop rules a frontier measures, and on which images."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from bundle.aggregate import Average
from bundle.calibration import Calibration, read_calibrations
from bundle.errors import BundleError, ImageError
from bundle.labelled import Labelled, open_labelled
from bundle.plan import Plan
from bundle.plans import PUBLISHED, read_plans
from bundle.preprocess import ImageLimits, probe
from bundle.stop import Rule
from bundle.store import versions
from bundle.views import Size, View, ViewPlan
from export.errors import ExportError
from export.evaluate import choose, parse_stop
from export.frontier_page import LeftOut
from export.jobs import FrontierJob
from export.target import Target, find_bundle

MOST_VIEWS = 500
"""Of a plan that nobody named: larger ones are for who asks."""


@dataclass(frozen=True)
class Combination:
    """What will be measured."""

    target: Target
    plan: Plan
    average: Average
    stop: str
    rule: Rule
    calibrations: dict[str, Calibration]


def find_targets(paths: Iterable[Path]) -> list[Target]:
    """The bundles at REPOSITORY/NAME/VERSION, or all of REPOSITORY/NAME; each of them once.

    Raises:
        ExportError: there is none, one is not whole, or two have the same NAME/VERSION.
    """
    found: dict[str, Target] = {}
    for path in chain.from_iterable(map(_versions, paths)):
        try:
            target = find_bundle(path)
        except BundleError as error:
            raise ExportError(
                f"{path.parent.name}/{path.name}: {error}; or name the versions that are whole"
            ) from error
        if found.setdefault(target.name, target).bundle.digest != target.bundle.digest:
            raise ExportError(f"two of the bundles are {target.name}; rename one of the models, to tell them apart")
    return list(found.values())


def _versions(path: Path) -> list[Path]:
    folder = path.resolve()
    return [folder / str(version) for version in versions(folder.parent, folder.name)] or [path]


def open_data(job: FrontierJob, targets: Sequence[Target]) -> Labelled:
    """The images, whose classes must have the same numbers for all bundles."""
    opened: dict[tuple[str, ...], tuple[Target, Labelled]] = {}
    for target in targets:
        if target.bundle.labels not in opened:
            opened[target.bundle.labels] = target, open_labelled(job.data, target.bundle.labels, job.part)
    (first, data), *others = opened.values()
    for other, its in others:
        if its.digest() != data.digest():
            raise ExportError(f"{first.name} and {other.name} have other classes; compare models of the same classes")
    return data


def combine(job: FrontierJob, targets: Sequence[Target], data: Labelled) -> tuple[list[Combination], list[LeftOut]]:
    """What can be measured, and what cannot with the reason.

    Raises:
        ExportError: nothing can be, or a stop is none.
    """
    for stop in job.stop:
        parse_stop(stop)
    sizes = _sizes(data)
    found: list[Combination] = []
    left: list[LeftOut] = []
    twins: set[tuple[str, str]] = set()
    for target in targets:
        calibrations = read_calibrations(target.folder, target.bundle.digest)
        plans, refused = _plans(job, target)
        left += [LeftOut(model=target.name, views=name, reason=reason) for name, reason in refused.items()]
        for plan, stop in _with_stops(plans, job.stop):
            try:
                how, rule = choose(target.bundle, plan, job.average, stop, calibrations)
            except ExportError as error:
                if (target.name, plan.name) not in twins:  # of those it is said once why
                    left.append(LeftOut(model=target.name, views=plan.name, reason=str(error)))
                continue
            new = Combination(target, plan, how, stop, rule, calibrations)
            if twin := next((other for other in found if _same(new, other, sizes)), None):
                reason = f"on these images its views are those of {twin.plan.name}"
                left.append(LeftOut(model=target.name, views=plan.name, reason=reason))
                twins.add((target.name, plan.name))
            else:
                found.append(new)
    if not found:
        raise ExportError("; ".join(f"{one.model} with {one.views}: {one.reason}" for one in left[:3]))
    return found, list(dict.fromkeys(left))


def _with_stops(plans: Iterable[Plan], stops: Sequence[str]) -> Iterator[tuple[Plan, str]]:
    for plan in plans:
        for stop in stops if len(plan) > 1 else ["never"]:  # one view cannot stop earlier
            yield plan, stop


def _sizes(data: Labelled) -> list[Size]:
    """The different sizes of the images."""
    sizes: dict[Size, None] = {}
    for example in data:
        with contextlib.suppress(ImageError):  # it is said where it is measured
            sizes[probe(example.image, ImageLimits())] = None
    return list(sizes)


def _same(one: Combination, other: Combination, sizes: Sequence[Size]) -> bool:
    """Whether two are one on images of these sizes: ten_crop is flips where crops fill the image."""
    if one.target is not other.target or one.average != other.average:
        return False
    wanted = one.target.bundle.manifest.input
    pairs = ((_parts(one.plan.views(size, wanted)), _parts(other.plan.views(size, wanted))) for size in sizes)
    # A single view cannot stop earlier, whatever the rule.
    return all(mine == its and (one.rule == other.rule or len(mine) == 1) for mine, its in pairs)


def _parts(plan: ViewPlan) -> list[View]:
    """The distinct views with their part of the whole weight."""
    views = plan.distinct().views
    total = sum(view.weight for view in views)
    return [replace(view, weight=round(view.weight / total, 9)) for view in views]


def _plans(job: FrontierJob, target: Target) -> tuple[list[Plan], dict[str, str]]:
    """Those that are asked for, or all of a reasonable size, that the network can run; of the others the reason."""
    custom, refused = read_plans(target.folder)
    known = {**PUBLISHED, **custom}
    plans, reasons = [], {}
    for name in dict.fromkeys(job.views or (*known, *refused)):
        if name not in known:
            reasons[name] = refused.get(name, f"there is no such plan; choose one of {', '.join(known)}")
        elif reason := known[name].refusal(target.bundle.manifest.input):
            reasons[name] = reason
        elif job.views is None and len(known[name]) > MOST_VIEWS:
            reasons[name] = f"it has {len(known[name])} views; name it with --views"
        else:
            plans.append(known[name])
    return plans, reasons
