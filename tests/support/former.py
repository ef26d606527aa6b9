"""Partitions that are given up while they are in use, and what removes what they had."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_server.control.former_homes import FormerHomes
from holdfast_server.domain import operation as op
from holdfast_server.engine.former_keys import FormerKeys
from holdfast_server.engine.keys import home_of
from holdfast_server.ledger.rows import milliseconds
from tests.support.both import PARTITIONS, Both
from tests.support.due import names_in
from tests.support.ledger import query
from tests.support.rebuilding import rebuild


@dataclass
class Later:
    """The time that the remover is told."""

    now_ms: int

    def __call__(self) -> int:
        return self.now_ms


def given_up_at(postgres_url: str, newest_home: int) -> int:
    """When partitions up to this home have given up all before it: the next whole millisecond."""
    (row,) = query(
        postgres_url,
        "SELECT max(opened_at) FROM holdfast.partition_epoch WHERE home <= %s",
        newest_home,
    )
    return milliseconds(row["max"]) + 1


def remover_of(both: Both, clock: Later) -> FormerHomes:
    """What removes, as a process that has just begun has it."""
    return FormerHomes(both.ledger, FormerKeys(both.real.store, both.real.keys), clock)


async def remove(remover: FormerHomes) -> int:
    """Takes steps until nothing is left for now; answers how many looks that took."""
    looks = 1
    while not await remover.look():
        looks += 1
    return looks


async def homes(both: Both) -> dict[int, dict[int, set[str]]]:
    """All keys of each partition, by their home."""
    found: dict[int, dict[int, set[str]]] = {each: {} for each in range(PARTITIONS)}
    for place in await both.real.store.places():
        cursor, is_begun = 0, False
        while cursor or not is_begun:
            cursor, names = await both.real.store.scan(place, cursor, "{p*", 1_000)
            is_begun = True
            for name in names:
                partition, home = home_of(name)
                found[partition].setdefault(home, set()).add(name)
    return found


async def fill(both: Both) -> None:
    """Trees in every partition, with an open hold each and an account below the root."""
    for partition in range(PARTITIONS):
        for name in names_in(both.real.keys, partition, 3):
            balance = await both.do(op.GetBalance("t", name))
            if not hasattr(balance, "credits"):
                await both.account(name)
                await both.account(f"{name}.below", parent=name)
            await both.grant(name, 100)
            assert (await both.reserve(name, 5)).hold
    await both.flushed()


async def rebuilt_twice(both: Both, postgres_url: str) -> None:
    """Partitions 1 and 2 are given up once, 1 then once more; all are used all the while."""
    await fill(both)
    await rebuild(both, postgres_url, 1, 2)
    await fill(both)
    await rebuild(both, postgres_url, 1)
    await fill(both)
