"""A process that freezes one model and ends, so that all its memory goes back."""

import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from bundle.errors import BundleError
from bundle.store import MODEL
from export.errors import ExportError
from export.jobs import FreezeJob

log = logging.getLogger(__name__)

Freeze = Callable[[FreezeJob], Path]
"""Publishes a bundle and returns its folder, as `export.pipeline.freeze` does; importable by its name."""


@dataclass(frozen=True)
class Made:
    """What a worker answers when it worked."""

    folder: Path
    batchnorm_nodes: int
    peak_mib: float


def pipeline_freeze(job: FreezeJob) -> Path:
    from export.pipeline import freeze  # noqa: PLC0415 torch takes seconds to import, and only workers need it

    return freeze(job)


def work(freeze: Freeze, job: FreezeJob, threads: int, answer: Connection) -> None:
    """The whole life of a worker: sends `Made`, or the reason why not, or dies and sends nothing.

    Args:
        freeze: what to do.
        job: with a repository of the worker's own.
        threads: of torch, unless OMP_NUM_THREADS says otherwise.
        answer: where to send it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # torch reads it when it is imported, which is later
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        import onnx  # noqa: PLC0415 the parent imports this module and does without

        folder = freeze(job)
        peak = _peak_mib()  # before the graph is read once more
        graph = onnx.load(folder / MODEL).graph
        answer.send(Made(folder, sum(node.op_type == "BatchNormalization" for node in graph.node), peak))
    except (ExportError, BundleError, OSError) as error:
        answer.send(str(error) or type(error).__name__)
    except Exception as error:
        log.exception("%s", job.model)
        answer.send(f"{type(error).__name__}: {error}")


def death(code: int | None) -> str:
    """What to say of a worker that sent nothing."""
    if code is None or code >= 0:
        return f"its process ended with status {code} and no answer"
    name = signal.Signals(-code).name
    hint = "; the system may be out of memory, try fewer --jobs" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _peak_mib() -> float:
    """The largest resident memory so far. Linux counts the parent's at the start too; the parent is the smaller."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
