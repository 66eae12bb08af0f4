"""A network for MNIST in a minute: a straight torch loop on the first 50,000 training images, the rest held out.

PYTHONPATH=.:tests python tests/mnist.py lenet5 train-images-idx3-ubyte.gz models 3
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from bundle.labelled import open_labelled
from bundle.preprocess import ImageLimits, decode
from bundle.render import render
from bundle.views import Size, center_view
from export.architectures import find
from export.graph import Normalize
from export.jobs import FreezeJob
from export.pipeline import freeze
from export.verify import one_thread

TRAINING = ":50000"
BATCH, RATE = 64, 2e-3


@one_thread()
def train(network: str, images: Path, epochs: int, part: str = TRAINING, seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights of a network for grey images after some epochs.

    Args:
        network: its name.
        images: MNIST's training images, an IDX file with the labels beside it.
        epochs: over the part.
        part: of the images, START:STOP.
        seed: of the weights and of the order.
    """
    row = find(network)
    data = open_labelled(images, [str(digit) for digit in range(10)], part)
    pixels = np.empty((len(data), row.size, row.size, 1), np.uint8)
    for place, example in enumerate(data):
        image: Image.Image = decode(example.image, 1, ImageLimits())
        view = center_view(Size(*image.size), row.input.size, row.input.resize)
        render(image, [view], pixels[place : place + 1])
    x, y = torch.from_numpy(pixels), torch.tensor(data.labels.tolist())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Normalize(row.build(row.classes, row.channels), row.preprocessing).train()
        optimizer = torch.optim.AdamW(model.parameters(), RATE)
        steps = epochs * -(-len(x) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        for _ in range(epochs):
            for batch in torch.randperm(len(x)).split(BATCH):  # type: ignore[no-untyped-call]
                optimizer.zero_grad()
                cross_entropy(model(x[batch])[0], y[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return {key: value.clone() for key, value in model.network.state_dict().items()}


def publish(network: str, images: Path, repository: Path, epochs: int, part: str = TRAINING) -> Path:
    """Trains a network and freezes it; the bundle's folder."""
    weights = repository.parent / f"{network}-{epochs}.pth"
    torch.save(train(network, images, epochs, part), weights)
    return freeze(FreezeJob(network=network, weights=str(weights), repository=repository, name=f"mnist_{network}"))


if __name__ == "__main__":
    print(publish(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
