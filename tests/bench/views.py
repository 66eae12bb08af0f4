"""Many views of an image: one request that names them, a request for each crop, a loop in a handler.

    python tests/bench/views.py --models REPOSITORY NAME[@VERSION] [--plan ten_crop] [--count 8] [--rounds 3]

One request: `?views=PLAN`, with and without `stop=exact`. A request for each crop: the client has cut them (JPEG,
quality 95, of the network's size), and sends them one after the other or all at once, to the service or to the naive
server of `serve.py`. A loop in the handler: the naive server cuts ten crops itself, in one batch (`ten_crop` alone).
Seconds are those of one image when nobody else asks; images a second are those of `--clients` clients. Rounds are
interleaved. Prints a table of medians and writes JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from bench.aside import Aside
from bench.contenders import Running, install, ours, peer, running, same_answer
from bench.cuts import cut
from bench.load import Load, request, send_all
from bench.models import Model, add_models, chosen
from bench.photos import photos


@dataclass
class Way:
    """To have many views of an image."""

    name: str
    server: Running
    images: list[list[bytes]]
    """The requests of each image."""
    at_once: bool = False
    """Whether the requests of an image are all sent together."""
    seconds: list[float] = field(default_factory=list)
    """Of each image."""
    per_second: list[float] = field(default_factory=list)
    """Images, in each round."""
    errors: int = 0

    def measure(self, clients: Aside, count: int) -> None:
        with self.server.awake():
            for requests in self.images:
                load: Load = clients(send_all, self.server.port, requests, len(requests) if self.at_once else 1)
                self.seconds.append(load.seconds)
                self.errors += len(load.answers) - len(load.good)
            everything = [each for requests in self.images for each in requests]
            load = clients(send_all, self.server.port, everything, count)
            self.per_second.append(len(self.images) / load.seconds)
            self.errors += len(load.answers) - len(load.good)

    @property
    def kilobytes(self) -> float:
        """Sent for an image."""
        return sum(map(len, (each for requests in self.images for each in requests))) / len(self.images) / 1e3

    def told(self) -> dict[str, object]:
        """For the JSON file."""
        names = ("name", "seconds", "per_second", "kilobytes", "errors")
        return {name: getattr(self, name) for name in names}

    def row(self) -> str:
        seconds, rate = statistics.median(self.seconds), statistics.median(self.per_second)
        return (
            f"| {self.name} | {seconds:.3f} | {rate:.2f} | {self.kilobytes:.0f} "
            f"| {len(self.images[0])} | {self.errors} |"
        )


def computed(server: Running, path: str, files: Sequence[bytes]) -> float:
    """The mean number of views that were run."""
    return statistics.mean(float(server.ask(file, path)["views"]["computed"]) for file in files)


def bench(model: Model, plan: str, files: list[bytes], options: argparse.Namespace) -> dict[str, object]:
    with Aside() as aside:
        crops = [aside(cut, file, plan, model) for file in files]
    mine, theirs = ours(model), peer("naive", model)
    whole = f"{mine.path}?views={plan}"
    with ExitStack() as stack:
        clients = stack.enter_context(Aside())
        service = stack.enter_context(running(mine, files[0]))
        naive = stack.enter_context(running(theirs, files[0]))
        stops = computed(service, f"{whole}&stop=exact", files)
        ways = [
            Way(name, service, [[request(path, file)] for file in files])
            for name, path in (("one request", whole), ("one request, stop=exact", f"{whole}&stop=exact"))
        ]
        if plan == "ten_crop":
            compare(service, naive, whole, files)
            loops = [[request("/ten_crop", file)] for file in files]
            ways.append(Way("naive, a loop in the handler", naive, loops))
        for at_once, how in ((False, "one after the other"), (True, "all at once")):
            for server, path in ((service, mine.path), (naive, theirs.path)):
                requests = [[request(path, crop) for crop in some] for some in crops]
                name = "one request a crop" if server is service else "naive, one request a crop"
                ways.append(Way(f"{name}, {how}", server, requests, at_once))
        for server in (service, naive):
            server.pause()
        for number in range(options.rounds):
            for way in ways:
                way.measure(clients, options.clients)
            print(f"round {number + 1}", file=sys.stderr, flush=True)
    print(f"\n## {model}, {plan}; {stops:.1f} views run with stop=exact\n")
    print(f"| | s an image | images/s, {options.clients} clients | kB sent | requests | errors |\n|---|{'---:|' * 5}")
    print(*(way.row() for way in ways), sep="\n")
    return {
        "computed_exact": stops,
        "ways": [way.told() for way in ways],
    }


def compare(service: Running, naive: Running, path: str, files: Sequence[bytes]) -> None:
    """Ends the bench when the two say something else."""
    for file in files:
        one, other = service.ask(file, path), naive.ask(file, "/ten_crop")
        if not same_answer(one, other):
            sys.exit(f"the naive server answers something else: {other} instead of {one}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_models(parser)
    parser.add_argument("--plan", default="ten_crop")
    parser.add_argument("--images", type=Path, help="a folder of JPEG files")
    parser.add_argument("--count", type=int, default=8, help="images")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("build/views.json"))
    options = parser.parse_args()
    install()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in chosen(options.models):
            with Aside() as aside:
                files = aside(photos, options.images, model.resize)[: options.count]
            found[str(model)] = bench(model.alone(Path(folder)), options.plan, files, options)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
