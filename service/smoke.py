"""`python -m service.smoke HEIGHT WIDTH CHANNELS < model.onnx`: opens a graph and runs a view, in a process of its own.

A graph that the runtime cannot even refuse ends this process and not the server, which looks at nothing but that.
"""

import contextlib
import os
import signal
import sys

POLITE = 10
"""Niceness: the server answers meanwhile."""
LONGEST = 300
"""Seconds after which it ends itself: the server, which would have ended it long before, may be gone."""


def main() -> None:
    with contextlib.suppress(OSError, AttributeError):  # not on every system
        signal.alarm(LONGEST)
        os.nice(POLITE)
    from service.engine.cpu import BATCH_MACS, CpuBackend  # noqa: PLC0415 that, too, only politely

    height, width, channels = map(int, sys.argv[1:])
    CpuBackend(sys.stdin.buffer.read(), BATCH_MACS, lanes=1).warm((height, width, channels))


if __name__ == "__main__":
    main()
