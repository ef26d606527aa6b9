"""Sends a trace through the public client, and writes every answer into the history."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from holdfast import (
    AsyncClient,
    CommitResult,
    Denied,
    HoldfastError,
    RefundResult,
    ReleaseResult,
    ReserveResult,
    SettledLine,
    new_key,
    operations,
)
from holdfast_server.workload.behaviour import LATENESS_S, Course, Request, plan_request
from holdfast_server.workload.history import History
from holdfast_server.workload.trace import TraceRow

#: How long a hold lives that will be settled: longer than any request works or waits.
TTL_MS = 60_000
#: Every so many requests, this many go together in one call per step, as from a queue's worker.
BATCH_EVERY = 125
BATCH_REQUESTS = 25

Numbered = tuple[int, TraceRow]


@dataclass(frozen=True, slots=True)
class Pace:
    """How many requests are under way at once; how fast the trace's clock runs (0: unheeded)."""

    concurrency: int
    speed: float


class Driver:
    """Sends requests on behalf of `accounts`, over several connections."""

    def __init__(
        self, clients: Sequence[AsyncClient], accounts: list[str], seed: int, history: History
    ) -> None:
        self._clients = clients
        self._accounts = accounts
        self._seed = seed
        self._history = history
        self._courses: dict[Course, Callable[[AsyncClient, Request], Awaitable[None]]] = {
            Course.WORKS: self._works,
            Course.BLOCK: self._block,
            Course.STREAMS: self._streams,
            Course.BURNS: self._burns,
            Course.FAILS: self._fails,
            Course.DIES: self._dies,
            Course.LATE: self._late,
            Course.REFUNDED: self._refunded,
            Course.REPEATS: self._repeats,
        }

    async def run(self, rows: Sequence[TraceRow], pace: Pace, done: Callable[[int], None]) -> None:
        """Sends all rows; `done` hears how many requests have just ended."""
        shared = iter(enumerate(rows))
        started_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(min(pace.concurrency, len(rows))):
                group.create_task(self._work_off(shared, pace.speed, started_s, done))

    async def _work_off(
        self, rows: Iterator[Numbered], speed: float, started_s: float, done: Callable[[int], None]
    ) -> None:
        for number, row in rows:
            if speed:
                due_s = started_s + row.at_ms / 1_000 / speed
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if number % BATCH_EVERY == 0:
                together = [(number, row), *islice(rows, BATCH_REQUESTS - 1)]
                await self._together([self._plan(one) for one in together])
                done(len(together))
            else:
                await self._one(self._plan((number, row)))
                done(1)

    def _plan(self, numbered: Numbered) -> Request:
        return plan_request(*numbered, self._accounts, self._seed)

    async def _one(self, request: Request) -> None:
        client = self._clients[request.number % len(self._clients)]
        await self._courses[request.course](client, request)

    # --- Courses --------------------------------------------------------------------------------

    async def _works(self, client: AsyncClient, request: Request) -> None:
        hold_id = await self._reserve(client, request)
        if hold_id:
            await asyncio.sleep(request.work_s)
            await self._commit(client, hold_id, request.actual)

    async def _fails(self, client: AsyncClient, request: Request) -> None:
        hold_id = await self._reserve(client, request)
        if hold_id:
            await asyncio.sleep(request.work_s)
            await self._release(client, hold_id)

    async def _dies(self, client: AsyncClient, request: Request) -> None:
        await self._reserve(client, request, ttl_ms=request.ttl_ms)

    async def _late(self, client: AsyncClient, request: Request) -> None:
        hold_id = await self._reserve(client, request, ttl_ms=request.ttl_ms)
        if hold_id:
            await asyncio.sleep(request.ttl_ms / 1_000 + LATENESS_S)
            result = await self._commit(client, hold_id, request.actual)
            self._history.late_commits += bool(result and result.late)

    async def _streams(self, client: AsyncClient, request: Request) -> None:
        hold_id = await self._reserve(client, request, minimum=dict.fromkeys(request.estimate, 1))
        if not hold_id:
            return
        part = {name: used // (request.captures + 1) for name, used in request.actual.items()}
        part = {name: used for name, used in part.items() if used}
        for _ in range(request.captures if part else 0):
            await asyncio.sleep(request.work_s / (request.captures + 1))
            await self._commit(client, hold_id, part, final=False)
        captured = request.captures if part else 0
        rest = {name: used - part.get(name, 0) * captured for name, used in request.actual.items()}
        await self._commit(client, hold_id, rest)

    async def _refunded(self, client: AsyncClient, request: Request) -> None:
        hold_id = await self._reserve(client, request)
        if not hold_id:
            return
        result = await self._commit(client, hold_id, request.actual)
        if result is None:
            return
        await self._refund_twice(client, result.applied.transaction_id)

    async def _refund_twice(self, client: AsyncClient, transaction_id: str) -> None:
        key = new_key()
        try:
            first = await client.refund(transaction_id, reason_code="quality", key=key)
            self._history.answered("Refund", key, first, _refunded(first))
            again = await client.refund(transaction_id, reason_code="quality", key=key)
        except HoldfastError as error:
            self._history.failed(key, error)
            return
        self._history.answered_again(first, again)

    async def _repeats(self, client: AsyncClient, request: Request) -> None:
        key = new_key()
        first = await self._reserve_with(client, request, key)
        if first is None:
            return
        try:
            again = await client.reserve(
                request.account, request.estimate, feature="chat", ttl_ms=TTL_MS, key=key
            )
        except HoldfastError as error:
            self._history.failed(key, error)
            return
        self._history.answered_again(first, again)
        if first.hold_id:
            await self._commit_twice(client, first.hold_id, request)

    async def _commit_twice(self, client: AsyncClient, hold_id: str, request: Request) -> None:
        key = new_key()
        first = await self._commit(client, hold_id, request.actual, key=key)
        if first is None:
            return
        try:
            again = await client.commit(hold_id, request.actual, key=key)
        except HoldfastError as error:
            self._history.failed(key, error)
            return
        self._history.answered_again(first, again)

    async def _burns(self, client: AsyncClient, request: Request) -> None:
        key = new_key()
        try:
            result = await client.burn(request.account, request.actual, feature="chat", key=key)
        except HoldfastError as error:
            self._history.failed(key, error)
            return
        self._history.decided(result.decision)
        self._history.answered("Burn", key, result, _burned(result.lines))

    async def _block(self, client: AsyncClient, request: Request) -> None:
        key = new_key()
        hold = client.hold(
            request.account, request.estimate, feature="chat", ttl_ms=TTL_MS, key=key
        )
        try:
            async with hold:
                self._reserved(key, hold.placed)
                await asyncio.sleep(request.work_s)
                hold.commit(request.actual)
        except Denied as denied:
            self._history.decided(denied.decision)
            self._history.operations += 1
        except HoldfastError as error:
            self._history.failed(key, error)
        if hold.receipt is not None:
            self._history.answered("Commit", "", hold.receipt, _burned(hold.receipt.lines))

    async def _together(self, requests: list[Request]) -> None:
        """Many requests in one call for each step, decided in their order."""
        client = self._clients[requests[0].number % len(self._clients)]
        keys = [new_key() for _ in requests]
        reserves = [
            operations.reserve(one.account, one.estimate, feature="batch", ttl_ms=TTL_MS, key=key)
            for one, key in zip(requests, keys, strict=True)
        ]
        placed = await self._batch(client, reserves, keys)
        commits, commit_keys = [], []
        for request, key, result in zip(requests, keys, placed, strict=True):
            if isinstance(result, ReserveResult):
                self._reserved(key, result)
                if result.hold_id:
                    commit_keys.append(new_key())
                    commit = operations.commit(result.hold_id, request.actual, key=commit_keys[-1])
                    commits.append(commit)
        settled = await self._batch(client, commits, commit_keys)
        for key, receipt in zip(commit_keys, settled, strict=True):
            if isinstance(receipt, CommitResult):
                self._history.answered("Commit", key, receipt, _burned(receipt.lines))

    # --- Steps ----------------------------------------------------------------------------------

    async def _batch(
        self, client: AsyncClient, wanted: Sequence[operations.Operation[object]], keys: list[str]
    ) -> list[object]:
        """The results of a batch, with None in place of those that failed."""
        if not wanted:
            return []
        try:
            answers = await client.batch(wanted)
        except HoldfastError as error:
            answers = [error] * len(wanted)
        for key, answer in zip(keys, answers, strict=True):
            if isinstance(answer, HoldfastError):
                self._history.failed(key, answer)
        return answers

    async def _reserve(
        self,
        client: AsyncClient,
        request: Request,
        *,
        ttl_ms: int = TTL_MS,
        minimum: dict[str, int] | None = None,
    ) -> str:
        """The hold's id; empty when there is none."""
        result = await self._reserve_with(client, request, new_key(), ttl_ms, minimum)
        return result.hold_id if result else ""

    async def _reserve_with(
        self,
        client: AsyncClient,
        request: Request,
        key: str,
        ttl_ms: int = TTL_MS,
        minimum: dict[str, int] | None = None,
    ) -> ReserveResult | None:
        started_s = time.perf_counter()
        try:
            result = await client.reserve(
                request.account,
                request.estimate,
                minimum=minimum,
                feature="chat",
                ttl_ms=ttl_ms,
                key=key,
            )
        except HoldfastError as error:
            self._history.failed(key, error)
            return None
        self._history.reserve_s.append(time.perf_counter() - started_s)
        self._reserved(key, result)
        return result

    def _reserved(self, key: str, result: ReserveResult) -> None:
        self._history.decided(result.decision)
        self._history.answered("Reserve", key, result, sum(line.held for line in result.lines))

    async def _commit(
        self,
        client: AsyncClient,
        hold_id: str,
        actual: dict[str, int],
        *,
        final: bool = True,
        key: str = "",
    ) -> CommitResult | None:
        key = key or new_key()
        try:
            result = await client.commit(hold_id, actual, final=final, key=key)
        except HoldfastError as error:
            self._history.failed(key, error)
            return None
        self._history.answered("Commit", key, result, _burned(result.lines))
        return result

    async def _release(self, client: AsyncClient, hold_id: str) -> None:
        key = new_key()
        try:
            result = await client.release(hold_id, reason="the model failed", key=key)
        except HoldfastError as error:
            self._history.failed(key, error)
            return
        self._history.answered("Release", key, result, _returned(result))


def _burned(lines: Sequence[SettledLine]) -> int:
    return sum(line.burned for line in lines)


def _returned(result: ReleaseResult) -> int:
    return sum(line.returned for line in result.lines)


def _refunded(result: RefundResult) -> int:
    return sum(line.refunded for line in result.lines)
