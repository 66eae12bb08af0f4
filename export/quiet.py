"""What libraries say of themselves, and not of the user's work."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(*loggers: str, warned: tuple[tuple[str, type[Warning]], ...] = ()) -> Iterator[None]:
    """Within it these loggers tell of errors alone, and these warnings are not shown.

    Args:
        loggers: their names.
        warned: how a message begins, as a regular expression, and its kind.
    """
    found = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in found]
    for logger in found:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message, kind in warned:
                warnings.filterwarnings("ignore", message=message, category=kind)
            yield
    finally:
        for logger, level in zip(found, levels, strict=True):
            logger.setLevel(level)
