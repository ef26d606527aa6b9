"""What the ledger protects against repetition: operations, ends of holds, refunds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from holdfast_server.domain.entry import Entry, EntryKind, parse_transaction_id, transaction_id
from holdfast_server.domain.operation import Commit
from holdfast_server.domain.reply import HoldState
from holdfast_server.ledger.database import Cursor, Database, fetch_all, fetch_one
from holdfast_server.ledger.entries import transaction_entries
from holdfast_server.ledger.grants import grant_terms_by_id
from holdfast_server.ledger.records import (
    BurnedTransaction,
    RecordedEntry,
    RecordedHold,
    RecordedOperation,
)
from holdfast_server.ledger.rows import Row
from holdfast_server.ledger.sql import QUERIES

#: The kinds that consume credits.
BURNING_KINDS: Final = frozenset(
    {
        EntryKind.COMMIT,
        EntryKind.BURN,
        EntryKind.OVERAGE,
        EntryKind.LATE_COMMIT,
        EntryKind.RECOVERED_COMMIT,
        EntryKind.UNENFORCED,
    }
)
#: The kinds that burn for a hold that is no longer open.
LATE_KINDS: Final = frozenset({EntryKind.LATE_COMMIT, EntryKind.RECOVERED_COMMIT})
#: The fault of what is kept of a Commit that came too late.
LATE_USE: Final = "late_use"


class Operations(Database):
    """What was applied once and must not be applied again."""

    async def find_operation(self, tenant: str, method: str, key: str) -> RecordedOperation | None:
        """What was answered under an idempotency key, or None."""
        async with self.reading(tenant) as cursor:
            row = await fetch_one(
                cursor, QUERIES["find_operation"], tenant=tenant, method=method, key=key
            )
        return RecordedOperation(**row) if row else None

    async def find_operations(
        self, tenant: str, names: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], RecordedOperation]:
        """What was answered under (method, key) pairs; those that are unknown are left out."""
        async with self.reading(tenant) as cursor:
            found = await fetch_all(
                cursor,
                QUERIES["find_operations"],
                tenant=tenant,
                methods=[method for method, _ in names],
                keys=[key for _, key in names],
            )
        return {(row.pop("method"), row.pop("key")): RecordedOperation(**row) for row in found}

    async def find_hold(self, tenant: str, hold: str) -> RecordedHold | None:
        """What became of a hold (32 hexadecimal digits), or None where it is unknown."""
        async with self.reading(tenant) as cursor:
            found = await fetch_all(cursor, QUERIES["hold_sums"], tenant=tenant, hold=hold)
        return _hold(hold, found) if found else None

    async def note_late_use(self, hold: RecordedHold, commit: Commit) -> None:
        """Keeps what a Commit said that came too late to be booked, for those who bill."""
        said = {
            "tenant": commit.tenant,
            "account": hold.account,
            "hold": hold.hold,
            "idempotency_key": commit.key,
            "lines": {line.credit_type: line.amount for line in commit.lines},
        }
        note = {
            "partition": hold.partition,
            "epoch": hold.epoch,
            "seq": hold.seq,
            "raw": json.dumps(said, sort_keys=True).encode(),
            "fault": LATE_USE,
            "explanation": "a commit came after its hold's late window",
        }
        async with self.changing() as cursor:
            await cursor.execute(QUERIES["quarantine"], note)

    async def burned_by(self, tenant: str, transaction_id: str) -> BurnedTransaction | None:
        """What a Commit or Burn consumed and what was given back; None where it burned nothing."""
        place = parse_transaction_id(transaction_id)
        if place is None:
            return None
        async with self.reading(tenant) as cursor:
            entries = await transaction_entries(cursor, tenant, *place)
            burns = tuple(found for found in entries if found.entry.kind in BURNING_KINDS)
            if not burns:
                return None
            return await _burned(cursor, tenant, transaction_id, burns)

    async def flushed(self, partitions: Iterable[int] | None = None) -> dict[int, tuple[int, int]]:
        """Epoch and last recorded sequence number of each partition; None means all."""
        wanted = None if partitions is None else list(partitions)
        async with self.reading("") as cursor:
            found = await fetch_all(cursor, QUERIES["flushed"], partitions=wanted)
        return {row["partition"]: (row["epoch"], row["last_seq"]) for row in found}


async def _burned(
    cursor: Cursor, tenant: str, transaction_id: str, burns: tuple[RecordedEntry, ...]
) -> BurnedTransaction:
    refunded = await fetch_all(
        cursor, QUERIES["refunded_of"], tenant=tenant, refund_of=transaction_id
    )
    first = burns[0].entry
    as_of = await fetch_all(cursor, QUERIES["flushed"], partitions=[first.partition])
    grant_ids = {grant.grant_id for found in burns for grant in found.entry.grants}
    revoked = await fetch_all(
        cursor,
        QUERIES["revoked_of"],
        tenant=tenant,
        accounts=list({found.entry.account for found in burns}),
        grant_ids=list(grant_ids),
    )
    return BurnedTransaction(
        account=first.actor,
        burns=burns,
        refunded={row["credit_type"]: row["amount"] for row in refunded},
        grants=await grant_terms_by_id(cursor, tenant, grant_ids),
        revoked=frozenset(row["grant_id"].hex for row in revoked),
        debts=await _debts(cursor, tenant, first) if first.hold else {},
        partition=first.partition,
        epoch=as_of[0]["epoch"],
        as_of_seq=as_of[0]["last_seq"],
    )


async def _debts(cursor: Cursor, tenant: str, commit: Entry) -> dict[tuple[str, str], int]:
    found = await fetch_all(
        cursor,
        QUERIES["hold_debts"],
        tenant=tenant,
        hold=commit.hold,
        before_seq=commit.first_seq,
    )
    return {(row["account"], row["credit_type"]): row["debt"] for row in found}


def _hold(hold: str, sums: Sequence[Row]) -> RecordedHold:
    state, end = _end(sums)
    last = max(sums, key=lambda row: row["seq"])
    return RecordedHold(
        hold=hold,
        account=sums[0]["actor"],
        state=state,
        ended_by=transaction_id(end["partition"], end["epoch"], end["first_seq"]) if end else "",
        burned=_burned_per_credit_type(sums),
        partition=last["partition"],
        epoch=last["epoch"],
        seq=last["seq"],
    )


def _end(sums: Sequence[Row]) -> tuple[HoldState, Row | None]:
    """How a hold ended, and by what: a final Commit that came late settles what had expired."""
    late = [row for row in sums if row["kind"] in LATE_KINDS and row["is_final"]]
    if late:
        was_used = any(_burned_per_credit_type(sums).values())
        state = HoldState.COMMITTED if was_used else HoldState.RELEASED
        return state, max(late, key=lambda row: row["seq"])
    end = next((row for row in sums if row["ends_hold"]), None)
    return HoldState(end["ends_hold"]) if end else HoldState.OPEN, end


def _burned_per_credit_type(sums: Iterable[Row]) -> Counter[str]:
    burned: Counter[str] = Counter()
    for row in sums:
        if row["kind"] in BURNING_KINDS:
            burned[row["credit_type"]] += row["burned"]
    return burned
