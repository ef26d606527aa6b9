"""LedgerService: the immutable record."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from google.protobuf.descriptor import ServiceDescriptor

from holdfast.v1 import ledger_service_pb2 as messages
from holdfast_server.api.call import Call
from holdfast_server.api.methods import Handler
from holdfast_server.api.page_token import PageTokens
from holdfast_server.api.room import fitting, last_of
from holdfast_server.api.translate import entries as say
from holdfast_server.api.translate.common import buckets
from holdfast_server.api.validate import reads as read
from holdfast_server.domain.entry import parse_transaction_id
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.records import EntryPlace, RecordedEntry
from holdfast_server.ledger.store import Ledger

#: Verifications at one time in one process: each reads the whole ledger.
VERIFICATIONS_MAX = 1
#: What the next caller is told to wait.
VERIFY_RETRY_MS = 10_000


class LedgerService:
    """Reads, explains, verifies. Each handler answers the RPC of its name, see the proto."""

    def __init__(self, ledger: Ledger, pages: PageTokens, partitions: int) -> None:
        """`partitions` is how many the deployment has."""
        self._ledger = ledger
        self._pages = pages
        self._partitions = partitions
        self._verifications = asyncio.Semaphore(VERIFICATIONS_MAX)

    @property
    def descriptor(self) -> ServiceDescriptor:
        return messages.DESCRIPTOR.services_by_name["LedgerService"]

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "ListEntries": self.list_entries,
            "GetBalanceAt": self.get_balance_at,
            "Explain": self.explain,
            "Verify": self.verify,
        }

    async def list_entries(
        self, call: Call, request: messages.ListEntriesRequest
    ) -> messages.ListEntriesResponse:
        tenant = call.tenant(request.tenant)
        account, wanted, limit = read.listed(request)
        before = _place(self._pages.read(tenant, request, request.page_token))
        found = await self._ledger.list_entries(tenant, account, wanted, limit=limit, before=before)
        entries = [say.recorded(each) for each in found]
        count = fitting(entries)
        last = last_of(found, count, limit)
        return messages.ListEntriesResponse(
            entries=entries[:count],
            next_page_token=self._pages.issue(tenant, request, last.place if last else None),
        )

    async def get_balance_at(
        self, call: Call, request: messages.GetBalanceAtRequest
    ) -> messages.GetBalanceAtResponse:
        tenant = call.tenant(request.tenant)
        account, instant_ms = read.balance_at(request)
        return say.balance_at(await self._ledger.balance_at(tenant, account, instant_ms))

    async def explain(
        self, call: Call, request: messages.ExplainRequest
    ) -> messages.ExplainResponse:
        tenant = call.tenant(request.tenant)
        subject, maximum = read.explained(request)
        if isinstance(subject, str):
            return await self._explain_transaction(tenant, subject, maximum)
        return await self._explain_balance(tenant, subject, maximum)

    async def verify(self, call: Call, request: messages.VerifyRequest) -> messages.VerifyResponse:
        # A partition is verified whole, and what is wrong in it names accounts of any tenant.
        call.principal.require_every_tenant("Verification", "partitions")
        partitions = read.partitions(request, self._partitions)
        if self._verifications.locked():
            raise HoldfastError(
                Reason.OVERLOADED,
                "Another verification is running in this process; call again later.",
                retry_after_ms=VERIFY_RETRY_MS,
            )
        async with self._verifications:
            return say.verified(await self._ledger.verify(partitions))

    async def _explain_transaction(
        self, tenant: str, transaction_id: str, maximum: int
    ) -> messages.ExplainResponse:
        place = parse_transaction_id(transaction_id)
        found = await self._ledger.transaction_entries(tenant, *place) if place else []
        if not found:
            raise HoldfastError(
                Reason.TRANSACTION_NOT_FOUND,
                "There is no such transaction in the ledger.",
                transaction_id=transaction_id,
            )
        holds = {each.entry.hold for each in found if each.entry.hold}
        for hold in holds:
            found += await self._ledger.hold_entries(tenant, hold)
        entries, newest = _newest(_in_order(found)[-maximum:])
        return messages.ExplainResponse(entries=entries, grant_ids=say.grants_of(newest))

    async def _explain_balance(
        self, tenant: str, subject: read.BalanceSubject, maximum: int
    ) -> messages.ExplainResponse:
        explained = await self._ledger.explain_balance(
            tenant, subject.account, subject.credit_type, subject.instant_ms, maximum
        )
        entries, newest = _newest(explained.entries)
        return messages.ExplainResponse(
            opening=buckets(newest[0].before if newest else explained.opening),
            entries=entries,
            closing=buckets(explained.closing),
            grant_ids=say.grants_of(newest),
        )


def _newest(
    found: Sequence[RecordedEntry],
) -> tuple[Sequence[messages.Entry], Sequence[RecordedEntry]]:
    """As many as one answer has room for, the newest, in order."""
    said = [say.recorded(each) for each in found]
    first = len(said) - fitting(said[::-1])
    return said[first:], found[first:]


def _in_order(found: Sequence[RecordedEntry]) -> list[RecordedEntry]:
    by_place = {(each.entry.partition, each.entry.epoch, each.entry.seq): each for each in found}
    return [by_place[place] for place in sorted(by_place)]


def _place(place: tuple[int | str, ...] | None) -> EntryPlace | None:
    if place is None:
        return None
    event_ms, partition, seq = (int(part) for part in place)
    return event_ms, partition, seq
