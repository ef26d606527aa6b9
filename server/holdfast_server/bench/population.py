"""Accounts with grants, and holds on them, made by an engine in this process.

A million through the service would take most of an hour.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgpack

from holdfast import new_key
from holdfast_server.bench.traffic import (
    COMMITTED,
    CREDIT_TYPE,
    GRANT_LIVES_MS,
    GRANTED,
    RESERVED,
)
from holdfast_server.domain import operation as op
from holdfast_server.domain.bounds import IDEMPOTENCY_WINDOW_MS_DEFAULT, TTL_MS_MAX
from holdfast_server.domain.token import HoldToken, TokenKind
from holdfast_server.engine.batcher import Batcher, Calls, Limits
from holdfast_server.engine.facts import Facts
from holdfast_server.engine.item import Flag, Item, Raw
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.scripts import load
from holdfast_server.engine.stores import open_store
from holdfast_server.engine.unpack import OWN
from holdfast_server.errors import HoldfastError

#: Accounts that are made at one time.
CHUNK: Final = 1_000
#: How often one is asked for whose answer was lost, and the pause before: a store that has
#: millions of keys may stand still for seconds, such as while it forks.
ATTEMPTS_MAX: Final = 10
PAUSE_SECONDS: Final = 2.0

_FACTS: Final = Facts(op.Caller("bench", "", ""))


class _NoRecorder:
    def queued(self, operations: int) -> None:
        """Nobody looks."""

    def batch(self, operations: int, seconds: float) -> None:
        """Nobody looks."""


class Population:
    """Makes accounts of one tenant, each a tree of its own."""

    def __init__(self, redis_url: str, keys: Keys, tenant: str) -> None:
        self._store, self._keys, self._tenant = open_store(redis_url), keys, tenant
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

    async def hold_each(
        self,
        names: Sequence[str],
        on_chunk: Callable[[], None] = lambda: None,
        ttl_ms: int = TTL_MS_MAX,
    ) -> dict[str, bytes]:
        """Places one hold on every account; answers the ids of the holds."""
        holds: dict[str, bytes] = {}
        for first in range(0, len(names), CHUNK):
            some = names[first : first + CHUNK]
            reserves = [self._item(self._reserve(name, ttl_ms), name) for name in some]
            answers = await self._decide(reserves)
            holds |= zip(some, map(_hold_of, answers), strict=True)
            on_chunk()
        return holds

    async def settle(
        self, holds: Mapping[str, bytes], on_chunk: Callable[[], None] = lambda: None
    ) -> None:
        """Commits the hold of every account."""
        names = list(holds)
        for first in range(0, len(names), CHUNK):
            some = names[first : first + CHUNK]
            await self._decide([self._settlement(name, holds[name]) for name in some])
            on_chunk()

    async def sweep(self, names: Sequence[str]) -> None:
        """Ends what is due of every account, as the sweeper does."""
        expired = [self._item(op.ExpireDue(self._tenant, name), name) for name in names]
        for first in range(0, len(expired), CHUNK):
            await self._decide(expired[first : first + CHUNK])

    async def _decide(self, items: Sequence[Item]) -> list[Raw]:
        return await asyncio.gather(*map(self._decide_one, items))

    async def _decide_one(self, item: Item) -> Raw:
        """The same again, under the same key, where nobody knows what became of it."""
        attempts = 0
        while True:
            (answer,) = await self._batcher.submit([item])
            attempts += 1
            if not isinstance(answer, HoldfastError):
                assert answer.flag in (Flag.FRESH, Flag.REPLAYED), answer
                return answer
            if attempts == ATTEMPTS_MAX:
                raise answer
            await asyncio.sleep(PAUSE_SECONDS)

    def _item(self, operation: op.Operation, account: str, facts: Facts = _FACTS) -> Item:
        return Item(operation, facts, account, self._keys.partition(self._tenant, account))

    def _account(self, name: str) -> Item:
        operation = op.CreateAccount(self._tenant, name, op.AccountTerms(), new_key())
        # What the ledger knows of its tree.
        return self._item(operation, name, dataclasses.replace(_FACTS, root=name))

    def _grant(self, name: str, expires_ms: int) -> Item:
        terms = op.GrantTerms(
            CREDIT_TYPE, GRANTED, op.GrantSource.PURCHASE, expires_at_ms=expires_ms
        )
        return self._item(op.Grant(self._tenant, name, terms, new_key()), name)

    def _reserve(self, name: str, ttl_ms: int) -> op.Reserve:
        lines = (op.Line(CREDIT_TYPE, RESERVED),)
        return op.Reserve(self._tenant, name, lines, ttl_ms, new_key(), "chat")

    def _settlement(self, name: str, hold: bytes) -> Item:
        lines = (op.CommitLine(CREDIT_TYPE, COMMITTED),)
        operation = op.Commit(self._tenant, "", new_key(), lines)
        token = HoldToken(TokenKind.HELD, name, name, hold)
        return self._item(operation, name, dataclasses.replace(_FACTS, token=token))


def _hold_of(answer: Raw) -> bytes:
    hold: bytes = msgpack.unpackb(answer.answer, raw=True, strict_map_key=False)[OWN]
    return hold
