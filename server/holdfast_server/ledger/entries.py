"""Reading entries: pages, balances at an instant, transactions, holds, explanations."""

from __future__ import annotations

from typing import Final

from holdfast_server.domain.bounds import CREDIT_TYPES_MAX
from holdfast_server.domain.reply import Buckets
from holdfast_server.ledger import rows
from holdfast_server.ledger.database import Cursor, Database, fetch_all, fetch_one
from holdfast_server.ledger.records import (
    EVERY_ENTRY,
    BalanceAt,
    BalanceExplanation,
    EntryFilter,
    EntryPlace,
    RecordedEntry,
)
from holdfast_server.ledger.sql import QUERIES

#: Entries of one transaction that are read. The widest transaction, an expiry of every grant and
#: hold of a tree, is bounded by the sweeper's batch, far below this.
TRANSACTION_ENTRIES_MAX: Final = 10_000
#: Entries of one hold that are read, the newest: a long stream captures in part many times.
HOLD_ENTRIES_MAX: Final = 10_000
#: Credit types of one account that are looked at: those of a tenant, and none.
ACCOUNT_CREDIT_TYPES_MAX: Final = CREDIT_TYPES_MAX + 1


class Entries(Database):
    """The entries, as they were recorded."""

    async def list_entries(
        self,
        tenant: str,
        account: str,
        wanted: EntryFilter = EVERY_ENTRY,
        *,
        limit: int,
        before: EntryPlace | None = None,
    ) -> list[RecordedEntry]:
        """A page of an account's entries, newest first.

        `before` is the `place` of the last entry of the page before. Entries that are recorded
        while pages are read come before the first page, so they neither repeat nor hide others.
        """
        event_ms, partition, seq = before or (None, None, None)
        async with self.reading(tenant) as cursor:
            found = await fetch_all(
                cursor,
                QUERIES["list_entries"],
                tenant=tenant,
                account=account,
                credit_type=wanted.credit_type,
                from_ms=wanted.from_ms,
                to_ms=wanted.to_ms,
                before_ms=event_ms,
                before_partition=partition,
                before_seq=seq,
                limit=limit,
                credit_types_max=ACCOUNT_CREDIT_TYPES_MAX,
            )
        return [rows.recorded_entry(row) for row in found]

    async def balance_at(
        self, tenant: str, account: str, instant_ms: int | None = None
    ) -> BalanceAt:
        """The buckets of an account as they were at an instant, inclusive; None: the newest."""
        async with self.reading(tenant) as cursor:
            found = await fetch_all(
                cursor,
                QUERIES["balance_at"],
                tenant=tenant,
                account=account,
                instant_ms=instant_ms,
                credit_types_max=ACCOUNT_CREDIT_TYPES_MAX,
            )
            as_of = await fetch_one(
                cursor, QUERIES["account_as_of"], tenant=tenant, account=account
            )
        entries = [rows.recorded_entry(row).entry for row in found]
        return BalanceAt(
            {entry.credit_type: (entry.after, entry.version) for entry in entries},
            rows.milliseconds(as_of["last_event_time"]) if as_of else 0,
        )

    async def transaction_entries(
        self, tenant: str, partition: int, epoch: int, first_seq: int
    ) -> list[RecordedEntry]:
        """The entries of a transaction in order; none where there is no such transaction."""
        async with self.reading(tenant) as cursor:
            return await transaction_entries(cursor, tenant, partition, epoch, first_seq)

    async def hold_entries(self, tenant: str, hold: str) -> list[RecordedEntry]:
        """The entries of a hold (32 hexadecimal digits) in order, the newest where there are very
        many.
        """
        async with self.reading(tenant) as cursor:
            found = await fetch_all(
                cursor, QUERIES["hold_entries"], tenant=tenant, hold=hold, limit=HOLD_ENTRIES_MAX
            )
        return [rows.recorded_entry(row) for row in reversed(found)]

    async def explain_balance(
        self, tenant: str, account: str, credit_type: str, instant_ms: int | None, maximum: int
    ) -> BalanceExplanation:
        """The newest `maximum` entries of a balance up to an instant, and the buckets around."""
        end_ms = None if instant_ms is None else instant_ms + 1
        wanted = EntryFilter(credit_type, to_ms=end_ms)
        page = await self.list_entries(tenant, account, wanted, limit=maximum)
        entries = tuple(reversed(page))
        if not entries:
            return BalanceExplanation(Buckets(), (), Buckets())
        return BalanceExplanation(entries[0].before, entries, entries[-1].entry.after)


async def transaction_entries(
    cursor: Cursor, tenant: str, partition: int, epoch: int, first_seq: int
) -> list[RecordedEntry]:
    """The same inside a transaction that is already open."""
    found = await fetch_all(
        cursor,
        QUERIES["transaction_entries"],
        tenant=tenant,
        partition=partition,
        epoch=epoch,
        first_seq=first_seq,
        end_seq=first_seq + TRANSACTION_ENTRIES_MAX,
    )
    return [rows.recorded_entry(row) for row in found]
