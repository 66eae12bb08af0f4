"""What became of one request."""

import json
from typing import NamedTuple

from service.loadtest.wire import Reply

OK = "ok"
STAGES = ("decode", "queue", "compute")
"""Of the server's `timings_ms`, in the order in which an image meets them."""

_ANSWERED = 200


class Told(NamedTuple):
    """By the server, or by the connection."""

    code: str
    """OK, or why there is no answer."""
    status: int | None = None
    """Of HTTP; None when none came."""
    stages: tuple[float, ...] = ()
    """Milliseconds in each of `STAGES`, as the server measured them; empty where it did not."""


class Sample(NamedTuple):
    """One request; times are in seconds from the start of the run."""

    due: float
    """When it was to be sent; in a closed loop when it was."""
    late: float
    """By how much the generator itself was behind."""
    took: float
    """From due to the last byte of what came."""
    told: Told


def read(reply: Reply) -> Told:
    """The code of a problem; of what is no problem document the status."""
    try:
        facts = json.loads(reply.body)
        if reply.status != _ANSWERED:
            return Told(str(facts["code"]), reply.status)
        timings = facts.get("timings_ms") or {}
        return Told(OK, reply.status, tuple(float(timings[stage]) for stage in STAGES if stage in timings))
    except (ValueError, LookupError, TypeError, AttributeError):
        return Told("unexpected_answer", reply.status)
