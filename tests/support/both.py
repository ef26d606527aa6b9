"""The engine, the ledger and a flusher in one process: operations over both real stores.

The store's clock is the test's, so that windows and expiry need no waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from holdfast_server.control.hydration import Hydrator
from holdfast_server.control.operations import Operations
from holdfast_server.domain import operation as op
from holdfast_server.domain.operation import Operation
from holdfast_server.engine.outbox import Outbox
from holdfast_server.engine.tree_store import TreeStore
from holdfast_server.engine.watermark import Watermarks
from holdfast_server.flusher.events import FlusherHooks
from holdfast_server.flusher.flusher import Flusher
from holdfast_server.ledger.append import Appender
from holdfast_server.ledger.store import Ledger
from holdfast_server.telemetry.recorder import Recorder
from holdfast_server.telemetry.tracing import Tracing
from tests.support.asking import ask
from tests.support.pair import CALLER, Real, build

PARTITIONS = 4


class AnyCreditType:
    """Every credit type is defined."""

    def knows_credit_type(self, tenant: str, credit_type: str) -> bool:
        return True

    async def ensure_credit_type(self, tenant: str, credit_type: str) -> bool:
        return True


@dataclass
class Both:
    """Operations, with keys that need not be thought of."""

    real: Real
    ledger: Ledger
    operations: Operations
    keys: int = 0
    asked: int = 0

    def key(self) -> str:
        """A key that proves nothing by itself, so that the ledger is asked."""
        self.keys += 1
        return f"key-{self.keys}"

    async def do(self, operation: Operation) -> Any:
        """The answer to one operation. Every other one is tried at once first."""
        self.asked += 1
        return await ask(self.operations, CALLER, operation, attempted=bool(self.asked % 2))

    async def do_all(self, operations: Sequence[Operation]) -> list[Any]:
        """The answers to a batch."""
        return await self.operations.submit(CALLER, operations)

    async def account(self, name: str, **terms: Any) -> None:
        """Creates an account."""
        answer = await self.do(op.CreateAccount("t", name, op.AccountTerms(**terms), self.key()))
        assert answer.applied.seq

    async def grant(self, account: str, amount: int, **terms: Any) -> str:
        """Gives credits of type "ai"; answers the grant's id."""
        given = op.GrantTerms("ai", amount, op.GrantSource.PURCHASE, **terms)
        answer = await self.do(op.Grant("t", account, given, self.key(), op.Durability.MEMORY))
        return str(answer.grant_id)

    async def reserve(self, account: str, amount: int, ttl_ms: int = 60_000, **more: Any) -> Any:
        """Places a hold of credits of type "ai"."""
        lines = (op.Line("ai", amount),)
        return await self.do(op.Reserve("t", account, lines, ttl_ms, self.key(), **more))

    async def commit(self, hold: str, amount: int | None = None, **more: Any) -> Any:
        """Commits a hold."""
        lines = () if amount is None else (op.CommitLine("ai", amount),)
        return await self.do(op.Commit("t", hold, self.key(), lines, **more))

    async def buckets(self, account: str) -> Any:
        """The account's buckets of credit type "ai"."""
        balance = await self.do(op.GetBalance("t", account))
        return next(line.buckets for line in balance.credits if line.credit_type == "ai")

    async def flushed(self) -> None:
        """Waits until the ledger has everything."""
        for partition in range(PARTITIONS):
            seq = await self.real.engine.current_seq(partition)
            epoch = self.real.keys.epoch(partition)
            assert not seq or await self.operations.watermarks.wait(partition, epoch, seq, 20)


@asynccontextmanager
async def both_stores(
    valkey_url: str, postgres_url: str, tracing: Tracing | None = None
) -> AsyncIterator[Both]:
    """Starts everything, and a flusher that runs until the end."""
    async with AsyncExitStack() as stack:
        ledger = await Ledger.open(postgres_url)
        # What stays open keeps the event loop from ending, also where the rest fails.
        stack.push_async_callback(ledger.close)
        real = build(
            valkey_url,
            partitions=PARTITIONS,
            tracing=tracing,
            hydration=lambda store, keys: Hydrator(ledger, TreeStore(store, keys), Recorder()),
        )
        stack.push_async_callback(real.store.close)
        await ledger.start_deployment(PARTITIONS)
        hooks = FlusherHooks(span=tracing.flush) if tracing else None
        outbox = Outbox(real.store.client, real.keys)
        flusher = Flusher(outbox, Appender(postgres_url), hooks=hooks)
        running = asyncio.create_task(flusher.run())
        watermarks = Watermarks(real.store, real.keys)
        try:
            yield Both(real, ledger, Operations(real.engine, ledger, watermarks, AnyCreditType()))
        finally:
            flusher.stop()
            await running
