"""A tree as it lies in the hot store: the fields of its hash and the members of its indexes.

The other way round than the scripts, which read and write the same (lua/lib/tree.lua, due.lua and
partition.lua). Where each value stands says lua/lib/constants.lua.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from holdfast_server.domain.rebuild import Rebuilt
from holdfast_server.domain.reply import BUCKETS
from holdfast_server.domain.twin.memory import LateHold
from holdfast_server.domain.twin.state import (
    DEBT,
    UNENFORCED,
    AccountState,
    Credit,
    Grant,
    HoldLine,
    HoldRecord,
    Tree,
)
from holdfast_server.engine.keys import DUE_FIELD
from holdfast_server.engine.pack import pack_counter, pack_unread_terms
from holdfast_server.engine.rows import pack_due, pack_hold, pack_row, pack_value

#: An index that takes no more is a list in the tree's hash (lua/lib/due_index.lua, LIST_BYTES_MAX).
DUE_LIST_BYTES_MAX: Final = 512

_SOURCES: Final = {DEBT: "D", UNENFORCED: "U"}


@dataclass(frozen=True, slots=True)
class Image:
    """What is written of one tree."""

    #: Of the tree's hash, without its earliest due time, but with what is due where that is little.
    fields: Mapping[bytes, bytes]
    #: When the members of the tree's index are due.
    due: Mapping[bytes, int]
    #: Expired holds that can still be committed, packed, and until when.
    late: Mapping[bytes, tuple[bytes, int]]

    @property
    def due_set(self) -> Mapping[bytes, int]:
        """What is due, where that is too much for the tree's hash."""
        return {} if DUE_FIELD.encode() in self.fields else self.due

    @property
    def due_ms(self) -> int:
        """When the first thing is due; 0 when nothing is."""
        return min(self.due.values(), default=0)

    @property
    def open_holds(self) -> int:
        """How many holds are open."""
        return sum(member.startswith(b"h") for member in self.due)


def draw_image(rebuilt: Rebuilt) -> Image:
    """The image of a tree."""
    tree = rebuilt.tree
    fields: dict[bytes, bytes] = {}
    for name, state in tree.accounts.items():
        fields[b"a" + name.encode()] = pack_row(_account(state))
        if unread := pack_unread_terms(state.terms):
            fields[b"n" + name.encode()] = unread
    for hold in tree.holds.values():
        fields[b"h" + bytes.fromhex(hold.hold)] = pack_hold(_hold(hold))
    due = dict(_due(tree))
    if due and len(listed := pack_due(due)) <= DUE_LIST_BYTES_MAX:
        fields[DUE_FIELD.encode()] = listed
    late = {bytes.fromhex(hold): _late(each) for hold, each in rebuilt.late.items()}
    return Image(fields, due, late)


def _account(state: AccountState) -> list[Any]:
    values = [
        int(state.status),
        state.parent,
        state.version,
        state.created_ms,
        state.open_holds,
        state.last_refund_seq,
        state.height,
        _part(dict(state.terms.overdraft_limits)),
        _part([pack_counter(counter) for counter in state.counters]),
        _part([list(pair) for pair in state.offsets]),
    ]
    for credit_type, credit in state.credits.items():
        values += (credit_type, pack_row(_credit(credit)))
    return values


def _part(values: Any) -> bytes:
    """What is packed by itself; nothing for none."""
    return pack_value(values) if values else b""


def _credit(credit: Credit) -> list[Any]:
    return [
        credit.version,
        *(credit.buckets[name] for name in BUCKETS),
        credit.topped,
        credit.pledged[DEBT],
        credit.pledged[UNENFORCED],
        _part([_grant(grant) for grant in credit.pending]),
        *(pack_row(_grant(grant)) for grant in credit.grants),
    ]


def _grant(grant: Grant) -> list[Any]:
    return [
        bytes.fromhex(grant.grant_id),
        grant.remaining,
        grant.held,
        grant.priority,
        grant.expires_ms,
        grant.paid,
        grant.effective_ms,
        int(grant.revoked),
        int(grant.repay),
    ]


def _hold(hold: HoldRecord) -> list[Any]:
    counts: list[Any] = []
    for count in hold.counts:
        counts += (count.account, count.counter, count.window, count.amount, count.credit_type)
    lines = [_line(line) for line in hold.lines]
    return [
        hold.account,
        hold.feature,
        int(hold.mode),
        hold.placed_ms,
        hold.expires_ms,
        lines,
        counts,
    ]


def _line(line: HoldLine) -> list[Any]:
    draws: list[Any] = []
    for draw in line.draws:
        source = _SOURCES.get(draw.source) or bytes.fromhex(draw.source)
        draws += (draw.account, source, draw.amount)
    return [line.credit_type, line.requested, line.captured, draws]


def _late(late: LateHold) -> tuple[bytes, int]:
    lines = [[line.credit_type, line.requested, line.captured] for line in late.lines]
    values = [
        late.account,
        late.feature,
        int(late.mode),
        lines,
        late.until_ms,
        int(late.counted),
    ]
    return pack_value(values), late.until_ms


def _due(tree: Tree) -> Iterator[tuple[bytes, int]]:
    for hold in tree.holds.values():
        yield b"h" + bytes.fromhex(hold.hold), hold.expires_ms
    for state in tree.accounts.values():
        for credit_type, credit in state.credits.items():
            place = f"{state.account if state.parent else ''}/{credit_type}".encode()
            yield from _grants_due(credit, place)


def _grants_due(credit: Credit, place: bytes) -> Iterator[tuple[bytes, int]]:
    for grant in credit.grants:
        if grant.expires_ms and grant.remaining:
            yield b"g" + bytes.fromhex(grant.grant_id) + place, grant.expires_ms
    for grant in credit.pending:
        yield b"e" + bytes.fromhex(grant.grant_id) + place, grant.effective_ms
