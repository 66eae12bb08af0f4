"""What the deep image prior restores, against filling in and enlarging: figure 8 of its paper on one photograph.

    python tests/bench/prior.py [--image FILE] [--steps 1500] [--seed 0] [--json FILE] [--png FILE]

Half of the pixels left out at random; four times as large; both of 128 x 128 pixels. Of inpainted pictures the known
pixels are kept, as they are where neighbours fill in, and PSNR is over all pixels. All nets are fitted for
`--steps` steps, fewer than the paper's 3,001 and 11,000. Seconds are CPU time of all threads. Prints a table, writes
JSON and the pictures side by side.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy.interpolate import griddata
from sklearn.datasets import load_sample_image
from torch.nn.functional import mse_loss
from tqdm import tqdm

sys.path[:0] = [str(Path(__file__).parents[2])]

from export.models.deep_image_prior import encoder_decoder
from export.restore.degradation import Downsampled, Masked, psnr, random_mask
from export.restore.fit import Fit, Observation
from export.restore.pictures import read
from export.restore.recipes import INPAINT, NETS, SUPERRESOLVE, Recipe
from export.restore.restoration import Restoration
from pages.look import CARD, STYLE

SIDE, MISSING, FACTOR, COLUMNS = 128, 0.5, 4, 5
ENCODERS = {
    f"encoder-decoder, depth {d}": replace(NETS["encoder-decoder"], build=partial(encoder_decoder, d))
    for d in (2, 4, 6)
}
FIGURE_8 = ENCODERS | {"ResNet-8": NETS["resnet"], "U-Net-5": NETS["unet"]}


@dataclass(frozen=True)
class Row:
    task: str
    way: str
    psnr: float
    """of the picture as it is written, in dB"""
    steps: int = 0
    seconds: float = 0
    """CPU time of all threads"""
    own: float | None = None
    """PSNR of all that the generator drew, known pixels too"""


@dataclass(frozen=True)
class Shown:
    title: str
    picture: torch.Tensor


def photograph(path: Path | None) -> torch.Tensor:
    """The user's, or the middle of china.jpg at 128 x 128; [1, 3, H, W]."""
    if path:
        return read(path, "--image")
    image = Image.fromarray(load_sample_image("china.jpg"))
    left, top = ((side - min(image.size)) // 2 for side in image.size)
    box = (left, top, left + min(image.size), top + min(image.size))
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box))
    return torch.from_numpy(small.copy()).permute(2, 0, 1)[None] / 255


def filled(picture: torch.Tensor, known: torch.Tensor, method: str) -> torch.Tensor:
    """Missing pixels from known ones: the nearest, or piecewise cubic over triangles (the nearest outside of them)."""
    places = np.argwhere(known[0, 0].numpy() > 0)
    values = picture[0].permute(1, 2, 0).numpy()[*places.T]
    everywhere = tuple(np.indices(known.shape[2:]))
    found = griddata(places, values, everywhere, method)
    found = np.where(np.isnan(found), griddata(places, values, everywhere, "nearest"), found)
    return torch.from_numpy(found).float().permute(2, 0, 1)[None].clamp(0, 1)


def enlarged(small: torch.Tensor, filtering: Image.Resampling) -> torch.Tensor:
    image = Image.fromarray((small[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
    large = image.resize((image.width * FACTOR, image.height * FACTOR), filtering)
    return torch.from_numpy(np.array(large)).permute(2, 0, 1)[None] / 255


def fitted(restoration: Restoration, recipe: Recipe, task: str, way: str, seed: int) -> tuple[Row, Shown]:
    fit = Fit(restoration.observed, recipe, seed, average=0.99)
    started = time.process_time()
    for step in tqdm(fit, total=recipe.iterations, desc=f"{task}, {way}"):
        picture = step.picture
    seconds = time.process_time() - started
    found, own = restoration.psnr(picture), replace(restoration, known=None).psnr(picture)
    assert found is not None
    row = Row(task, way, found, recipe.iterations, seconds, own if restoration.known is not None else None)
    return row, Shown(way, restoration.finish(picture))


def plain(truth: torch.Tensor, picture: torch.Tensor, task: str, way: str) -> tuple[Row, Shown]:
    return Row(task, way, psnr(mse_loss(picture, truth).item())), Shown(way, picture)


def inpaint(truth: torch.Tensor, known: torch.Tensor, task: str, steps: int, seed: int) -> Iterator[tuple[Row, Shown]]:
    masked = Masked(known)
    restoration = Restoration(Observation(masked(truth), masked, *truth.shape[2:]), truth, known)
    yield plain(truth, filled(truth, known, "nearest"), task, "nearest")
    yield plain(truth, filled(truth, known, "cubic"), task, "cubic")
    for way, recipe in (FIGURE_8 | {"skip": replace(NETS["skip"], **INPAINT)}).items():
        yield fitted(restoration, replace(recipe, iterations=steps), task, way, seed)


def superresolve(truth: torch.Tensor, task: str, steps: int, seed: int) -> Iterator[tuple[Row, Shown]]:
    shrink = Downsampled(FACTOR)
    small = (shrink(truth).clamp(0, 1) * 255).round() / 255
    restoration = Restoration(Observation(small, shrink, *truth.shape[2:]), truth)
    for filtering in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS):
        yield plain(truth, enlarged(small, filtering), task, filtering.name.lower())
    recipe = replace(NETS["skip"], **(SUPERRESOLVE[FACTOR] | {"iterations": steps}))
    yield fitted(restoration, recipe, task, "skip", seed)


def draw(shown: list[Shown]) -> Figure:
    """All pictures, every pixel a square."""
    rows = -(-len(shown) // COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.1 * COLUMNS, 2.5 * rows), facecolor=CARD, layout="constrained")
        FigureCanvasAgg(figure)
        panels = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
        for axes in panels:
            axes.set_axis_off()
        for axes, each in zip(panels, shown, strict=False):
            axes.imshow(each.picture[0].permute(1, 2, 0).numpy(), interpolation="nearest", vmin=0, vmax=1)
            axes.set_title(each.title, fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="of about 128 x 128, sides divisible by 4")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("build/prior.json"))
    parser.add_argument("--png", type=Path, default=Path("build/prior.png"))
    options = parser.parse_args()
    truth = photograph(options.image)
    found: list[Row] = []
    pictures = [Shown("truth", truth)]
    random = torch.Generator().manual_seed(options.seed)
    known = random_mask(truth.shape[2], truth.shape[3], MISSING, random)
    small = enlarged(Downsampled(FACTOR)(truth).clamp(0, 1), Image.Resampling.NEAREST)
    half, larger = "half of the pixels", f"a {FACTOR}th of the size"
    tasks = {
        half: (torch.where(known > 0, truth, 1.0), inpaint(truth, known, half, options.steps, options.seed)),
        larger: (small, superresolve(truth, larger, options.steps, options.seed)),
    }
    for task, (seen, ways) in tasks.items():
        pictures.append(Shown(f"seen: {task}", seen))
        for row, shown in ways:
            own = "" if row.own is None else f"{row.own:.2f}"
            print(f"| {row.task} | {row.way} | {row.psnr:.2f} | {own} | {row.steps} | {row.seconds:.0f} |", flush=True)
            found.append(row)
            pictures.append(replace(shown, title=f"{shown.title}\n{row.psnr:.2f} dB"))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([asdict(row) for row in found], indent=1))
    draw(pictures).savefig(options.png, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
