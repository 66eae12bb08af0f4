"""What the command `quantize` says."""

from collections.abc import Iterable
from dataclasses import dataclass

from bundle.accuracy import Accuracy
from bundle.manifest import Manifest, Quantization, Tried
from bundle.store import Bundle
from export.evaluations import complaints
from export.quantize.images import Drawn
from export.target import Target


@dataclass(frozen=True)
class Quantized:
    """A bundle just published, and what is known of it."""

    target: Target
    """The float one."""
    published: Bundle
    drawn: Drawn | None
    figures: tuple[Accuracy, Accuracy] | None
    """Of the float graph and of the new one, on images that chose nothing."""
    speeds: tuple[float, float] | None
    """Images per second, likewise."""

    def text(self) -> str:
        manifest = self.published.manifest
        lines = [
            str(self.target.folder / str(self.published.version)),
            f"{manifest.precision} of {self.target.name} (sha256:{self.target.bundle.digest})",
            *self._facts(),
            *self._accuracy(manifest.precision),
        ]
        if self.speeds:
            before, after = self.speeds
            lines.append(f"speed: fp32 {before:.1f}, int8 {after:.1f} images/s, {after / before:.2f} times as fast")
        lines += complaints(self.drawn.unread if self.drawn else (), "left out")
        return "\n".join([*lines, f"sha256:{self.published.digest}"])

    def _facts(self) -> Iterable[str]:
        """Of the manifest."""
        manifest = self.published.manifest
        if (made := manifest.quantization) is None:
            return
        if made.calibration:
            yield f"calibrated on {made.calibration.images} images of {made.calibration.data}"
            yield from (_tried(tried, made) for tried in made.tried)
            yield f"layers in float: {', '.join(made.float_layers) or 'none'}"
        yield _parity(manifest, made)

    def _accuracy(self, precision: str) -> Iterable[str]:
        made = self.published.manifest.quantization
        if not (made and made.validation and self.figures):
            yield "accuracy: not known, no labels were given (--data)"
            return
        chosen = made.validation
        lost = 100 * (chosen.right_float - chosen.right) / chosen.images
        yield (
            f"validation: {chosen.images} images, {chosen.right_float} right in fp32, {chosen.right} in {precision}, "
            f"{abs(lost):.2f} points {'lost' if lost >= 0 else 'gained'}, {chosen.budget:g} may be lost"
        )
        before, after = self.figures
        yield (
            f"test: {after.images} images, top-1 error {_error(before)} in fp32, {_error(after)} in {precision}; "
            "kept beside the versions"
        )


def _tried(tried: Tried, made: Quantization) -> str:
    found = tried.difference
    right = "" if tried.right is None else f"{tried.right} right, "
    chosen = ", chosen" if tried.calibrator == made.calibrator else ""
    return (
        f"  {tried.calibrator}: {right}error {found.error:.2g} of the logits, "
        f"top-1 as in fp32 {found.top1_agreement:.1%}{chosen}"
    )


def _parity(manifest: Manifest, made: Quantization) -> str:
    worst = max(case.max_rel for case in manifest.parity.cases)
    found = made.difference
    return (
        f"parity with fp32: {found.images} images, error {found.error:.2g} of the logits, {found.max_rel:.2g} at most, "
        f"top-1 the same for {found.top1_agreement:.1%}; all shapes {worst:.2g} ({manifest.parity.tolerance:g} allowed)"
    )


def _error(figure: Accuracy) -> str:
    interval = figure.interval()
    return f"{figure.error():.2f} % ({interval.low:.2f}-{interval.high:.2f})"
