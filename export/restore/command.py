"""The command `restore`: one damaged image in, one picture out, and nothing learned from any other image."""

import torch
from tqdm import tqdm

from export.errors import ExportError
from export.restore.fit import Fit, Step
from export.restore.freeze import freeze
from export.restore.job import RestorationJob
from export.restore.pictures import write
from export.restore.recipes import recipe
from export.restore.restoration import Restoration, prepare

SHOWN = 10
"""Steps between two looks at the truth."""


def tell(job: RestorationJob) -> str:
    """Restores an image, writes what was asked for, and says what is known of it.

    Raises:
        ExportError: what is wrong with what was asked, seen before the work where it can be.
    """
    _require_places(job)
    restoration = prepare(job)
    pictures, restarts = [], 0
    for run in range(job.runs):
        fit = Fit(restoration.observed, recipe(job), job.seed + run, job.average)
        pictures.append(_run(fit, restoration, job, run))
        restarts += fit.restarts
    picture = torch.stack(pictures).mean(0)
    write(restoration.finish(picture), job.out)
    lines = [str(job.out)]
    if (found := restoration.psnr(picture)) is not None:
        lines.append(f"PSNR to the truth {found:.2f} dB")
    if restarts:
        lines.append(f"the fit fell apart {restarts} times, and went on with earlier weights each time")
    if job.freeze is not None:
        difference = freeze(fit.generator, fit.z, job.freeze)
        lines.append(f"{job.freeze} differs from the fitted generator by {difference:.1e} of 1 at most")
    return "\n".join(lines)


def _require_places(job: RestorationJob) -> None:
    """Whether there is a place for what is written is seen before the work, not after."""
    for option, path in (("--out", job.out), ("--freeze", job.freeze)):
        if path is not None and not path.parent.is_dir():
            raise ExportError(f"{path}: there is no folder {path.parent}; make it, or choose another {option}")
    if job.frames is not None:
        try:
            job.frames.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExportError(
                f"{job.frames} cannot be made a folder: {error.strerror}; choose another --frames"
            ) from error


def _run(fit: Fit, restoration: Restoration, job: RestorationJob, run: int) -> torch.Tensor:
    """The picture of one fit, with what is seen of it on the way."""
    picture = fit.last()
    title = f"run {run + 1} of {job.runs}" if job.runs > 1 else job.net
    with tqdm(total=fit.recipe.iterations, desc=title, unit="step", disable=None) as bar:
        for step in fit:
            picture = step.picture
            bar.update(step.number - bar.n)
            if step.number % SHOWN == 0:
                bar.set_postfix_str(_seen(step, restoration), refresh=False)
            if job.frames is not None and step.number % job.every == 0:
                name = f"{run * fit.recipe.iterations + step.number:06}.png"
                write(restoration.finish(picture), job.frames / name)
    return picture if job.average else fit.last()


def _seen(step: Step, restoration: Restoration) -> str:
    said = f"PSNR to the input {step.fitted:.2f} dB"
    truth = restoration.psnr(step.picture)
    return said if truth is None else f"{said}, to the truth {truth:.2f} dB"
