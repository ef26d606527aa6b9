"""A key that was used long ago in one partition, while nothing happened in another."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

from holdfast_server.domain import operation as op
from holdfast_server.engine.request import Request
from tests.support.pair import CALLER, Real

#: Generations until both records and claims are forgotten, and some more.
GENERATIONS = 6
#: Keys in each of them: enough that every claim shard begins a generation too.
KEYS = 200


def time_ordered_key(now_ms: int) -> str:
    """A UUID of version 7."""
    tail = 0x7000_8000_0000_0000_0000 | uuid.uuid4().int & 0x0FFF_3FFF_FFFF_FFFF_FFFF
    return str(uuid.UUID(int=now_ms << 80 | tail))


async def use_and_forget(real: Real) -> tuple[str, str, str]:
    """Two accounts in two partitions, and the key that a burn of the first had.

    The second's partition has dropped a generation of its own before, so that it goes by times, and
    rests since.
    """
    used, resting = await accounts_apart(real)
    await turn(real, resting, 1)
    # Well within the generation that has begun there: clocks may differ by minutes.
    real.clock.now_ms += real.window.generation_ms // 2
    key = time_ordered_key(real.clock.now_ms)
    await real.decide([burn(used, key)])
    for _ in range(GENERATIONS):
        await turn(real, used, KEYS)
    return used, resting, key


async def ask_unchecked(real: Real, operation: op.Operation) -> Any:
    """The answer while nobody has asked the ledger for the key."""
    (answer,) = await real.engine.decide(CALLER, [Request(operation, checked=False)])
    return answer


def burn(account: str, key: str) -> op.Burn:
    return op.Burn("t", account, (op.Line("ai", 1),), key)


async def accounts_apart(real: Real) -> tuple[str, str]:
    """Two accounts with credits, in two partitions."""
    names = (f"a{number}" for number in itertools.count())
    one = await account_in(real, next(names))
    partition = real.keys.partition("t", one)
    other = next(name for name in names if real.keys.partition("t", name) != partition)
    return one, await account_in(real, other)


async def account_in(real: Real, name: str) -> str:
    """An account with credits; answers its name."""
    terms = op.GrantTerms("ai", 10_000, op.GrantSource.PURCHASE)
    await real.decide([op.CreateAccount("t", name, op.AccountTerms(), f"create-{name}")])
    await real.decide([op.Grant("t", name, terms, f"grant-{name}")])
    return name


async def turn(real: Real, account: str, count: int) -> None:
    """A generation passes, in which the ledger gets everything."""
    partition = real.keys.partition("t", account)
    seq = await real.engine.current_seq(partition)
    await real.store.client.hset(real.keys.state(partition, 1), "f", str(seq))
    await pass_generation(real, account, count)


async def pass_generation(real: Real, account: str, count: int) -> None:
    """A generation passes, in which the ledger gets nothing."""
    real.clock.now_ms += real.window.generation_ms
    await real.decide([burn(account, str(uuid.uuid4())) for _ in range(count)])
