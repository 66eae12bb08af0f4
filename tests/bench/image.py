"""What a JPEG costs from its bytes to a 224 x 224 row, in ways that are tried against each other, and what they change.

    python tests/bench/image.py [--images FOLDER] [--models REPOSITORY NAME…] [--rounds 9]

The plain way decodes everything, resizes the shorter side to 256 and cuts the centre. `spare N` decodes at the smallest
fraction that leaves N times as many pixels a side as are wanted (the service's is `bundle.preprocess.SPARE`), and
simplejpeg is another decoder, tried where it is installed. Without --images the files are scikit-learn's temple at 500
x 375 and at 12 megapixels; with it every JPEG of a folder, and for each network of --models how often its best class
stays the same. Milliseconds are CPU time of the one thread. Prints tables and writes JSON.
"""

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from bundle import preprocess, store
from bundle.manifest import Input
from bundle.preprocess import ImageLimits, Opened, Pixels, decode, probe
from bundle.render import Scaled
from bundle.views import Size, View, center_view
from samples import encode, photographs
from service.engine.cpu import CpuBackend

NETWORK = Input(height=224, width=224, channels=3, dynamic=False, resize=256)
SPARES = (1, 2, 4)
LIMITS = ImageLimits(178_956_970, 1000)


@dataclass(frozen=True)
class Change:
    """What one way makes of some files."""

    way: str
    milliseconds: float
    """Median over the files of the median over the rounds."""
    mean_levels: float
    """Mean |difference| from the plain way."""
    most_levels: int
    agreement: dict[str, float]
    """By network, the part of the files whose best class is that of the plain way."""


def view_of(data: bytes, wanted: Input) -> View:
    return center_view(probe(data, LIMITS), wanted.size, wanted.resize)


def plainly(data: bytes, wanted: Input) -> Pixels:
    """The whole image decoded, resized, cut."""
    view = view_of(data, wanted)
    left, top, width, height = view.box
    resized = decode(data, 3, LIMITS).resize(view.resized, Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + width, top + height)))


def sparing(spare: int) -> Callable[[bytes, Input], Pixels]:
    def draw(data: bytes, wanted: Input) -> Pixels:
        preprocess.SPARE = spare
        row = np.empty((1, wanted.height, wanted.width, 3), np.uint8)
        opened = Opened(data, LIMITS)
        view = center_view(opened.size, wanted.size, wanted.resize)
        Scaled.of(opened, [view], wanted).draw([view], row)
        drawn: Pixels = row[0]
        return drawn

    return draw


def by_simplejpeg(data: bytes, wanted: Input) -> Pixels:
    """As spare 2; it turns no image upright."""
    import simplejpeg  # noqa: PLC0415 an option of this bench

    view = view_of(data, wanted)
    pixels = simplejpeg.decode_jpeg(data, min_height=2 * view.resized.height, min_width=2 * view.resized.width)
    row = np.empty((1, wanted.height, wanted.width, 3), np.uint8)
    Scaled(Image.fromarray(pixels), [view], "bilinear").draw([view], row)
    drawn: Pixels = row[0]
    return drawn


def ways() -> dict[str, Callable[[bytes, Input], Pixels]]:
    found = {"plain": plainly, **{f"spare {spare}": sparing(spare) for spare in SPARES}}
    try:
        import simplejpeg  # noqa: F401, PLC0415 an option of this bench
    except ImportError:
        print("simplejpeg is not installed, and left out")
    else:
        found["simplejpeg"] = by_simplejpeg
    return found


def examples() -> dict[str, list[bytes]]:
    china = photographs()[0]
    sizes = {"500 x 375": Size(500, 375), "4000 x 3000": Size(4000, 3000)}
    return {name: [encode(ImageOps.fit(china, size), "JPEG", quality=90)] for name, size in sizes.items()}


def files(folder: Path) -> list[bytes]:
    """Those that are JPEG files and stand upright, so that all ways see the same."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg"):
            data = path.read_bytes()
            if Image.open(io.BytesIO(data)).getexif().get(0x0112, 1) == 1:
                found.append(data)
    return found


def milliseconds(drawers: dict[str, Callable[[bytes, Input], Pixels]], data: bytes, rounds: int) -> dict[str, float]:
    """Of each way for one file, the ways taking turns."""
    times: dict[str, list[float]] = {way: [] for way in drawers}
    for _ in range(rounds):
        for way, draw in drawers.items():
            started = time.process_time()
            draw(data, NETWORK)
            times[way].append(1000 * (time.process_time() - started))
    return {way: statistics.median(found) for way, found in times.items()}


def measure(images: list[bytes], models: list[tuple[str, Input, CpuBackend]], rounds: int) -> list[Change]:
    drawers = ways()
    times = [milliseconds(drawers, data, rounds) for data in images]
    rows = {way: np.stack([draw(data, NETWORK) for data in images]).astype(int) for way, draw in drawers.items()}
    classes: dict[str, dict[str, list[int]]] = {way: {} for way in drawers}
    for name, wanted, backend in models:
        for way, draw in drawers.items():
            found = [backend.run(draw(data, wanted)[None]).argmax() for data in images]
            classes[way][name] = list(map(int, found))
    return [
        Change(
            way,
            statistics.median(each[way] for each in times),
            float(np.abs(rows[way] - rows["plain"]).mean()),
            int(np.abs(rows[way] - rows["plain"]).max()),
            {name: float(np.mean(np.equal(classes[way][name], classes["plain"][name]))) for name in classes[way]},
        )
        for way in drawers
    ]


def network(repository: str, name: str) -> tuple[str, Input, CpuBackend]:
    bundle = store.open_bundle(Path(repository), name, store.versions(Path(repository), name)[0])
    return name, bundle.manifest.input, CpuBackend(bundle.model, bundle.manifest.macs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder")
    parser.add_argument("--models", nargs="+", default=[], help="a repository, and names of networks in it")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=Path("build/image.json"))
    options = parser.parse_args()
    models = [network(options.models[0], name) for name in options.models[1:]]
    groups = {options.images.name: files(options.images)} if options.images else examples()
    results = {name: measure(images, models, options.rounds) for name, images in groups.items()}
    for name, changes in results.items():
        print(f"\n{name}, {len(groups[name])} files\n\n| way | ms | mean, most levels from plain | same best class |\n"
              "|---|---:|---:|---|")  # fmt: skip
        for change in changes:
            agreed = ", ".join(f"{model} {part:.1%}" for model, part in change.agreement.items())
            levels = f"{change.mean_levels:.3f}, {change.most_levels}"
            print(f"| {change.way} | {change.milliseconds:.2f} | {levels} | {agreed} |")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(
        json.dumps({name: [asdict(change) for change in changes] for name, changes in results.items()}, indent=1)
    )


if __name__ == "__main__":
    main()
