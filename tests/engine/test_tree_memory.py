"""What a tree takes of the store after it was used: no more than before."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast_server.domain import operation as op
from tests.support.pair import Real

LIVES_MS = 10**9
TTL_MS = 60_000


async def prepare(real: Real) -> None:
    """An account with a grant that expires long after what happens here."""
    expires_ms = real.clock.now_ms + LIVES_MS
    given = op.GrantTerms("ai", 1_000, op.GrantSource.PURCHASE, expires_at_ms=expires_ms)
    await real.decide(
        [op.CreateAccount("t", "a", op.AccountTerms(), "create"), op.Grant("t", "a", given, "g")]
    )


async def use(real: Real, holds: int) -> None:
    """So many holds at one time, all of which are committed."""
    lines = (op.Line("ai", 5),)
    reserves = [op.Reserve("t", "a", lines, TTL_MS, f"hold-{each}") for each in range(holds)]
    answers = await real.decide(reserves)
    await real.decide([op.Commit("t", each.hold, f"commit-{each.hold}") for each in answers])


async def look(real: Real) -> tuple[int, dict[bytes, bytes]]:
    """How many bytes the tree takes, and what is in it."""
    tree, _ = real.keys.tree_keys(real.keys.partition("t", "a"), 1, "t", "a")
    client: Any = real.store.client
    return await client.memory_usage(tree), await client.hgetall(tree)


@pytest.mark.parametrize("holds", [1, 3])
@pytest.mark.parametrize("asked", [op.ExpireDue("t", "a"), op.GetBalance("t", "a")])
async def test_a_tree_gives_back_the_room_of_its_holds(
    real: Real, holds: int, asked: op.Operation
) -> None:
    await prepare(real)
    loaded, fields = await look(real)
    await use(real, holds)
    real.clock.now_ms += TTL_MS + 1

    await real.decide([asked])

    taken, left = await look(real)
    # Numbers that have risen take a few bytes more; a piece of the next size is 32 larger.
    assert taken <= loaded + 32
    assert left.keys() == fields.keys()
    (balance,) = await real.decide([op.GetBalance("t", "a")])
    assert balance.credits[0].buckets.available == 1_000 - 5 * holds
