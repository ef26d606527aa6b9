"""The asyncio client's connection: how a call travels, is repeated, and fails open. I/O only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

from holdfast._calls import Call, Operation, Page, T
from holdfast._channel import AsyncTransport, AsyncUnary, Tls
from holdfast._core import (
    ATTEMPT_TIMEOUT_MS,
    CREDIT_TYPE_DEFAULT,
    TIMEOUT_MS,
    Core,
    TransportName,
    WhenUnreachable,
)
from holdfast._lease_aio import AsyncLease
from holdfast._retry import Attempts
from holdfast._session import Session, at_once
from holdfast._stream import TooLong, Unsupported
from holdfast.errors import HoldfastError, Unreachable


class AsyncConnection:
    """Sends calls. The base of `AsyncClient`."""

    def __init__(
        self,
        target: str,
        *,
        token: str | Callable[[], str] = "",
        tenant: str = "",
        credit_type: str = CREDIT_TYPE_DEFAULT,
        tls: Tls | None = None,
        insecure: bool = False,
        unreachable: WhenUnreachable = "closed",
        attempt_timeout_ms: int = ATTEMPT_TIMEOUT_MS,
        timeout_ms: int = TIMEOUT_MS,
        traceparent: Callable[[], str | None] | None = None,
        transport: TransportName = "session",
    ) -> None:
        """Connects to `target` (`host:port`) when the first call is made.

        `token`: a bearer token, or a function that returns the current one at once: the event loop
        waits for it. `tenant`: only for credentials that serve every tenant. `tls`: own
        certificates; without it, TLS with the system's roots, except to this machine, where
        plaintext is used. `insecure` allows plaintext to elsewhere. `unreachable`: "open" lets
        reserve and burn pass (BYPASSED) when no server can be reached. `traceparent`: returns the
        W3C header of the current trace; by default that of the active OpenTelemetry span.
        `timeout_ms` is for a call with all its attempts, `attempt_timeout_ms` for each of them.
        `transport`: by default all concurrent calls of the hot path share one stream, which is
        about twice as fast; "unary" makes each a call of its own.
        """
        self._core = Core(
            target,
            token=token,
            tenant=tenant,
            credit_type=credit_type,
            tls=tls,
            insecure=insecure,
            unreachable=unreachable,
            attempt_timeout_ms=attempt_timeout_ms,
            timeout_ms=timeout_ms,
            traceparent=traceparent,
        )
        self._transport: AsyncTransport = AsyncUnary(self._core.endpoint)
        self._session: Session | None = None
        #: False once a server has said that it knows none: an older one.
        self._knows_sessions = True
        if transport == "session":
            metadata = partial(at_once, self._core.credentials)
            self._session = Session(self._core.endpoint, metadata)
        self._tasks: set[asyncio.Task[None]] = set()
        self._leases: set[AsyncLease] = set()

    @property
    def bypassed(self) -> int:
        """How many pieces of work were done unbooked because no server could be reached."""
        return self._core.bypassed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends leases, waits for settlements under way within their deadlines, and disconnects."""
        # From the last to the first: each is closed also when another fails.
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self._transport.close)
            if self._session is not None:
                closing.push_async_callback(self._session.close)
            closing.push_async_callback(self._settle)
            for lease in self._leases:
                closing.push_async_callback(lease.close)

    async def _settle(self) -> None:
        """Waits for settlements under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _send(self, call: Call[T]) -> T:
        """Tries until it is answered, or trying again is no use."""
        bypass = self._core.bypass_without_asking(call)
        if bypass is not None:
            return bypass.answer
        request, attempts = self._core.request(call), self._core.attempts(call)
        try:
            while True:
                try:
                    return await self._once(call, request, attempts)
                except Unsupported:
                    self._knows_sessions = False
                    continue
                except HoldfastError as error:
                    wait_s = attempts.wait_s(error)
                await asyncio.sleep(wait_s)
        except Unreachable as error:
            return self._core.bypass_after(call, error)

    def _once(self, call: Call[T], request: Any, attempts: Attempts) -> Awaitable[T]:
        """Over the stream that all share, or as a call of its own."""
        if self._session and self._knows_sessions and isinstance(call, Operation):
            traceparent = self._core.traceparent()
            try:
                return self._session.ask(call, request, attempts.deadline_s(), traceparent)
            except TooLong:
                pass
        return self._call(call, request, attempts.timeout_s())

    async def _call(self, call: Call[T], request: Any, timeout_s: float) -> T:
        metadata = self._core.metadata()
        return call.read(
            await self._transport.send(call.path, call.write(request), timeout_s, metadata)
        )

    async def _pages(self, page: Callable[[str], Call[Page[T]]]) -> AsyncIterator[T]:
        token = ""
        while True:
            found = await self._send(page(token))
            for item in found.items:
                yield item
            token = found.next_token
            if not token:
                return
