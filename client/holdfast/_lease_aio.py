"""The asyncio side of a lease. I/O only; see `_lease` for what it means."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from holdfast._calls import Call
from holdfast._core import Core
from holdfast._lease import LeaseBase
from holdfast._lease_state import Terms, Wanted
from holdfast.errors import Denied

Send = Callable[[Call[Any]], Awaitable[Any]]


class AsyncLease(LeaseBase):
    """A lease for an `async with` block. Made by `AsyncClient.lease`."""

    def __init__(self, core: Core, terms: Terms, send: Send, leases: set[AsyncLease]) -> None:
        super().__init__(terms)
        self._core, self._send = core, send
        #: The client's leases that must end before its connection may.
        self._leases = leases
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def spend(self, amount: int = 1) -> bool:
        """Whether so much may be used now: all of it or nothing. Asks nobody; `decision` says why
        there is no more. Raises ValueError and RuntimeError for what can never be allowed.
        """
        state, now_s = self._state, time.monotonic()
        if type(amount) is not int or amount < 1 or state.is_closing or state.decision is None:
            self._check(amount)
        allowed = state.spend(amount, now_s)
        if state.wants_reserve(now_s):
            self._wake.set()
        return allowed

    async def __aenter__(self) -> Self:
        self._check_new()
        wanted = self._state.next_call(time.monotonic())
        assert isinstance(wanted, Wanted)
        result = await self._send(wanted.operation)
        self._state.answered(wanted, result, time.monotonic())
        if not result.decision.allowed:
            raise Denied(result.decision)
        self._leases.add(self)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except Exception as failure:
            if error is None:
                raise
            self._hidden(failure)

    async def close(self) -> None:
        """Captures what was spent and gives the rest back. A second call waits for the first."""
        if self._task is None or self._was_forked:
            return
        if not self._state.is_closing:
            self._state.close()
            self._wake.set()
        while not self._task.done() or self._task.cancelled():
            if self._task.done():
                # Somebody has cancelled all tasks of the loop.
                self._task = asyncio.create_task(self._run())
            # A second cancellation ends the wait, not the settlement.
            await asyncio.wait([self._task])
        self._settled(self._core)

    async def _run(self) -> None:
        try:
            while not (self._state.is_closing and self._state.is_settled):
                wanted = self._state.next_call(time.monotonic())
                if isinstance(wanted, Wanted):
                    await self._ask(wanted)
                else:
                    await self._wait(wanted)
        finally:
            self._leases.discard(self)

    async def _ask(self, wanted: Wanted) -> None:
        try:
            result = await self._send(wanted.operation)
        except Exception as error:
            # Whatever it is, such as what a token function raised: the lease goes on.
            self._failed(wanted, error, time.monotonic())
        else:
            self._state.answered(wanted, result, time.monotonic())

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds if math.isfinite(seconds) else None):
                await self._wake.wait()
        self._wake.clear()
