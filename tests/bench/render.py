"""What drawing the views of one image costs: as it is done here, and each view by itself.

    python tests/bench/render.py [--image FILE] [--plans googlenet_144 vgg_150] [--rounds 7]

Two sizes of the same photograph: 12 megapixels (or FILE as it is) and 500 x 375. "By itself" resizes the whole image
for every view, cuts, resizes whole squares again and mirrors. Milliseconds are CPU time of the one thread, which a busy
machine does not stretch. The peak of memory is that of a process of its own (Linux), beyond the decoded image and the
rows that are drawn into. Prints tables and writes JSON.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

sys.path[:0] = [str(Path(__file__).parents[2])]

from bundle.manifest import Input
from bundle.plans import PUBLISHED
from bundle.preprocess import ImageLimits, Pixels, decode
from bundle.render import render
from bundle.views import Size, View

NETWORK = Input(height=224, width=224, channels=3, dynamic=False, resize=256)
LARGE, SMALL = Size(4000, 3000), Size(500, 375)


@dataclass(frozen=True)
class Cost:
    plan: str
    image: Size
    views: int
    ours_ms: float
    plain_ms: float
    ours_mb: float
    """Peak memory, 10^6 bytes."""
    plain_mb: float
    levels: int
    """The largest difference of a value between the two."""
    differ: float
    """The part of values that differ."""


def draw_plainly(image: Image.Image, views: Sequence[View], rows: Pixels) -> None:
    """Each view by itself."""
    for row, view in zip(rows, views, strict=True):
        left, top, width, height = view.box
        whole = image.resize(view.resized, Image.Resampling.BILINEAR)
        cut = whole.crop((left, top, left + width, top + height))
        if cut.size != view.size:
            cut = cut.resize(view.size, Image.Resampling.BILINEAR)
        row[:] = np.asarray(ImageOps.mirror(cut) if view.mirrored else cut)


Way = Callable[[Image.Image, Sequence[View], Pixels], None]
WAYS: dict[str, Way] = {"ours": render, "plain": draw_plainly}


def load(path: Path | None, size: Size | None) -> Image.Image:
    """The photograph, or scikit-learn's, filling `size`."""
    if path is None:
        from sklearn.datasets import load_sample_images  # noqa: PLC0415 the child that measures memory has no use for it

        image = Image.fromarray(load_sample_images().images[0])
    else:
        image = decode(path.read_bytes(), 3, ImageLimits())
    return image if size is None else ImageOps.fit(image, size, Image.Resampling.BICUBIC)


def planned(plan: str, image: Image.Image) -> tuple[list[View], Pixels]:
    """The views that are computed, and filled rows for them."""
    views = list(PUBLISHED[plan].views(Size(*image.size), NETWORK).distinct())
    return views, np.full((len(views), *NETWORK.size, 3), 77, np.uint8)


def peak(way: str, plan: str, file: Path) -> float:
    """Of a process of its own, in 10^6 bytes."""
    command = [sys.executable, __file__, "--child", way, plan, str(file)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(way: str, plan: str, file: Path) -> None:
    image = Image.open(file).convert("RGB")
    views, rows = planned(plan, image)
    # getrusage's peak would hold the decoder's own and what the parent had when it started this process.
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water()
    WAYS[way](image, views, rows)
    print((high_water() - before) / 1e6)


def high_water() -> int:
    """The process's peak of memory since it was last cleared, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def measure(plan: str, image: Image.Image, rounds: int, folder: Path) -> Cost:
    views, ours = planned(plan, image)
    plain = ours.copy()
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, rows in (("ours", ours), ("plain", plain)):
            started = time.process_time()
            WAYS[way](image, views, rows)
            times[way].append(1000 * (time.process_time() - started))
    difference = np.maximum(ours, plain) - np.minimum(ours, plain)
    file = folder / "render.png"
    image.save(file, compress_level=1)
    peaks = {way: peak(way, plan, file) for way in WAYS}
    file.unlink()
    return Cost(
        plan=plan,
        image=Size(*image.size),
        views=len(views),
        ours_ms=statistics.median(times["ours"]),
        plain_ms=statistics.median(times["plain"]),
        ours_mb=peaks["ours"],
        plain_mb=peaks["plain"],
        levels=int(difference.max()),
        differ=float((difference > 0).mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a photograph; scikit-learn's, scaled up, when left out")
    parser.add_argument("--plans", nargs="+", default=["googlenet_144", "vgg_150"], choices=PUBLISHED)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("build/render.json"))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, plan, file = options.child
        print_peak(way, plan, Path(file))
        return
    options.json.parent.mkdir(parents=True, exist_ok=True)
    costs = []
    for size in (None if options.image else LARGE, SMALL):
        image = load(options.image, size)
        for plan in options.plans:
            cost = measure(plan, image, options.rounds, options.json.parent)
            print("{plan:<14} {image[0]:>5} x {image[1]:<5} ours {ours_ms:7.1f} ms {ours_mb:6.1f} MB   by itself "
                  "{plain_ms:8.1f} ms {plain_mb:6.1f} MB   at most {levels} level, {differ:.1e} of the values"
                  .format(**asdict(cost)), flush=True)  # fmt: skip
            costs.append(asdict(cost))
    options.json.write_text(json.dumps(costs, indent=1))


if __name__ == "__main__":
    main()
