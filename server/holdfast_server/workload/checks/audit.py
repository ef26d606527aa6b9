"""Waits until the run has come to rest, then reads everything and compares."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from holdfast import AsyncClient, BalanceResult, HoldfastError, operations
from holdfast_server.workload.checks import compare
from holdfast_server.workload.checks.ledger import Cursor, Fold, fold_ledger, read_cursors
from holdfast_server.workload.checks.store import Stored, read_positions, read_trees
from holdfast_server.workload.history import History

#: How long holds may take to expire, and entries to reach the ledger, after the traffic has ended.
REST_TIMEOUT_S = 60.0
POLL_S = 0.2
#: How often to read everything anew because something has changed meanwhile.
READINGS_MAX = 5
#: Balances asked for in one call.
BALANCES_PER_CALL = 250
#: Violations that are kept of each kind.
VIOLATIONS_MAX = 20

Positions = dict[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found. Each tuple is empty when its check holds."""

    conservation: tuple[str, ...]
    chain: tuple[str, ...]
    holds: tuple[str, ...]
    lost: tuple[str, ...]
    duplicates: tuple[str, ...]
    promises: tuple[str, ...]
    expired_holds: int
    ledger_rows: int

    @property
    def violations(self) -> tuple[str, ...]:
        """Everything that does not hold."""
        return (
            *self.conservation,
            *self.chain,
            *self.holds,
            *self.lost,
            *self.duplicates,
            *self.promises,
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that is compared, as it was at one moment of rest."""

    fold: Fold
    stored: Stored
    balances: list[BalanceResult]


class Auditor:
    """Audits one run: its accounts, its history, and the stores that the service wrote to."""

    def __init__(
        self, client: AsyncClient, postgres_url: str, redis_url: str, accounts: Sequence[str]
    ) -> None:
        self._client = client
        self._postgres_url = postgres_url
        self._redis_url = redis_url
        self._accounts = accounts

    async def audit(self, history: History) -> Audit:
        """Raises TimeoutError when the service does not come to rest."""
        await _until("all holds have ended", self._no_open_holds)
        reading = await self._read_at_rest()
        return await asyncio.to_thread(self._compare, reading, history)

    async def _read_at_rest(self) -> Reading:
        """Everything, read while nothing changed."""
        for _ in range(READINGS_MAX):
            await _until("the ledger has caught up", self._drained)
            before = await asyncio.to_thread(self._positions)
            balances = await self._balances()
            fold, stored = await asyncio.to_thread(self._read, before[0])
            if before == await asyncio.to_thread(self._positions):
                return Reading(fold, stored, balances)
        raise TimeoutError("the service kept changing while it was audited")

    def _read(self, cursors: dict[int, Cursor]) -> tuple[Fold, Stored]:
        return fold_ledger(self._postgres_url, cursors), read_trees(self._redis_url, cursors)

    def _positions(self) -> tuple[dict[int, Cursor], Positions]:
        cursors = read_cursors(self._postgres_url)
        return cursors, read_positions(self._redis_url, cursors)

    async def _drained(self) -> bool:
        cursors, positions = await asyncio.to_thread(self._positions)
        return all(positions[number] == (one.seq, one.seq) for number, one in cursors.items())

    async def _no_open_holds(self) -> bool:
        return not any(balance.open_holds for balance in await self._balances())

    async def _balances(self) -> list[BalanceResult]:
        found: list[BalanceResult] = []
        for first in range(0, len(self._accounts), BALANCES_PER_CALL):
            wanted = self._accounts[first : first + BALANCES_PER_CALL]
            for answer in await self._client.batch([operations.balance(one) for one in wanted]):
                if isinstance(answer, HoldfastError):
                    raise answer
                found.append(answer)
        return found

    def _compare(self, reading: Reading, history: History) -> Audit:
        fold, accounts = reading.fold, set(self._accounts)
        accounted = compare.account_for(fold, history, accounts)
        conservation = (
            *fold.conservation,
            *compare.compare_store(fold, reading.stored),
            *compare.compare_balances(fold, reading.balances),
        )
        return Audit(
            conservation=conservation[:VIOLATIONS_MAX],
            chain=tuple(fold.chain[:VIOLATIONS_MAX]),
            holds=tuple(compare.compare_holds(fold, accounts))[:VIOLATIONS_MAX],
            lost=accounted.lost,
            duplicates=accounted.duplicates,
            promises=tuple(history.broken_promises[:VIOLATIONS_MAX]),
            expired_holds=sum(fold.expired_holds[account] for account in accounts),
            ledger_rows=fold.rows,
        )


async def _until(what: str, reached: Callable[[], Awaitable[bool]]) -> None:
    deadline_s = time.monotonic() + REST_TIMEOUT_S
    while not await reached():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"after {REST_TIMEOUT_S:.0f} s it is not so that {what}")
        await asyncio.sleep(POLL_S)
