"""What the server says of itself, on stderr: a line for each request and for what libraries log, as text or as JSON.

No line can be forged: what a client chose is of a closed set or a plain token, and control characters are escaped.
No line is waited for: a reader of stderr that stands still, or has gone, holds up no request.
"""

import contextlib
import json
import logging
import queue
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from service.answer import Prediction, Seconds

logger = logging.getLogger(__name__)

LogFormat = Literal["text", "json"]

MAX_FIELD = 256
"""Characters of a field of a request's line."""
MAX_MESSAGE = 4096
"""Characters of a message of ours or of a library."""
MAX_WAITING = 10_000
"""Lines that wait to be written."""
FLUSH_SECONDS = 1.0
"""For those, at the end of the process."""
MAX_TRACE = 16_384
"""Characters of a traceback; its end says most."""

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {0x2028: "\\u2028", 0x2029: "\\u2029"}


def configure(log_format: LogFormat) -> None:
    """Sends what is logged in this process, warnings, and what ends a thread, to stderr."""
    handler = Writer(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    # Nobody is told of these, and each record would look them up; the last is where in the code it was made.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 the way of the manual (Logging HOWTO, Optimization)
    threading.excepthook = _tell_end


class Writer(logging.Handler):
    """Hands lines to a thread that writes them; what does not fit is counted, and the count is told later."""

    def __init__(self, stream: TextIO, most: int = MAX_WAITING) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str] = queue.Queue(most)
        self._lost = 0
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._lost += 1  # under the handler's lock

    def flush(self) -> None:
        """Waits until all is written; at the end of the process `logging` calls it."""
        end = time.monotonic() + FLUSH_SECONDS
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.001)

    def _work(self) -> None:
        while True:
            self._write(self._lines.get())
            self._lines.task_done()
            if self._lost:
                with self.lock or contextlib.nullcontext():
                    lost, self._lost = self._lost, 0
                said = "%d lines are not here: they came faster than they were read"
                self._write(self.format(logging.LogRecord(__name__, logging.WARNING, "", 0, said, (lost,), None)))

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more: that ends no server
            self._stream.write(f"{line}\n")
            self._stream.flush()


@dataclass
class Told:
    """What is told of a request; whoever knows more fills it in. Of what is None it never came to that."""

    id: str
    key: str | None = None
    """The name of the API key."""
    model: str | None = None
    """That was found; a name that is none of ours is not told."""
    version: int | None = None
    plan: str | None = None
    """Of an ensemble those of its members."""
    code: str | None = None
    """Of the problem, or of the first one among several images."""
    images: int = 0
    """That were sent."""
    failed: int = 0
    """Of several, those that were answered with a problem."""
    views: int = 0
    """That were run."""
    bytes_in: int = 0
    bytes_out: int = 0
    """Of the bodies."""
    parts: list[Seconds] = field(default_factory=list)
    """Of each image that was answered."""

    def answered(self, prediction: Prediction) -> None:
        """Adds the answer for an image."""
        looks = [prediction.views] if prediction.views else [each.views for each in prediction.members or []]
        timings = prediction.timings_ms
        self.views += sum(views.computed for views in looks if views)
        self.plan = ",".join(dict.fromkeys(views.plan for views in looks if views))
        stages = (timings.decode, timings.queue, timings.compute, timings.merge)
        self.parts.append(Seconds(*(stage / 1000 for stage in stages)))

    def refused(self, code: str) -> None:
        """Adds the problem of an image among several."""
        self.failed += 1
        self.code = self.code or code

    @property
    def seconds(self) -> Seconds:
        """Of all images, which ran side by side."""
        return Seconds.beside(self.parts) if self.parts else Seconds()

    @property
    def nothing_answered(self) -> bool:
        return bool(self.failed) and self.failed == self.images


def log_request(told: Told, method: str | None, route: str | None, status: int, seconds: float) -> None:
    """The line of a request; `seconds` from its header to its answer. Of a refused connection the rest is unknown."""
    if not logger.isEnabledFor(logging.INFO):
        return
    fields = {**vars(told), "method": method, "route": route, "status": status}
    del fields["parts"]
    fields |= {f"{stage}_ms": value for stage, value in told.seconds.milliseconds(seconds).items()}
    cut = {name: value[:MAX_FIELD] if isinstance(value, str) else value for name, value in fields.items()}
    logger.info("request", extra={"request": cut})


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message; then the fields of a request, or a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        line |= _request(record)
        if trace := _trace(self, record):
            line["exception"] = trace
        return json.dumps(line)


class TextLines(logging.Formatter):
    """A line for people: level, logger, message; a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        told = {name: value for name, value in _request(record).items() if value is not None}
        said = " ".join(f"{name}={value}" for name, value in told.items()) or _message(record)
        line = f"{record.levelname} {record.name}: {said.translate(_CONTROLS)}"
        trace = _trace(self, record)
        return f"{line}\n{trace}" if trace else line


def _tell_end(ended: threading.ExceptHookArgs) -> None:
    error = ended.exc_value
    logger.error("the thread %s ended", ended.thread and ended.thread.name, exc_info=error)


def _time(record: logging.LogRecord) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _message(record: logging.LogRecord) -> str:
    try:
        said = record.getMessage()
    except Exception:  # noqa: BLE001 a library's mistake; logging would print a traceback between the lines
        said = str(record.msg)
    return said[:MAX_MESSAGE]


def _request(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = getattr(record, "request", {})
    return found


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info)[-MAX_TRACE:] if record.exc_info else ""
