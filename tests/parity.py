"""The comparison of a frozen network with torch at few and small images, for tests."""

from bundle.views import Size
from export.verify import compare, sample_images
from frozen import Frozen


def worst(frozen: Frozen, *sizes: Size) -> float:
    """The largest |difference| by the largest |logit| over batches of 1 and 3, and two images of each of `sizes`."""
    row = frozen.loaded.architecture
    native = sample_images(3, row.input.size, row.channels)
    samples = [native[:1], native, *(sample_images(2, size, row.channels) for size in sizes)]
    return max(case.max_rel for case in compare(frozen.reference, frozen.model, samples, row.tolerance).cases)
