"""Golden inputs: a few images with the logits expected for them, checked wherever a bundle is loaded.

A float graph is expected to answer as torch did, one of lower precision as it did itself where it was made: what it
lost against the float graph is in its manifest, and a kernel that computes otherwise is noticed.
"""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bundle.errors import BundleError
from bundle.manifest import Precision
from bundle.preprocess import Pixels

TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3}
"""The bound on the largest |difference| by the largest |logit|, per execution provider, for float32."""

TOLERANCES: dict[Precision, dict[str, float]] = {
    "fp32": TOLERANCE,
    "fp16": {"cpu": 5e-2, "cuda": 5e-2},
    "int8": {"cpu": 5e-2, "cuda": 5e-2},
}
"""The same for each precision. int8: kernels that do not saturate give the same sums, and ranges are reduced so that
those of old CPUs do not (docs/adr/0008-quantize.md); one that did anyway was off by 0.18."""


@dataclass(frozen=True)
class Golden:
    images: Pixels
    """uint8 [n, height, width, channels]"""
    logits: npt.NDArray[np.float32]
    """float32 [n, classes]"""
    tolerance: dict[str, float]
    """Provider to bound, see `TOLERANCE`."""

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        bounds = np.array(list(self.tolerance.items()), dtype=[("provider", "U16"), ("bound", "f8")])
        np.savez_compressed(buffer, images=self.images, logits=self.logits, tolerance=bounds)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Golden":
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                bounds = {str(provider): float(bound) for provider, bound in arrays["tolerance"]}
                return cls(arrays["images"], arrays["logits"], bounds)
        except Exception as error:
            raise BundleError("golden.npz is not readable; export the bundle again") from error

    def require_fit(self, shape: tuple[int, int, int], classes: int) -> None:
        """Raises BundleError unless this is of a network with that input (height, width, channels) and classes."""
        if self.images.dtype != np.uint8 or self.images.shape[1:] != shape or not len(self.images):
            raise BundleError(f"golden.npz: the images are {self.images.shape}, the network takes {shape}")
        if self.logits.shape != (len(self.images), classes) or not np.isfinite(self.logits).all():
            raise BundleError(f"golden.npz: the answers are not {len(self.images)} times {classes} finite numbers")
        if self.tolerance.keys() != TOLERANCE.keys() or not all(0 < bound < 1 for bound in self.tolerance.values()):
            raise BundleError("golden.npz: the tolerances are not numbers between 0 and 1 for cpu and cuda")

    def check(self, logits: npt.NDArray[np.float32], provider: str) -> float:
        """The largest |difference| by the largest |logit|.

        Raises:
            BundleError: over the bound of the provider, or not finite.
        """
        if logits.shape != self.logits.shape:
            raise BundleError(f"golden.npz: the graph answers {logits.shape}, expected {self.logits.shape}")
        error = float(np.abs(logits - self.logits).max() / np.abs(self.logits).max())
        bound = self.tolerance[provider]
        if not error <= bound:  # a NaN is refused too
            raise BundleError(f"golden.npz: the answers are off by {error:.2g} of the largest, {bound:.2g} is allowed")
        return error
