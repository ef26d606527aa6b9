"""What the store is asked for: the CPU of a Reserve, and how that grows with what there is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import redis.asyncio as redis

from holdfast import AsyncClient
from holdfast_server.bench import floors
from holdfast_server.bench.cpu import Meter
from holdfast_server.bench.report import Found
from holdfast_server.bench.rounds import Done, Round, Work, alternate, median, middle
from holdfast_server.bench.stage import Options, Stage, connect, populate, traffic_of
from holdfast_server.bench.traffic import GRANTS, Traffic, prepare_below
from holdfast_server.domain.bounds import TREE_LEVELS_MAX

#: The smallest population of `growth`; each further one has ten times as many.
ACCOUNTS_MIN: Final = 1_000
#: Grants of one account in `growth`.
GRANT_COUNTS: Final = (1, 10, 50)
#: Accounts with each number of grants, and with each number of levels up to the credits.
SHAPED: Final = 100


async def engine(stage: Stage, options: Options) -> Found:
    """What one Reserve costs the store, in batches, beside a bare script with as many keys; and
    what the commands of a Reserve cost alone.

    The service MUST have no flusher, which would use the store as well.
    """
    meter = Meter(stage.processes)
    store = redis.Redis.from_url(stage.redis_url)
    async with (
        traffic_of(stage, options, "unary") as traffic,
        floors.decreases(stage.redis_url, options.batch, options.operations) as bare,
        floors.commands(stage.redis_url, options.batch, options.operations) as commands,
    ):
        reserving = _reserves(traffic, store, options)
        measured, floor = await alternate(meter, reserving, bare, options.rounds, stage.on_round)
        alone, _ = await alternate(meter, commands, bare, options.rounds, stage.on_round)
    await store.aclose()
    cost, least = _store_us(measured), _store_us(floor)
    typical, below = middle(measured), middle(floor)
    facts = {
        "batch": options.batch,
        "accounts": options.accounts,
        "commands_us": round(_store_us(alone), 1),
        "cpu_us_of": "a Reserve and its Commit together",
    }
    return Found(
        "engine", "store CPU us per Reserve", cost, least, typical.cpu_us, below.cpu_us, facts
    )


async def growth(stage: Stage, options: Options) -> Found:
    """CPU of a Reserve with more accounts, more grants and more levels: the largest population
    beside the smallest, each in multiples of the bare script.

    The service MUST have no flusher, which would use the store as well.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connect(stage, "unary"))
        store = redis.Redis.from_url(stage.redis_url)
        stack.push_async_callback(store.aclose)
        bare = await stack.enter_async_context(
            floors.decreases(stage.redis_url, options.batch, options.operations)
        )
        growing = _Growing(stage, options, client, store, bare)
        await growing.accounts()
        smallest, largest = growing.rows[0], growing.rows[-1]
        await growing.grants()
        await growing.levels()
    return Found(
        "growth",
        "multiples of the bare script, per Reserve",
        largest["multiple"],
        smallest["multiple"],
        {"valkey": largest["us"]},
        {"valkey": smallest["us"]},
        {"batch": options.batch, "rows": growing.rows},
    )


@dataclass(slots=True)
class _Growing:
    """Measures one population after the other, each beside the same bare script."""

    stage: Stage
    options: Options
    client: AsyncClient
    store: redis.Redis
    bare: Work
    rows: list[dict[str, Any]] = field(default_factory=list)

    async def accounts(self) -> None:
        """More and more accounts; what is reserved is spread over all of them."""
        names: list[str] = []
        for count in _populations(self.options.accounts):
            more = [f"bench-{number:07d}" for number in range(len(names), count)]
            await populate(self.stage, self.client, more)
            names += more
            await self._measure(names, accounts=count)
            await self._spread(count)

    async def grants(self) -> None:
        """Some accounts with more and more grants."""
        for grants in GRANT_COUNTS:
            names = [f"grants-{grants}-{number}" for number in range(SHAPED)]
            await populate(self.stage, self.client, names, grants)
            await self._measure(names, grants=grants)

    async def levels(self) -> None:
        """Some accounts that spend what is further and further above."""
        for levels in range(1, TREE_LEVELS_MAX + 1):
            names = await prepare_below(self.client, SHAPED, levels)
            await self._measure(names, levels=levels)

    async def _measure(
        self, names: Sequence[str], accounts: int = 0, grants: int = GRANTS, levels: int = 1
    ) -> None:
        options = self.options
        reserving = _reserves(Traffic(self.client, names), self.store, options)
        meter = Meter(self.stage.processes)
        found, floor = await alternate(
            meter, reserving, self.bare, options.rounds, self.stage.on_round
        )
        cost, least = _store_us(found), _store_us(floor)
        shape = {"accounts": accounts or options.accounts, "grants": grants, "levels": levels}
        self.rows.append(shape | {"us": round(cost, 1), "multiple": round(cost / least, 1)})

    async def _spread(self, keys: int) -> None:
        """What the bare script takes where it is spread over as many keys: what no design saves."""
        options = self.options
        async with floors.decreases(
            self.stage.redis_url, options.batch, options.operations, keys
        ) as spread:
            meter = Meter(self.stage.processes)
            found, _ = await alternate(
                meter, spread, self.bare, options.rounds, self.stage.on_round
            )
        self.rows[-1]["bare_us_of_as_many_keys"] = round(_store_us(found), 2)


def shapes(accounts: int) -> int:
    """How many things `growth` measures: each population twice, see `_Growing.accounts`."""
    return 2 * len(_populations(accounts)) + len(GRANT_COUNTS) + TREE_LEVELS_MAX


def _populations(accounts: int) -> list[int]:
    """1,000, 10,000, … and the last."""
    counts = [min(ACCOUNTS_MIN, accounts)]
    while counts[-1] < accounts:
        counts.append(min(accounts, 10 * counts[-1]))
    return counts


def _reserves(traffic: Traffic, store: redis.Redis, options: Options) -> Work:
    """Rounds of Reserves; what they hold is committed again, which is not counted."""

    async def work() -> Done:
        used, starts = 0.0, range(0, options.operations, options.batch)
        for _ in starts:
            before = await floors.store_seconds(store)
            holds = await traffic.reserve_batch(options.batch)
            used += await floors.store_seconds(store) - before
            await traffic.settle_batch(holds)
        return Done(len(starts) * options.batch, (), used)

    return work


def _store_us(rounds: list[Round]) -> float:
    return median([each.done.store_seconds * 1e6 / each.done.operations for each in rounds])
