"""The fit: a generator is taught to draw one picture, and is stopped before it can draw the damage too.

Ulyanov et al., "Deep Image Prior", equation 2: theta* = argmin E(f_theta(z); x0), with z fixed and a squared error
behind the degradation.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.functional import mse_loss

from export.errors import ExportError
from export.models.deep_image_prior import Generator
from export.restore.degradation import psnr
from export.restore.recipes import Recipe

CHECK = 20
"""Steps between two looks at whether the fit fell apart."""
FALL = 5.0
"""dB that it may lose between them."""


@dataclass(frozen=True)
class Observation:
    """What is known of a picture."""

    target: torch.Tensor
    """what was seen of it, [1, 3, h, w] from 0 to 1"""
    degradation: nn.Module
    """what turns the picture, [1, 3, height, width], into that"""
    height: int
    width: int


class Canvas(nn.Module):
    """A generator that draws on a grid which suits it, and of that the middle, which is the picture.

    No pixel of the image is cut off or made up: what the generator draws around the picture is not asked for.
    """

    def __init__(self, network: Generator, height: int, width: int) -> None:
        super().__init__()
        self.network = network
        self.height, self.width = height, width
        self.canvas = (self._enough(height), self._enough(width))
        self.top, self.left = (self.canvas[0] - height) // 2, (self.canvas[1] - width) // 2

    def _enough(self, side: int) -> int:
        multiple = self.network.multiple
        return max(-(-side // multiple) * multiple, self.network.smallest)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        drawn: torch.Tensor = self.network(z)
        return drawn[:, :, self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass
class Average:
    """The exponential mean of what is put in, without the bias of a start at 0."""

    decay: float
    mean: torch.Tensor | None = None
    _rest: float = field(default=1.0, init=False)

    def add(self, value: torch.Tensor) -> torch.Tensor:
        self._rest *= self.decay
        share = (1 - self.decay) / (1 - self._rest)
        self.mean = value.clone() if self.mean is None else self.mean.lerp_(value, share)
        return self.mean


@dataclass(frozen=True)
class Step:
    """Where the fit is after a step."""

    number: int
    """from 1"""
    fitted: float
    """PSNR of the output to what was seen, in dB"""
    picture: torch.Tensor
    """the mean of the outputs so far, [1, 3, height, width]; the next step changes it"""


class Fit:
    """A generator with random weights and its z; iterating fits it, a `Step` at a time.

    The same seed gives the same picture on the same machine with the same number of threads.

    Args:
        observed: what is known of the picture.
        recipe: which generator, and how it is fitted.
        seed: of weights, z and noise.
        average: how much of the mean of earlier outputs each step keeps; 0 keeps nothing.
    """

    def __init__(self, observed: Observation, recipe: Recipe, seed: int, average: float) -> None:
        self.observed, self.recipe = observed, recipe
        self.restarts = 0
        """how often earlier weights were taken again"""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generator = Canvas(recipe.build(), observed.height, observed.width)
        self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster, measured
        self._random = torch.Generator().manual_seed(seed)
        z = recipe.draw(*self.generator.canvas, self._random)
        self.z = z.contiguous(memory_format=torch.channels_last)
        self._average = Average(average)

    def __iter__(self) -> Iterator[Step]:
        """Fits.

        Raises:
            ExportError: an output is no number: Adam's moments are none either, and no step leads out of it.
        """
        optimizer = torch.optim.Adam(self.generator.parameters(), lr=self.recipe.rate)
        backup = _Backup(self.generator)
        for number in range(1, self.recipe.iterations + 1):
            output = self.generator(self._noisy())
            loss = mse_loss(self.observed.degradation(output), self.observed.target)
            _require_numbers(loss, f"the fit at step {number}")
            fitted = psnr(loss.item())
            if number % CHECK == 0 and backup.fell(fitted):
                self.restarts += 1
                continue
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own is untyped
            optimizer.step()
            yield Step(number, fitted, self._average.add(output.detach()))

    def last(self) -> torch.Tensor:
        """What the generator draws of z without noise, [1, 3, height, width].

        Raises:
            ExportError: it is no number.
        """
        with torch.no_grad():
            picture: torch.Tensor = self.generator(self.z)
        _require_numbers(picture, "what the generator draws")
        return picture

    def _noisy(self) -> torch.Tensor:
        if not self.recipe.noise:
            return self.z
        return self.z + self.recipe.noise * torch.randn(self.z.shape, generator=self._random)


def _require_numbers(values: torch.Tensor, what: str) -> None:
    if not values.isfinite().all():
        raise ExportError(f"{what} is no number any more; take another --seed, or fewer --iterations")


class _Backup:
    """The weights of some steps ago, taken again where the fit falls apart.

    Adam keeps what it knows, as in the public code: with its old moments too, a fit without noise would go the same way
    again.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._weights = copy.deepcopy(network.state_dict())
        self._fitted = float("-inf")

    def fell(self, fitted: float) -> bool:
        """Whether the weights had to be restored; else these are the ones to come back to."""
        if fitted < self._fitted - FALL:
            self._network.load_state_dict(self._weights)
            return True
        self._weights, self._fitted = copy.deepcopy(self._network.state_dict()), fitted
        return False
