"""The threaded side of a lease. I/O only; see `_lease` for what it means."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from holdfast._calls import Call
from holdfast._core import Core
from holdfast._lease import LeaseBase
from holdfast._lease_state import Terms, Wanted
from holdfast.errors import Denied

Send = Callable[[Call[Any]], Any]


class Lease(LeaseBase):
    """A lease for a `with` block, spent by any number of threads. Made by `Client.lease`."""

    def __init__(self, core: Core, terms: Terms, send: Send, leases: set[Lease]) -> None:
        super().__init__(terms)
        self._core, self._send = core, send
        #: The client's leases that must end before its connection may.
        self._leases = leases
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="holdfast-lease", daemon=True)

    def spend(self, amount: int = 1) -> bool:
        """Whether so much may be used now: all of it or nothing. Asks nobody; `decision` says why
        there is no more. Raises ValueError and RuntimeError for what can never be allowed.
        """
        state = self._state
        with self._lock:
            now_s = time.monotonic()
            if type(amount) is not int or amount < 1 or state.is_closing or state.decision is None:
                self._check(amount)
            allowed = state.spend(amount, now_s)
            is_low = state.wants_reserve(now_s)
        if is_low:
            self._wake.set()
        return allowed

    def forked(self) -> None:
        """For the child of a fork: the holds are the parent's, and so is whoever has the lock."""
        self._lock = threading.Lock()
        super().forked()

    def __enter__(self) -> Self:
        self._check_new()
        wanted = self._next()
        assert isinstance(wanted, Wanted)
        result = self._send(wanted.operation)
        self._state.answered(wanted, result, time.monotonic())
        if not result.decision.allowed:
            raise Denied(result.decision)
        self._leases.add(self)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            self._hidden(failure)

    def close(self) -> None:
        """Captures what was spent and gives the rest back. A second call waits for the first."""
        with self._lock:
            if self._thread.ident is None or self._was_forked:
                return
            if not self._state.is_closing:
                self._state.close()
        self._wake.set()
        self._thread.join()
        self._settled(self._core)

    def _run(self) -> None:
        try:
            while not (self._state.is_closing and self._state.is_settled):
                wanted = self._next()
                if isinstance(wanted, Wanted):
                    self._ask(wanted)
                else:
                    self._wake.wait(min(wanted, threading.TIMEOUT_MAX))
                    self._wake.clear()
        finally:
            self._leases.discard(self)

    def _next(self) -> Wanted | float:
        with self._lock:
            return self._state.next_call(time.monotonic())

    def _ask(self, wanted: Wanted) -> None:
        try:
            result = self._send(wanted.operation)
        except Exception as error:
            # Whatever it is, such as what a token function raised: the lease goes on.
            with self._lock:
                self._failed(wanted, error, time.monotonic())
        else:
            with self._lock:
                self._state.answered(wanted, result, time.monotonic())
