"""Accounts with grants, made by an engine in this process.

A million through the service would take most of an hour.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from holdfast import new_key
from holdfast_server.bench.traffic import CREDIT_TYPE, GRANT_LIVES_MS, GRANTED
from holdfast_server.domain import operation as op
from holdfast_server.domain.bounds import IDEMPOTENCY_WINDOW_MS_DEFAULT
from holdfast_server.engine.batcher import Batcher, Calls, Flag, Item, Limits
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.pack import Facts
from holdfast_server.engine.scripts import load
from holdfast_server.engine.stores import open_store
from holdfast_server.errors import HoldfastError

#: Accounts that are made at one time.
CHUNK: Final = 1_000

_FACTS: Final = Facts(op.Caller("bench", "", ""))


class _NoRecorder:
    def queued(self, operations: int) -> None:
        """Nobody looks."""

    def batch(self, operations: int, seconds: float) -> None:
        """Nobody looks."""


class Population:
    """Makes accounts of one tenant, each a tree of its own."""

    def __init__(self, redis_url: str, partitions: int, tenant: str) -> None:
        self._store, self._keys, self._tenant = open_store(redis_url), Keys(partitions), tenant
        calls = Calls(self._store, self._keys, load("apply"), lambda: IDEMPOTENCY_WINDOW_MS_DEFAULT)
        self._batcher = Batcher(calls, Limits(outbox_entries=2**53), _NoRecorder())

    async def close(self) -> None:
        """Disconnects."""
        await self._store.close()

    async def add(
        self, names: Sequence[str], grants: int, on_chunk: Callable[[], None] = lambda: None
    ) -> None:
        """Makes accounts with so many grants each, some of which expire sooner than others."""
        expires_ms = time.time_ns() // 1_000_000 + GRANT_LIVES_MS
        for first in range(0, len(names), CHUNK):
            some = names[first : first + CHUNK]
            await self._decide([self._account(name) for name in some])
            for number in range(grants):
                await self._decide([self._grant(name, expires_ms + number) for name in some])
            on_chunk()

    async def _decide(self, operations: Sequence[op.CreateAccount | op.Grant]) -> None:
        answers = await asyncio.gather(
            *(self._batcher.submit([self._item(each)]) for each in operations)
        )
        for (answer,) in answers:
            if isinstance(answer, HoldfastError):
                raise answer
            assert answer[0] == Flag.FRESH, answer

    def _item(self, operation: op.CreateAccount | op.Grant) -> Item:
        partition = self._keys.partition(self._tenant, operation.account)
        return Item(operation, _FACTS, operation.account, partition)

    def _account(self, name: str) -> op.CreateAccount:
        return op.CreateAccount(self._tenant, name, op.AccountTerms(), new_key())

    def _grant(self, name: str, expires_ms: int) -> op.Grant:
        terms = op.GrantTerms(
            CREDIT_TYPE, GRANTED, op.GrantSource.PURCHASE, expires_at_ms=expires_ms
        )
        return op.Grant(self._tenant, name, terms, new_key())
