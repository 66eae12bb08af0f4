"""From a job to what is to be restored: its images, checked against each other."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import mse_loss

from export.errors import ExportError
from export.restore.degradation import Downsampled, Masked, add_noise, psnr, random_mask
from export.restore.fit import Observation
from export.restore.job import DenoiseJob, InpaintJob, RestorationJob, SuperresolveJob
from export.restore.pictures import read, size

MOST_PIXELS = 1024 * 1024
"""Of the picture: a fit keeps every layer's values for its gradients."""


@dataclass(frozen=True)
class Restoration:
    """What is to be restored."""

    observed: Observation
    truth: torch.Tensor | None = None
    """[1, 3, height, width]; only looked at"""
    known: torch.Tensor | None = None
    """of inpainting, [1, 1, height, width]: 1 where the image is known"""

    def finish(self, picture: torch.Tensor) -> torch.Tensor:
        """The picture that is written, of the generator's: what is known of it stays as it is."""
        return picture if self.known is None else torch.where(self.known > 0, self.observed.target, picture)

    def psnr(self, picture: torch.Tensor) -> float | None:
        """Of what would be written, in dB; None without a truth."""
        return None if self.truth is None else psnr(mse_loss(self.finish(picture), self.truth).item())


def prepare(job: RestorationJob) -> Restoration:
    """Reads the images of a job.

    Raises:
        ExportError: one cannot be read, or does not fit the others.
    """
    image = read(job.image, "IMAGE")
    height, width = (_factor(job) * side for side in image.shape[2:])
    if height * width > MOST_PIXELS:
        raise ExportError(
            f"{job.image.name}: the picture would be {width} x {height}; at most {MOST_PIXELS} pixels are fitted, cut "
            "the image or scale it down"
        )
    truth = None if job.truth is None else read(job.truth, "--truth")
    if job.truth is not None and truth is not None and truth.shape[2:] != (height, width):
        raise ExportError(f"{job.truth.name} is {size(truth)}, and the picture will be {width} x {height}")
    return _restoration(job, image, truth)


def _restoration(job: RestorationJob, image: torch.Tensor, truth: torch.Tensor | None) -> Restoration:
    height, width = (_factor(job) * side for side in image.shape[2:])
    random = torch.Generator().manual_seed(job.seed)
    if isinstance(job, InpaintJob):
        known = random_mask(height, width, job.missing, random) if job.missing else _mask(job, image)
        masked = Masked(known)
        truth = image if truth is None and job.missing else truth
        return Restoration(Observation(masked(image), masked, height, width), truth, known)
    if isinstance(job, DenoiseJob) and job.add_noise:
        noisy = add_noise(image, job.add_noise, random)
        return Restoration(Observation(noisy, nn.Identity(), height, width), image if truth is None else truth)
    degradation = Downsampled(job.factor) if isinstance(job, SuperresolveJob) else nn.Identity()
    return Restoration(Observation(image, degradation, height, width), truth)


def _factor(job: RestorationJob) -> int:
    return job.factor if isinstance(job, SuperresolveJob) else 1


def _mask(job: InpaintJob, image: torch.Tensor) -> torch.Tensor:
    """1 where the mask is lighter than middle grey."""
    if job.mask is None:
        raise ExportError("say what is missing: --mask FILE, or --missing 0.5 to try it out")
    mask = read(job.mask, "--mask", channels=1)
    if mask.shape[2:] != image.shape[2:]:
        raise ExportError(f"{job.mask.name} is {size(mask)} and {job.image.name} is {size(image)}; make them one size")
    known = (mask > 0.5).float()  # noqa: PLR2004 the middle
    if not known.any():
        raise ExportError(f"{job.mask.name} is black: no pixel is known; make white what is")
    return known
