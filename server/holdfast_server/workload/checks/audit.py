"""Waits until the run has come to rest, then reads everything and compares."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from holdfast import AsyncClient, BalanceResult, HoldfastError, operations
from holdfast_server.workload.checks import compare
from holdfast_server.workload.checks.ledger import Cursor, Fold, fold_ledger, read_cursors
from holdfast_server.workload.checks.store import Stored, read_positions, read_trees
from holdfast_server.workload.history import History

#: How long holds may take to expire, and the ledger to catch up, after the traffic.
REST_TIMEOUT_S = 60.0
POLL_S = 0.2
#: Balances asked for in one call.
BALANCES_PER_CALL = 250
#: Violations that are kept of each kind.
VIOLATIONS_MAX = 20

HotReading = tuple[dict[int, Cursor], list[BalanceResult], Stored]
Found = TypeVar("Found")


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
        reading = await self._read_at_rest({one.partition for one in history.acknowledged})
        return await asyncio.to_thread(self._compare, reading, history)

    async def _read_at_rest(self, partitions: set[int]) -> Reading:
        """The hot store as it was while nothing changed, and the ledger up to there.

        Only the run's partitions need to rest. The ledger comes last: its rows never change.
        """
        reading = await _until("the ledger has caught up", lambda: self._read_hot(partitions))
        cursors, balances, stored = reading
        fold = await asyncio.to_thread(fold_ledger, self._postgres_url, cursors)
        return Reading(fold, stored, balances)

    async def _read_hot(self, partitions: set[int]) -> HotReading | None:
        """None when the ledger is behind, or when something has changed while this was read."""
        cursors = await asyncio.to_thread(read_cursors, self._postgres_url)
        resting = {number: one for number, one in cursors.items() if number in partitions}
        if not await asyncio.to_thread(self._is_drained, resting):
            return None
        balances = await self._balances()
        stored = await asyncio.to_thread(read_trees, self._redis_url, resting)
        if not await asyncio.to_thread(self._is_drained, resting):
            return None
        return cursors, balances, stored

    def _is_drained(self, cursors: dict[int, Cursor]) -> bool:
        """Whether the hot store is where the ledger is: sequence number and watermark."""
        positions = read_positions(self._redis_url, cursors)
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
            *compare.compare_store(fold, reading.stored, accounts),
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


async def _until(what: str, look: Callable[[], Awaitable[Found | None]]) -> Found:
    """What `look` finds, asked again and again until it is something that counts as true."""
    deadline_s = time.monotonic() + REST_TIMEOUT_S
    while not (found := await look()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"after {REST_TIMEOUT_S:.0f} s it is not so that {what}")
        await asyncio.sleep(POLL_S)
    return found
