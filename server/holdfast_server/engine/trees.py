"""Reads whole trees as figures, to be compared with the ledger. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from holdfast_server.domain.figures import (
    HELD,
    OPEN,
    OPEN_HOLDS,
    REMAINING,
    VERSION,
    Figure,
    Figures,
    grant_part,
    hold_part,
)
from holdfast_server.domain.packed import MALFORMED
from holdfast_server.domain.reply import BUCKETS
from holdfast_server.engine.keys import NUMBERS_FIELD, Keys, TreeName, parse_tree_key
from holdfast_server.engine.rows import unpack_hold, unpack_row
from holdfast_server.engine.scripts import constants, load
from holdfast_server.engine.store import Store

#: Fields of a tree that is read: the store does nothing else for about 20 ms.
TREE_FIELDS_MAX: Final = 20_000

#: Says that a row of the tree is none.
UNREADABLE: Final = Figure("", "", "tree", "unreadable")

#: Values of one draw of a hold: account, source, amount.
_DRAW_VALUES: Final = 3

Named = Iterator[tuple[Figure, int]]


@dataclass(frozen=True, slots=True)
class HotTree:
    """A tree as it was when its partition was at `seq`. `figures` is None where it is too large."""

    partition: int
    epoch: int
    seq: int
    figures: Figures | None
    #: It is not there and need not be: the ledger alone has it.
    is_cold: bool = False


class TreeReader:
    """Reads trees, and finds some."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys = store, keys
        self._script = load("read_tree")

    async def read(self, tenant: str, root: str) -> HotTree:
        """The tree; one that is not there has no figures. Raises STORE_UNAVAILABLE and the like."""
        partition = self._keys.partition(tenant, root)
        epoch = self._keys.epoch(partition)
        hot, number = self._keys.hot(partition, epoch, tenant, root)
        keys = [
            self._keys.state(partition, epoch),
            self._keys.tree_keys(partition, epoch, tenant, root)[0],
            hot,
        ]
        answer = await self._store.run(self._script, keys, [TREE_FIELDS_MAX, number])
        numbers, _, count, fields, cold = answer
        seq = int(unpack_row(numbers)[0]) if numbers else 0
        figures = _readable(fields) if count <= TREE_FIELDS_MAX else None
        return HotTree(partition, epoch, seq, figures, bool(cold))

    async def seqs(self, partitions: Sequence[int]) -> dict[int, int]:
        """The sequence number of each partition's newest entry."""
        epoch = self._keys.epoch
        states = [self._keys.state(partition, epoch(partition)) for partition in partitions]
        rows = await self._store.read_all([("HGET", key, NUMBERS_FIELD) for key in states])
        return {
            partition: int(unpack_row(row)[0]) if row else 0
            for partition, row in zip(partitions, rows, strict=True)
        }

    async def sample(self, count: int) -> list[tuple[str, str]]:
        """Tenants and roots of trees by chance, at most so many: each key was asked for blindly."""
        found = map(parse_tree_key, await self._store.random_keys(count))
        return sorted({(tree.tenant, tree.root) for tree in found if tree and self._counts(tree)})

    def _counts(self, tree: TreeName) -> bool:
        """Whether it is no tree of a hot state that was given up."""
        epoch = self._keys.epoch(tree.partition)
        return tree.home == self._keys.epochs.home(tree.partition, epoch)


def _readable(fields: Sequence[bytes]) -> Figures:
    """The figures; of what cannot be read, that it cannot, which no ledger agrees with."""
    try:
        return _figures(fields)
    except (*MALFORMED, msgpack.UnpackException):
        return {UNREADABLE: 1}


def _figures(fields: Sequence[bytes]) -> Figures:
    figures = dict[Figure, int]()
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        if name[:1] == b"a":
            figures.update(_account(name[1:].decode(), unpack_row(value)))
        elif name[:1] == b"h":
            for figure, amount in _hold(hold_part(name[1:].hex()), unpack_hold(value)):
                figures[figure] = figures.get(figure, 0) + amount
    return figures


def _account(account: str, state: Sequence[Any]) -> Named:
    yield Figure(account, "", "", VERSION), state[_place("A_VERSION")]
    yield Figure(account, "", "", OPEN_HOLDS), state[_place("A_OPEN_HOLDS")]
    pairs = iter(state[_place("A_FIRST_CREDIT") :])
    for credit_type, credit in zip(pairs, pairs, strict=True):
        yield from _credit(account, credit_type.decode(), unpack_row(credit))


def _credit(account: str, credit_type: str, credit: Sequence[Any]) -> Named:
    yield Figure(account, credit_type, "", VERSION), credit[_place("C_VERSION")]
    for name, amount in zip(BUCKETS, credit[_place("C_GRANTED") :], strict=False):
        yield Figure(account, credit_type, "", name), amount
    for packed in credit[_place("C_FIRST_GRANT") :]:
        grant = unpack_row(packed)
        part = grant_part(grant[_place("G_ID")].hex())
        yield Figure(account, credit_type, part, REMAINING), grant[_place("G_REMAINING")]
        yield Figure(account, credit_type, part, HELD), grant[_place("G_HELD")]


def _hold(part: str, hold: Sequence[Any]) -> Named:
    yield Figure(hold[_place("H_ACCOUNT")].decode(), "", part, OPEN), 1
    for line in hold[_place("H_LINES")]:
        credit_type, draws = line[_place("N_CREDIT_TYPE")].decode(), line[_place("N_DRAWS")]
        for first in range(0, len(draws), _DRAW_VALUES):
            yield Figure(draws[first].decode(), credit_type, part, HELD), draws[first + 2]


def _place(name: str) -> int:
    """Where a row has a value, counted from 0; the scripts count from 1."""
    return int(constants()[name]) - 1
