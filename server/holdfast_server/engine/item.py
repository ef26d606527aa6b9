"""What a script call is about and how it is answered, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Final

from holdfast_server.domain.operation import GetBalance, Operation
from holdfast_server.domain.value import value
from holdfast_server.engine.facts import Facts

#: Balances in one script call: one may tell of thousands of grants, and takes the store 10 ms then.
BALANCES_MAX: Final = 16


@value(frozen=True, slots=True)
class Item:
    """An operation, the tree it is about, and where that is."""

    operation: Operation
    facts: Facts
    root: str
    partition: int


class Flag(IntEnum):
    """How an answer of apply.lua is to be read."""

    FRESH = 0
    REPLAYED = 1
    FAILED = 2
    LOOK_UP = 3
    REUSED = 4
    HOLD_MISSING = 5
    STALE = 6
    COLD = 7
    FENCED = 8
    GRANT_GONE = 9


@value(frozen=True, slots=True)
class Raw:
    """A script's answer to one item: a flag (see apply.lua) and packed bytes."""

    flag: int
    answer: bytes
    #: The epoch in which it was decided.
    epoch: int = 0


def split_by_balances(items: Sequence[Item]) -> list[Sequence[Item]]:
    """The items in their order, with at most `BALANCES_MAX` balances in each part."""
    if len(items) <= BALANCES_MAX:
        return [items]
    balances = [index for index, item in enumerate(items) if isinstance(item.operation, GetBalance)]
    cuts = [0, *balances[BALANCES_MAX::BALANCES_MAX], len(items)]
    return [items[first:last] for first, last in pairwise(cuts)]
