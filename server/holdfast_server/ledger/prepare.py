"""Entries made ready for the ledger: chained, and packed as rows. Pure: no database."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from holdfast_server.domain.packed import MALFORMED, PackedEntry, chain_hash, to_entry
from holdfast_server.ledger import encoding
from holdfast_server.ledger.projection import KINDS, Projection, project

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


@dataclass(frozen=True, slots=True)
class PartitionCursor:
    """How far the ledger is in a partition.

    `hash_before` is the hash before the last one; None where there is none.
    `start_seq` is the last sequence number of the epoch before.
    """

    partition: int
    epoch: int
    seq: int
    hash: bytes
    hash_before: bytes | None
    start_seq: int

    @property
    def has_begun(self) -> bool:
        """Whether an entry of this epoch is recorded."""
        return self.seq > self.start_seq


@dataclass(frozen=True, slots=True)
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
    with _refused():
        hashes = list(_chain(cursor.hash, entries))
        projected = [to_entry(entry) for entry in entries if entry.kind in KINDS]
        return Prepared(
            before=cursor,
            after=_after(cursor, entries, hashes),
            last_event_ms=max(entry.event_ms for entry in entries),
            entries=b"".join(map(encoding.entry_row, entries, hashes)),
            operations=b"".join(filter(None, map(encoding.operation_row, entries))),
            projection=project(projected),
        )


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


def _chain(last: bytes, entries: Sequence[PackedEntry]) -> Iterator[bytes]:
    for entry in entries:
        last = chain_hash(last, entry)
        yield last


def _after(
    cursor: PartitionCursor, entries: Sequence[PackedEntry], hashes: Sequence[bytes]
) -> PartitionCursor:
    before = hashes[-2] if len(hashes) > 1 else cursor.hash
    return replace(cursor, seq=entries[-1].seq, hash=hashes[-1], hash_before=before)


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except (*MALFORMED, struct.error) as error:
        explanation = f"has no row: {error}"[:EXPLANATION_CHARACTERS_MAX]
        raise EntriesRefused(Fault.INVALID, explanation) from error
