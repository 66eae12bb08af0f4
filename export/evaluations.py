"""The command `evaluate`: how often a bundle is right on labelled images, one row a plan."""

from collections.abc import Mapping, Sequence

from tqdm import tqdm

from bundle.accuracy import keep, table
from bundle.calibration import Calibration, read_calibrations
from bundle.labelled import Labelled, open_labelled
from bundle.plan import Plan
from bundle.store import Bundle
from export.evaluate import Measurement, Unread, choose, measure
from export.jobs import EvaluateJob
from export.runner import Runner
from export.target import Target, find_bundle


def tell(job: EvaluateJob) -> str:
    """Measures each plan, keeps the results beside the bundle, and says them.

    Raises:
        ExportError, BundleError, LabelledError: before anything runs, where the bundle cannot do one of them.
    """
    target = find_bundle(job.bundle)
    data = open_labelled(job.data, target.bundle.labels, job.part)
    calibrations = read_calibrations(target.folder, target.bundle.digest)
    plans = target.plans(dict.fromkeys(job.views))
    for plan in plans:
        choose(target.bundle, plan, job.average, job.stop, calibrations)
    keep(target.folder, target.bundle.digest, [])  # whether it can be is seen before hours of work, not after
    found, runner = [], Runner(target.bundle.model, target.bundle.manifest.input)
    for plan in plans:
        found.append(_measure(job, target.bundle, data, plan, calibrations, runner))
        path = keep(target.folder, target.bundle.digest, [found[-1].accuracy])  # of what is finished nothing is lost
    rows = table(measurement.accuracy for measurement in found)
    return "\n".join([heading(target, data), rows, *complaints(found[0].unread, "counted as wrong"), f"kept in {path}"])


def heading(target: Target, data: Labelled) -> str:
    """Which bundle was asked about which images."""
    return f"{target.name}, {len(data)} images of {data.name} (sha256:{data.digest()})"


def complaints(unread: Sequence[Unread], fate: str) -> list[str]:
    """How many images could not be read, then a line for each; nothing where all could."""
    if not unread:
        return []
    count = f"{len(unread)} images" if len(unread) > 1 else "1 image"
    return [f"{count} cannot be read, {fate}:", *(f"  {name}: {reason}" for name, reason in unread)]


def _measure(
    job: EvaluateJob,
    bundle: Bundle,
    data: Labelled,
    plan: Plan,
    calibrations: Mapping[str, Calibration],
    runner: Runner,
) -> Measurement:
    with tqdm(total=len(data), desc=plan.name, unit="image", disable=None) as bar:
        return measure(
            bundle,
            data,
            plan,
            average=job.average,
            stop=job.stop,
            calibrations=calibrations,
            runner=runner,
            answered=bar.update,
        )
