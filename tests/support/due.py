"""Sweepers whose clock is the test's, and trees in which something is due."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from itertools import count

from holdfast_server.control.sweeper import Sweeper
from holdfast_server.domain import operation as op
from holdfast_server.engine.due import DueIndex
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.scripts import Clock
from holdfast_server.telemetry.recorder import Recorder
from tests.support.pair import Real

#: Until a grant of these tests expires.
LIFE_MS = 1_000


class Failures(Recorder):
    """Remembers in how many trees something could not be ended, by reason."""

    def __init__(self) -> None:
        self.counted = Counter[Enum]()

    def sweep_failed(self, reason: Enum, trees: int) -> None:
        self.counted[reason] += trees


def index_of(real: Real) -> DueIndex:
    """What is due, by the clock of the test."""
    return DueIndex(real.store, real.keys, Clock.ARGUMENT, real.clock)


def sweeper_of(real: Real, failures: Recorder | None = None) -> Sweeper:
    """A sweeper that sweeps when it is told to."""
    return Sweeper(index_of(real), real.engine, 1.0, failures or Recorder())


def names_in(keys: Keys, partition: int, wanted: int) -> list[str]:
    """Names whose trees are in one partition."""
    names = (f"a{number}" for number in count())
    found = (name for name in names if keys.partition("t", name) == partition)
    return [next(found) for _ in range(wanted)]


async def fund(real: Real, names: Sequence[str]) -> None:
    """Accounts with a grant each, all of which expire after `LIFE_MS`."""
    terms = op.GrantTerms(
        "ai", 5, op.GrantSource.PURCHASE, expires_at_ms=real.clock.now_ms + LIFE_MS
    )
    await real.decide([op.CreateAccount("t", each, op.AccountTerms(), each) for each in names])
    answers = await real.decide([op.Grant("t", each, terms, f"g{each}") for each in names])
    assert all(answer.applied.seq for answer in answers)


async def expired(real: Real, name: str) -> int:
    """How many entries say that a grant of an account expired; nobody looks at the account."""
    entries = await real.entries()
    return sum(each.account == name and each.delta.expired > 0 for each in entries)
