"""The sweeper ends what is due everywhere, whatever is in its way."""

from __future__ import annotations

import pytest

from holdfast_server.engine import due
from holdfast_server.engine.keys import FENCE_FIELD
from holdfast_server.errors import Reason
from tests.support.due import (
    LIFE_MS,
    Failures,
    expired,
    fund,
    index_of,
    names_in,
    sweeper_of,
)
from tests.support.pair import Real

#: More trees than are looked at in one round.
MANY = 120


async def fence(real: Real, partition: int) -> None:
    """Keeps every call away from a partition."""
    state = real.keys.state(partition, 1)
    await real.store.client.hset(state, FENCE_FIELD, "1 0 FENCED")


async def spoil(real: Real, names: list[str]) -> None:
    """Makes each tree something that no script can read."""
    for name in names:
        tree, _ = real.keys.tree_keys(real.keys.partition("t", name), 1, "t", name)
        await real.store.client.set(tree, "no hash")


async def test_partitions_that_are_fenced_hold_up_no_other(real: Real) -> None:
    last = real.keys.partitions - 1
    (free,) = names_in(real.keys, last, 1)
    for partition in range(2):
        await fund(real, names_in(real.keys, partition, MANY))
    await fund(real, [free])
    for partition in range(2):
        await fence(real, partition)
    real.clock.now_ms += LIFE_MS
    failures = Failures()

    assert await sweeper_of(real, failures).sweep() == (0, 1)
    assert await expired(real, free) == 1
    assert failures.counted == {Reason.FENCED: 2 * MANY}


async def test_trees_that_cannot_be_ended_hold_up_no_other(real: Real) -> None:
    """Not even those behind them in their partition."""
    names = names_in(real.keys, 3, MANY + 1)
    await fund(real, names[:MANY])
    real.clock.now_ms += 1
    await fund(real, names[MANY:])
    await spoil(real, names[:MANY])
    real.clock.now_ms += LIFE_MS
    failures = Failures()
    sweeper = sweeper_of(real, failures)

    assert await sweeper.sweep() == (0, 1)
    assert await expired(real, names[MANY]) == 1
    assert failures.counted == {Reason.INTERNAL: MANY}
    assert await sweeper.sweep() == (0, 0)
    assert failures.counted == {Reason.INTERNAL: 2 * MANY}


async def test_a_sweep_gives_up_a_partition_and_the_next_goes_on_behind(
    real: Real, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due, "FAILED_MAX", 3)
    monkeypatch.setattr(due, "TREES_OF_PARTITION_MAX", 3)
    names = names_in(real.keys, 0, 8)
    for name in names:
        await fund(real, [name])
        real.clock.now_ms += 1
    await spoil(real, names[:7])
    real.clock.now_ms += LIFE_MS
    failures = Failures()
    sweeper = sweeper_of(real, failures)

    assert [await sweeper.sweep() for _ in range(3)] == [(0, 0), (0, 0), (0, 1)]
    assert failures.counted == {Reason.INTERNAL: 7}
    await sweeper.sweep()
    assert failures.counted == {Reason.INTERNAL: 10}


async def test_every_partition_has_its_turn(real: Real) -> None:
    """However little a round takes, and although nothing of it is ever ended."""
    for partition in range(real.keys.partitions):
        await fund(real, names_in(real.keys, partition, 4))
    real.clock.now_ms += LIFE_MS
    index = index_of(real)
    index.begin()

    rounds = [await index.due(3) for _ in range(8)]

    seen = [tree.partition for trees in rounds for tree in trees]
    assert seen == [number % real.keys.partitions for number in range(24)]


async def test_an_index_of_a_wrong_type_holds_up_no_other(real: Real) -> None:
    names = [names_in(real.keys, partition, 1)[0] for partition in range(2)]
    await fund(real, names)
    await real.store.client.delete(real.keys.due(0, 1))
    await real.store.client.set(real.keys.due(0, 1), "no index")
    real.clock.now_ms += LIFE_MS

    assert await sweeper_of(real).sweep() == (0, 1)
    assert await expired(real, names[1]) == 1
