"""Entries made ready for the ledger: chained, and packed as rows. Pure: no database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from holdfast_server.domain.columns import chain_hash, columns
from holdfast_server.domain.epoch import Epoch
from holdfast_server.domain.packed import MALFORMED, PackedEntry, to_entry
from holdfast_server.ledger.encoding import HASH_HEAD, ROW_HEAD, operation_row
from holdfast_server.ledger.projection import KINDS, NOTHING, Projection, project

#: Characters of an explanation that are kept.
EXPLANATION_CHARACTERS_MAX: Final = 500


class Fault(Enum):
    """Why an entry cannot be recorded. Any of them halts its partition."""

    #: Something else is recorded already where this entry belongs, or under its key or hold.
    FORK = "fork"
    #: The entry breaks a rule of the ledger or has a form that no row can have.
    INVALID = "invalid"
    #: The bytes in the outbox are no entry of a layout that this version knows.
    UNREADABLE = "unreadable"
    #: Entries are missing before this one.
    GAP = "gap"
    #: The hot store has lost entries that the ledger has.
    REGRESSED = "regressed"


@dataclass(slots=True)
class PartitionCursor:
    """How far the ledger is in a partition. Not frozen, to be made quickly; nobody changes it.

    `hash_before` is the hash before the last one; None where there is none.
    `start_seq` is the last sequence number of the epoch before, `home` the epoch under whose name
    the keys of this one lie.
    """

    partition: int
    epoch: int
    seq: int
    hash: bytes
    hash_before: bytes | None
    start_seq: int
    home: int

    @property
    def lies_in(self) -> Epoch:
        """The epoch that it is in."""
        return Epoch(self.epoch, self.start_seq, self.home)

    def moved(self, seq: int, hash_: bytes, before: bytes | None) -> PartitionCursor:
        """Where it is later in its epoch."""
        return PartitionCursor(
            self.partition, self.epoch, seq, hash_, before, self.start_seq, self.home
        )

    @property
    def has_begun(self) -> bool:
        """Whether an entry of this epoch is recorded."""
        return self.seq > self.start_seq


@dataclass(slots=True)
class Prepared:
    """Entries of one partition that follow its cursor, as rows of a binary COPY."""

    before: PartitionCursor
    after: PartitionCursor
    #: The latest; not always that of the last entry, since an expiry has the time when it was due.
    last_event_ms: int
    entries: bytes
    operations: bytes
    projection: Projection


class EntriesRefused(Exception):
    """At least one of the entries cannot be recorded. Nothing was."""

    def __init__(self, fault: Fault, explanation: str) -> None:
        super().__init__(f"{fault.value}: {explanation}")
        self.fault = fault
        self.explanation = explanation


def prepare(cursor: PartitionCursor, entries: Sequence[PackedEntry]) -> Prepared:
    """Makes the entries that follow a cursor, at least one, ready to be appended.

    Raises EntriesRefused where one of them has a form that no row can have.
    """
    try:
        return _prepared(cursor, entries)
    except MALFORMED as error:
        explanation = f"has no row: {error}"[:EXPLANATION_CHARACTERS_MAX]
        raise EntriesRefused(Fault.INVALID, explanation) from error


def _prepared(cursor: PartitionCursor, entries: Sequence[PackedEntry]) -> Prepared:
    before, last = cursor.hash_before, cursor.hash
    rows: list[bytes] = []
    for entry in entries:
        hashed = columns(entry)
        before, last = last, chain_hash(last, hashed)
        rows += (ROW_HEAD, hashed, HASH_HEAD, last)
    operations = [row for row in map(operation_row, entries) if row]
    projected = [to_entry(entry) for entry in entries if entry.kind in KINDS]
    last_event_ms = max([entry.event_ms for entry in entries])
    after = cursor.moved(entries[-1].seq, last, before)
    projection = project(projected) if projected else NOTHING
    return Prepared(cursor, after, last_event_ms, b"".join(rows), b"".join(operations), projection)


def joined(pieces: Sequence[Prepared]) -> Prepared:
    """Pieces of one partition that follow each other, at least one, as one."""
    first, last = pieces[0], pieces[-1]
    return Prepared(
        before=first.before,
        after=last.after,
        last_event_ms=max(piece.last_event_ms for piece in pieces),
        entries=b"".join(piece.entries for piece in pieces),
        operations=b"".join(piece.operations for piece in pieces),
        projection=Projection(
            [grant for piece in pieces for grant in piece.projection.grants],
            [account for piece in pieces for account in piece.projection.accounts],
        ),
    )
