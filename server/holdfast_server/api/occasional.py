"""Log lines that callers can cause without credentials: written now and then, never a flood."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

#: Lines per second at most; the next one says how many were left out.
LINES_PER_SECOND_MAX = 10


class OccasionalLog:
    """Writes warnings to a logger, a few per second."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float]) -> None:
        """`clock` counts seconds and is not set back."""
        self._logger = logger
        self._clock = clock
        self._second = 0
        self._written = 0
        self._left_out = 0

    def warn(self, message: str, facts: Mapping[str, object]) -> None:
        """Writes the line, or counts it for the next one that is written."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._written = second, 0
        if self._written >= LINES_PER_SECOND_MAX:
            self._left_out += 1
            return
        self._written += 1
        self._logger.warning(message, extra={"facts": {**facts, "left_out": self._left_out}})
        self._left_out = 0
