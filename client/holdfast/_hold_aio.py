"""The asyncio side of a hold. I/O only; see `_hold` for what it means."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from holdfast import operations, results
from holdfast._calls import Amounts, Call, Operation
from holdfast._core import Core
from holdfast._hold import HoldBase
from holdfast.errors import HoldfastError
from holdfast.kinds import Overage

Send = Callable[[Call[Any]], Awaitable[Any]]


class AsyncHold(HoldBase):
    """A hold around an `async with` block. Made by `AsyncClient.hold`."""

    def __init__(
        self,
        core: Core,
        reserve: Operation[results.ReserveResult],
        asked: dict[str, int],
        ttl_ms: int,
        send: Send,
        tasks: set[asyncio.Task[None]],
    ) -> None:
        super().__init__(core, reserve, asked, ttl_ms)
        self._send = send
        #: The client's tasks that must end before its connection may.
        self._tasks = tasks
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        sent_s = time.monotonic()
        self._begin(await self._send(self._reserve), sent_s)
        self._plan_extension()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Settles, a cancelled block too, within the client's deadline."""
        call = self._settlement(failed=error is not None)
        self._cancel_extension()
        if call is not None:
            # Shielded: a second cancellation ends the wait, not the settlement.
            await asyncio.shield(self._task(self._settle(call, failed=error is not None)))

    async def capture(
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
        result: results.CommitResult = await self._send(capture)
        return result

    async def release(self, reason: str = "") -> results.ReleaseResult:
        """Gives all of the hold back now; the end of the block then sends nothing, or the same once
        more where that was not answered.
        """
        self._recorded = operations.release(self.hold_id, reason=reason)
        result: results.ReleaseResult = await self._send(self._recorded)
        self._settled = True
        self._cancel_extension()
        return result

    async def _settle(self, call: Call[Any], *, failed: bool) -> None:
        try:
            result = await self._send(call)
        except HoldfastError as error:
            self._settlement_failed(error, failed)
            return
        if isinstance(result, results.CommitResult):
            self._receipt = result

    def _plan_extension(self) -> None:
        after_s = self._extend_after_s(time.monotonic())
        if after_s is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(after_s, lambda: self._task(self._extend()))

    def _cancel_extension(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def _extend(self) -> None:
        sent_s = time.monotonic()
        try:
            await self._send(self._extension())
            self._lives(sent_s)
        except Exception as error:
            # Whatever it is, such as what a token function raised: it is tried again.
            self._extension_failed(error, time.monotonic())
        self._plan_extension()

    def _task(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
