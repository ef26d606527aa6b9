"""When a failed call is sent again: only where it is safe, and within the overall deadline. Pure.

Every attempt carries the same idempotency key, so an attempt that was applied although its answer
was lost is answered again, not applied again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast.errors import HoldfastError, ResourceExhausted, Unavailable, Unreachable

#: The wait before the second attempt; it doubles with every further one.
BACKOFF_INITIAL_MS = 50
#: No wait of our own choosing is longer.
BACKOFF_MAX_MS = 2_000
#: Doubling beyond this would pass BACKOFF_MAX_MS anyway.
_DOUBLINGS_MAX = 10


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long one attempt and all attempts together may take."""

    attempt_ms: int
    total_ms: int


class Attempts:
    """The attempts of one call. `now_s` is a monotone clock; `random` answers from 0 up to 1.

    `search_ms` is for how long to try where no server is reached; by default as long as all.
    """

    __slots__ = (
        "_deadlines",
        "_end_s",
        "_failed",
        "_now_s",
        "_random",
        "_result_unknown",
        "_search_end_s",
    )

    def __init__(
        self,
        deadlines: Deadlines,
        now_s: Callable[[], float],
        random: Callable[[], float],
        *,
        search_ms: int | None = None,
    ) -> None:
        self._deadlines = deadlines
        self._now_s = now_s
        self._random = random
        started_s = now_s()
        self._end_s = started_s + deadlines.total_ms / 1_000
        self._search_end_s = self._end_s if search_ms is None else started_s + search_ms / 1_000
        self._failed = 0
        self._result_unknown = False

    def deadline_s(self) -> float:
        """When the next attempt must have ended."""
        deadline_s = self._now_s() + self._deadlines.attempt_ms / 1_000
        return deadline_s if deadline_s < self._end_s else self._end_s

    def timeout_s(self) -> float:
        """How long the next attempt may take. The first one always gets some time."""
        return max(0.001, self.deadline_s() - self._now_s())

    def wait_s(self, error: HoldfastError) -> float:
        """How long to wait before sending again after `error`; raises it where that is no use.

        The error that is raised says `result_unknown` when any attempt's result is: an earlier one
        may have been applied although the last was clearly refused.
        """
        self._result_unknown = self._result_unknown or error.result_unknown
        wait_s = self._backoff_s(error.retry_after_ms or 0)
        self._failed += 1
        end_s = self._search_end_s if isinstance(error, Unreachable) else self._end_s
        if not retryable(error) or self._now_s() + wait_s >= end_s:
            error.result_unknown = self._result_unknown
            raise error
        return wait_s

    def _backoff_s(self, retry_after_ms: int) -> float:
        ceiling_ms = min(BACKOFF_MAX_MS, BACKOFF_INITIAL_MS << min(self._failed, _DOUBLINGS_MAX))
        # Spread over the upper half: callers that failed together must not come back together.
        return (retry_after_ms + ceiling_ms * (0.5 + self._random() / 2)) / 1_000


def retryable(error: HoldfastError) -> bool:
    """Whether sending the same request again may lead to a decision."""
    if isinstance(error, ResourceExhausted):
        return error.retry_after_ms is not None
    return isinstance(error, Unavailable)
