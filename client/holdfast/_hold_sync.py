"""The threaded side of a hold. I/O only; see `_hold` for what it means."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from holdfast import operations, results
from holdfast._calls import Amounts, Call, Operation
from holdfast._core import Core
from holdfast._hold import HoldBase
from holdfast.errors import HoldfastError
from holdfast.kinds import Overage

Send = Callable[[Call[Any]], Any]

#: Fewer holds than this are not looked through for those that have ended.
TIDY_HOLDS_MIN = 64


class Extender:
    """One daemon thread that extends all holds of a client. It starts with the first hold."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._due: list[tuple[float, int, Hold]] = []
        #: Those that have ended are looked for when there are so many.
        self._tidy_at = TIDY_HOLDS_MIN
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def plan(self, hold: Hold, after_s: float) -> None:
        """Extends `hold` after this long, unless it is settled by then."""
        with self._changed:
            if len(self._due) >= self._tidy_at:
                self._tidy()
            heapq.heappush(self._due, (time.monotonic() + after_s, next(self._numbers), hold))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                # Where an interrupt comes before this, the next hold starts another, and both work.
                self._thread = thread
            if self._due[0][2] is hold:
                self._changed.notify()

    def _tidy(self) -> None:
        """Forgets holds that have ended: most do long before they are due."""
        self._due = [each for each in self._due if not each[2].settled]
        heapq.heapify(self._due)
        self._tidy_at = max(TIDY_HOLDS_MIN, 2 * len(self._due))

    def close(self) -> None:
        """Ends the thread after the extension that is under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (hold := self._next()) is not None:
            hold.extend_now()

    def _next(self) -> Hold | None:
        """Waits for the next hold that is due; None when closed."""
        with self._changed:
            while not self._closed:
                if self._due and self._due[0][0] <= time.monotonic():
                    return heapq.heappop(self._due)[2]
                self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
        return None


class Hold(HoldBase):
    """A hold around a `with` block. Made by `Client.hold`."""

    def __init__(
        self,
        core: Core,
        reserve: Operation[results.ReserveResult],
        asked: dict[str, int],
        ttl_ms: int,
        send: Send,
        extender: Extender,
    ) -> None:
        super().__init__(core, reserve, asked, ttl_ms)
        self._send = send
        self._extender = extender

    def __enter__(self) -> Self:
        sent_s = time.monotonic()
        self._begin(self._send(self._reserve), sent_s)
        self._plan_extension()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Settles, within the client's deadline."""
        call = self._settlement(failed=error is not None)
        if call is not None:
            self._settle(call, failed=error is not None)

    def capture(
        self,
        amount: Amounts,
        *,
        credit_type: str | None = None,
        overage: Overage = Overage.UNSPECIFIED,
        labels: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> results.CommitResult:
        """Burns a part now and keeps the rest held, with a whole time to live ahead.

        Where its result is unknown, call it again with the same `key`: give one for that.
        """
        capture = self._capture(
            amount, credit_type=credit_type, overage=overage, labels=labels, key=key
        )
        result: results.CommitResult = self._send(capture)
        return result

    def release(self, reason: str = "") -> results.ReleaseResult:
        """Gives all of the hold back now; the end of the block then sends nothing, or the same once
        more where that was not answered.
        """
        self._recorded = operations.release(self.hold_id, reason=reason)
        result: results.ReleaseResult = self._send(self._recorded)
        self._settled = True
        return result

    def _settle(self, call: Call[Any], *, failed: bool) -> None:
        try:
            result = self._send(call)
        except HoldfastError as error:
            self._settlement_failed(error, failed)
            return
        if isinstance(result, results.CommitResult):
            self._receipt = result

    def _plan_extension(self) -> None:
        after_s = self._extend_after_s(time.monotonic())
        if after_s is not None:
            self._extender.plan(self, after_s)

    def extend_now(self) -> None:
        """Extends, unless the hold is settled. For the client's extender."""
        if self._extend_after_s(time.monotonic()) is None:
            return
        sent_s = time.monotonic()
        try:
            self._send(self._extension())
            self._lives(sent_s)
        except Exception as error:
            # Whatever it is, such as what a token function raised: it is tried again.
            self._extension_failed(error, time.monotonic())
        self._plan_extension()
