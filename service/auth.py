"""Who may ask, and how much: API keys from a file of hashes, scopes, and quotas in views.

    keys.toml -> KeyFile.find(key) -> Caller -> Caller.require(scope), Caller.charge(views)

Nothing here knows HTTP; `api/gate.py` reads the headers.
"""

import hashlib
import hmac
import logging
import math
import threading
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import ForbiddenError, QuotaExceededError, UnauthorizedError

logger = logging.getLogger(__name__)

BURST_SECONDS = 10.0
"""A key that has rested may ask at once for the views of so many seconds."""
LOOK_SECONDS = 1.0
"""Between two looks at the file."""

Scope = Literal["infer", "admin", "metrics"]


class KeyFileError(Exception):
    """The file of keys cannot be used; the message says why and holds no key."""


class Key(BaseModel):
    """One `[[keys]]` of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """Stands in the log."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the key, in hexadecimal; the key itself is written nowhere."""
    scopes: frozenset[Scope] = Field(default=frozenset({"infer"}), min_length=1)
    views_per_second: float | None = Field(None, gt=0, allow_inf_nan=False)
    """None: as many as it likes."""


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[Key] = Field(min_length=1)


class Bucket:
    """A token bucket: `rate` views a second, at most those of `BURST_SECONDS` saved up.

    A request for more than the bucket holds waits until it is full and leaves it in debt, so that no request is too
    large for ever and the mean rate holds. Threads may share it.
    """

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._size = rate * BURST_SECONDS
        self._level, self._at = self._size, now
        self._lock = threading.Lock()

    def take(self, views: int, now: float) -> float:
        """Takes the views and answers 0.0; or takes nothing, and answers the seconds until they can be had."""
        with self._lock:
            self._level = min(self._size, self._level + max(0.0, now - self._at) * self.rate)
            self._at = max(self._at, now)
            missing = min(views, self._size) - self._level
            if missing > self._size * 1e-9:  # not the rounding of many small steps
                return missing / self.rate
            self._level -= views
            return 0.0


@dataclass(frozen=True)
class Caller:
    """Who asks."""

    name: str | None = None
    """Of the key; None where no keys are asked for."""
    scopes: frozenset[Scope] = frozenset({"infer", "admin", "metrics"})
    bucket: Bucket | None = None
    clock: Callable[[], float] = time.monotonic

    def require(self, scope: Scope) -> None:
        """Raises ForbiddenError without that scope."""
        if scope not in self.scopes:
            has = ", ".join(sorted(self.scopes))
            raise ForbiddenError(f"the key {self.name} has the scope {has}; this route needs {scope}")

    def charge(self, views: int) -> None:
        """Takes views from the key's quota, larger ones counted as several.

        Raises:
            QuotaExceededError: with the seconds after which it may ask again.
        """
        wait = self.bucket.take(views, self.clock()) if self.bucket is not None else 0.0
        if self.bucket is not None and wait:
            raise QuotaExceededError(
                f"the key {self.name} may have {self.bucket.rate:g} views a second, and this image asks for {views};"
                f" send it again in {math.ceil(wait)} s",
                retry_after=wait,
            )


ANYBODY = Caller()
"""Where no file of keys is set."""


class KeyFile:
    """The keys of a file; read again when it changes, at most once a second.

    Raises:
        KeyFileError: it cannot be read, or is wrong, at the start; later the old keys stay and the log says why.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._looked = clock()
        self._stamp = _stamp(path)
        self._callers: dict[bytes, Caller] = {}
        self._put(read_keys(path))

    def find(self, key: str | None) -> Caller:
        """Whose key it is.

        Raises:
            UnauthorizedError: nobody's, or there is none; the two are told alike.
        """
        self._look()
        given = hashlib.sha256((key or "").encode("utf-8", "surrogateescape")).digest()
        found = None
        for digest, caller in self._callers.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(digest, given):
                found = caller
        if found is None or not key:
            raise UnauthorizedError("this needs an API key; send it as Authorization: Bearer KEY")
        return found

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._put(read_keys(self._path))
        except KeyFileError as error:
            logger.error("%s; the keys before it stay", error)  # noqa: TRY400 the reason is enough
        else:
            logger.info("%s has changed: %d keys", self._path, len(self._callers))

    def _put(self, keys: list[Key]) -> None:
        """A key that keeps its name and its quota keeps what is left of it."""
        buckets = {caller.name: caller.bucket for caller in self._callers.values()}
        self._callers = {
            bytes.fromhex(key.sha256): Caller(
                key.name, key.scopes, self._bucket(key.views_per_second, buckets.get(key.name)), self._clock
            )
            for key in keys
        }

    def _bucket(self, rate: float | None, before: Bucket | None) -> Bucket | None:
        if rate is None:
            return None
        return before if before is not None and before.rate == rate else Bucket(rate, self._clock())


def read_keys(path: Path) -> list[Key]:
    """The keys of a TOML file.

    Raises:
        KeyFileError: it cannot be read, a line is wrong, or a name or a hash stands there twice.
    """
    try:
        keys = _Keys.model_validate(tomllib.loads(path.read_text("utf-8"))).keys
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise KeyFileError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None  # it holds the input
    except (UnicodeError, tomllib.TOMLDecodeError):
        raise KeyFileError(f"{path} is no TOML file in UTF-8; docs/operations.md shows one") from None  # as above
    for what, found in (("name", [key.name for key in keys]), ("sha256", [key.sha256 for key in keys])):
        if len(set(found)) < len(found):
            raise KeyFileError(f"{path}: a {what} stands there twice; every key has its own")
    return keys


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
