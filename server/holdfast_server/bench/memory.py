"""`memory`: what accounts, holds and keys take of the store, by the keys that they lie in."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import redis.asyncio as redis

from holdfast_server.bench.cpu import Meter
from holdfast_server.bench.population import Population
from holdfast_server.bench.report import Found
from holdfast_server.bench.rounds import Done, Round, timed
from holdfast_server.bench.stage import Options, Stage, populating
from holdfast_server.domain.bounds import TTL_MS_MIN

#: Bytes that an idle account with one grant may take, and an open hold with its records.
WANTED_BYTES: Final = 400
#: Accounts that are used once, to see what they take then.
USED_ACCOUNTS: Final = 1_000
#: Keys whose size is asked for in one round trip.
KEYS_AT_ONCE: Final = 1_000

#: What the kinds of keys hold (engine/keys.py), by how their names go on behind the epoch.
_KINDS: Final = {
    "t": "accounts",
    "d": "accounts",
    "w": "accounts",
    "due": "accounts",
    "hot": "accounts",
    "state": "records",
    "former": "records",
    "claims": "records",
}


async def memory(stage: Stage, options: Options) -> Found:
    """Bytes of an idle account with one grant, beside what it may take at most; and of the rest.

    Idle means that the records of its creation and of its grant have been forgotten.
    """
    count = options.accounts
    names = [f"account-{number:09d}" for number in range(count)]
    async with redis.Redis.from_url(stage.redis_url) as store:
        loaded, sizes = await _measured(stage, store, names)
        facts = await store.info("memory")

    def each(after: str, before: str, *kinds: str) -> float:
        more = (sizes[after][kind] - sizes[before][kind] for kind in kinds)
        return round(sum(more) / count, 1)

    once_used = sizes["used"]["accounts"] - sizes["idle"]["accounts"]
    return Found(
        "memory",
        "bytes per idle account with one grant",
        each("idle", "empty", "accounts"),
        WANTED_BYTES,
        loaded.cpu_us,
        {},
        {
            "accounts": count,
            "more_once_used": round(once_used / min(count, USED_ACCOUNTS), 1),
            "records_of_account_and_grant": each("idle", "empty", "records"),
            "open_hold": each("held", "used", "accounts"),
            "open_hold_with_records": each("held", "used", "accounts", "records"),
            "records_of_commit": each("settled", "held", "records"),
            "seconds_to_load": round(loaded.seconds, 1),
            "used_memory_mb": round(int(facts["used_memory"]) / 1e6, 1),
        },
    )


async def _measured(
    stage: Stage, store: redis.Redis, names: Sequence[str]
) -> tuple[Round, Mapping[str, Counter[str]]]:
    """What loading the accounts took, and the sizes before it and after each step."""
    sizes = dict[str, Counter[str]]()
    async with populating(stage) as population:
        sizes["empty"] = await _sizes(store)

        async def load() -> Done:
            await population.add(names, 1, stage.on_round)
            return Done(2 * len(names))

        loaded = await timed(Meter(stage.processes), load)
        sizes["idle"] = await _sizes(store)
        await _use(population, names[:USED_ACCOUNTS])
        sizes["used"] = await _sizes(store)
        holds = await population.hold_each(names, stage.on_round)
        sizes["held"] = await _sizes(store)
        await population.settle(holds, stage.on_round)
        sizes["settled"] = await _sizes(store)
    return loaded, sizes


async def _use(population: Population, names: Sequence[str]) -> None:
    """Holds and commits on every account, and lets the time of that hold pass."""
    await population.settle(await population.hold_each(names, ttl_ms=TTL_MS_MIN))
    await asyncio.sleep(TTL_MS_MIN / 1_000)
    await population.sweep(names)


async def _sizes(store: redis.Redis) -> Counter[str]:
    """Bytes of all keys by what they hold; the outbox is left out, since it is only passing."""
    found = Counter[str]()
    names: list[bytes] = []
    async for name in store.scan_iter(count=KEYS_AT_ONCE):
        names.append(name)
        if len(names) == KEYS_AT_ONCE:
            await _add_sizes(store, names, found)
            names.clear()
    await _add_sizes(store, names, found)
    return found


async def _add_sizes(store: redis.Redis, names: list[bytes], found: Counter[str]) -> None:
    pipeline = store.pipeline(transaction=False)
    for name in names:
        pipeline.memory_usage(name, samples=0)
    for name, size in zip(names, await pipeline.execute(), strict=True):
        found[kind_of(name)] += size or 0


def kind_of(name: bytes) -> str:
    """What a key holds, as far as the report tells it apart."""
    _, _, kind, *_ = (*name.split(b":", 3), b"", b"")
    return _KINDS.get(kind.decode(), "other")
