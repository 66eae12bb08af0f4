"""How many pixels the views of one image may have, wherever they are run; what they may cost is the operator's."""

import math
from collections.abc import Sequence

from bundle.views import ViewPlan

MAX_VIEW_PIXELS = 3 << 19
"""Of one view, 1.5 Mi: a network keeps dozens of float32 maps of it, gigabytes for the whole of a 20:1 image."""

MAX_SCALED_PIXELS = 1 << 25
"""Of the resized images of a plan together, which are kept until its last view is drawn: 96 MiB in RGB, and as much
again of their mirror images."""

MAX_DRAWN_PIXELS = 1 << 27
"""Of the views of a plan together, which may all be drawn before the first of them is run: 384 MiB in RGB."""


def over_bounds(plans: Sequence[ViewPlan]) -> str | None:
    """Why the views of one image are too large; None when they are not.

    Args:
        plans: their distinct views; several of an ensemble, which all look at the image at once.
    """
    names = ", ".join(dict.fromkeys(plan.name for plan in plans))
    views = [view for plan in plans for view in plan]
    largest = max((view.size for view in views), key=math.prod)
    if math.prod(largest) > MAX_VIEW_PIXELS:
        return (
            f"a view of {names} would be {largest.width} x {largest.height}, at most {MAX_VIEW_PIXELS} pixels are"
            " allowed; cut the image, or ask for views of the native size"
        )
    scaled = sum(math.prod(size) for plan in plans for size in {view.resized for view in plan})
    if scaled > MAX_SCALED_PIXELS:
        return (
            f"{names} would resize the image to {scaled} pixels, at most {MAX_SCALED_PIXELS} are allowed;"
            " cut the image, or ask for fewer scales"
        )
    drawn = sum(math.prod(view.size) for view in views)
    if drawn > MAX_DRAWN_PIXELS:
        return (
            f"{len(views)} views of {names} have {drawn} pixels, at most {MAX_DRAWN_PIXELS} are allowed; ask for fewer"
            " or smaller views"
        )
    return None
