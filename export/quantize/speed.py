"""Images per second of two graphs, side by side, as the service runs them on a CPU."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from statistics import median

import torch
from onnxruntime import InferenceSession

from bundle.preprocess import Pixels
from export.verify import one_thread, open_session, run

ROUNDS = 7
SECONDS = 0.5
"""That a graph computes in a round."""
DISTINCT = 16
"""Images that take turns."""


def compare_speed(before: bytes, after: bytes, images: Pixels) -> tuple[float, float]:
    """The images per second of two graphs, one image at a time on each core: the medians of interleaved rounds.

    Args:
        before: a graph's bytes.
        after: another's.
        images: uint8 [n, height, width, channels]
    """
    lanes = torch.get_num_threads()
    with one_thread():
        sessions = open_session(before), open_session(after)
    each = [images[place : place + 1] for place in range(min(len(images), DISTINCT))]
    with ThreadPoolExecutor(lanes) as pool:

        def rate(session: InferenceSession, count: int) -> float:
            started = time.perf_counter()
            for _ in pool.map(lambda image: run(session, image), islice(cycle(each), count)):
                pass
            return count / (time.perf_counter() - started)

        for session in sessions:
            rate(session, lanes)  # the first call is slow
        counts = [max(lanes, round(rate(session, 2 * lanes) * SECONDS)) for session in sessions]
        rounds = [[rate(*pair) for pair in zip(sessions, counts, strict=True)] for _ in range(ROUNDS)]
    first, second = (median(column) for column in zip(*rounds, strict=True))
    return first, second
