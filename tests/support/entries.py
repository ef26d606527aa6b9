"""Entries as the scripts write them, for tests of what comes after the scripts."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack
from redis.asyncio import Redis

from holdfast_server.domain.entry import Context, Entry, EntryKind, GrantPosting
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.packed import LAYOUT
from holdfast_server.domain.reply import Buckets, HoldState
from holdfast_server.engine.keys import Keys

#: When the stories of these tests begin: 2026-01-01 in milliseconds.
START_MS = 1_767_225_600_000

GRANT = "0a" * 16
HOLD = "0b" * 16


def pack(entry: Entry) -> bytes:
    """The bytes of an entry in the outbox."""
    context = entry.context
    packed_context: bytes = msgpack.packb(
        [
            context.method,
            context.key,
            context.fingerprint,
            context.feature,
            dict(context.labels),
            context.caller,
            context.trace_id,
            context.span_id,
            context.reason,
            dict(context.detail),
        ]
    )
    hold = bytes.fromhex(entry.hold)
    numbers = struct.pack(
        ">4B19qB2I",
        LAYOUT,
        int(entry.kind),
        int(entry.mode or 0),
        int(entry.ends_hold or 0),
        entry.version,
        entry.event_ms,
        entry.first_seq,
        *entry.delta.as_tuple(),
        *entry.after.as_tuple(),
        len(hold),
        len(packed_context),
        len(entry.answer),
    )
    texts = (entry.tenant, entry.account, entry.credit_type, entry.actor, entry.refund_of)
    named = b"".join(text.encode() + b"\0" for text in texts)
    grants = b"".join(_packed_grant(grant) for grant in entry.grants)
    return numbers + named + hold + packed_context + entry.answer + grants


def _packed_grant(grant: GrantPosting) -> bytes:
    changes = (grant.remaining, grant.held, grant.burned, grant.expired, grant.revoked)
    return bytes.fromhex(grant.grant_id) + struct.pack(">5q", *changes)


async def add(client: Redis, keys: Keys, *entries: Entry) -> None:
    """Adds entries to the outbox streams of their partitions."""
    pipeline = client.pipeline(transaction=False)
    for entry in entries:
        await add_raw(pipeline, keys, entry, pack(entry))
    await pipeline.execute()


async def add_raw(client: Any, keys: Keys, place: Entry, raw: bytes) -> None:
    """Adds bytes where an entry would be."""
    name = keys.outbox(place.partition, place.epoch)
    await client.xadd(name, {"e": raw}, id=f"{place.epoch}-{place.seq}")


@dataclass
class Story:
    """Writes entries of one partition that follow from each other, as the scripts would."""

    partition: int = 0
    tenant: str = "tenant"
    epoch: int = 1
    seq: int = 0
    now_ms: int = START_MS
    states: dict[tuple[str, str], tuple[int, Buckets]] = field(default_factory=dict)

    def write(
        self, kind: EntryKind, account: str, delta: Buckets, *, credit_type: str = "ai", **rest: Any
    ) -> Entry:
        """The next entry: one transaction of its own, a second after the one before."""
        version, before = self.states.get((account, credit_type), (0, Buckets()))
        after = plus(before, delta)
        self.states[account, credit_type] = version + 1, after
        self.seq += 1
        self.now_ms += 1_000
        entry = Entry(
            partition=self.partition,
            epoch=self.epoch,
            seq=self.seq,
            kind=kind,
            tenant=self.tenant,
            account=account,
            credit_type=credit_type,
            version=version + 1,
            event_ms=self.now_ms,
            delta=delta,
            after=after,
            grants=(),
            first_seq=self.seq,
            mode=None,
            hold="",
            actor=account,
            ends_hold=None,
            context=Context(method=kind.name.title(), key=f"key-{self.partition}-{self.seq}"),
            answer=b"",
            refund_of="",
        )
        return replace(entry, **rest)

    def grant(self, account: str, amount: int, grant_id: str = GRANT, **terms: Any) -> Entry:
        """Credits are given; the terms are those of a purchase unless said otherwise."""
        detail = grant_detail(grant_id, amount, **terms)
        context = Context(
            "Grant", f"grant-{self.partition}-{self.seq}", b"f", caller="till", detail=detail
        )
        return self.write(
            EntryKind.GRANT,
            account,
            Buckets(granted=amount, available=amount),
            grants=(GrantPosting(grant_id, remaining=amount),),
            context=context,
            answer=b"granted",
        )

    def hold(self, account: str, amount: int, hold: str = HOLD, grant_id: str = GRANT) -> Entry:
        """Credits are set aside."""
        return self.write(
            EntryKind.HOLD,
            account,
            Buckets(available=-amount, held=amount),
            grants=(GrantPosting(grant_id, remaining=-amount, held=amount),),
            hold=hold,
            mode=Mode.ENFORCE,
            context=Context("Reserve", f"reserve-{self.partition}-{self.seq}", b"f", "chat"),
        )

    def commit(self, account: str, amount: int, hold: str = HOLD, grant_id: str = GRANT) -> Entry:
        """All that is held is burned."""
        return self.write(
            EntryKind.COMMIT,
            account,
            Buckets(held=-amount, burned=amount),
            grants=(GrantPosting(grant_id, held=-amount, burned=amount),),
            hold=hold,
            mode=Mode.ENFORCE,
            ends_hold=HoldState.COMMITTED,
            context=Context(
                "Commit", f"commit-{self.partition}-{self.seq}", b"f", "chat", {"model": "small"}
            ),
            answer=b"committed",
        )

    def expire(self, account: str, amount: int, hold: str = HOLD, grant_id: str = GRANT) -> Entry:
        """A hold's time runs out."""
        return self.write(
            EntryKind.HOLD_EXPIRED,
            account,
            Buckets(held=-amount, available=amount),
            grants=(GrantPosting(grant_id, held=-amount, remaining=amount),),
            hold=hold,
            ends_hold=HoldState.EXPIRED,
            context=Context(),
        )

    def account(self, account: str, version: int = 1, **terms: Any) -> Entry:
        """An account is created or changed."""
        detail = account_detail(account, version) | terms
        return self.write(
            EntryKind.ACCOUNT,
            account,
            Buckets(),
            credit_type="",
            context=Context("CreateAccount", f"{account}-{version}", b"f", detail=detail),
            answer=b"created",
        )


def plus(state: Buckets, delta: Buckets) -> Buckets:
    """The state after a change."""
    return Buckets(*(a + b for a, b in zip(state.as_tuple(), delta.as_tuple(), strict=True)))


def grant_detail(grant_id: str, amount: int, **terms: Any) -> dict[str, Any]:
    """What a GRANT entry says of its grant."""
    return {
        "grant_id": grant_id,
        "credit_type": "ai",
        "amount": amount,
        "source": 1,
        "priority": 0,
        "effective_at_ms": 0,
        "expires_at_ms": 0,
        "cost_amount": 990,
        "cost_currency": "EUR",
        "reason_code": "order",
        "repay_debt": True,
        "labels": {"order": "4711"},
        "issuer": "till",
    } | terms


def account_detail(account: str, version: int = 1) -> dict[str, Any]:
    """What an ACCOUNT entry says of its account."""
    return {
        "root": account,
        "parent": "",
        "display_name": "Ada",
        "status": 1,
        "overdraft_limits": {"ai": 500},
        "limits": [
            {
                "limit_id": "daily",
                "unit": 2,
                "window": 1,
                "maximum": 1_000,
                "enforcement": 1,
                "window_ms": 0,
                "credit_type": "ai",
                "feature": "",
                "warn_percents": [80, 95],
            }
        ],
        "zone": "Europe/Berlin",
        "labels": {"plan": "pro"},
        "version": version,
        "created_at_ms": START_MS,
    }


def holds_and_commits(story: Story, accounts: Sequence[str], pairs: int) -> list[Entry]:
    """A grant for every account, and then so many holds, each committed, account by account."""
    grants = {name: f"{story.partition:08x}{n:024x}" for n, name in enumerate(accounts)}
    entries = [story.grant(name, 1_000_000, grant_id) for name, grant_id in grants.items()]
    for n in range(pairs):
        name = accounts[n % len(accounts)]
        hold = f"{story.partition:08x}{story.epoch:08x}{n:016x}"
        entries.append(story.hold(name, 7, hold, grants[name]))
        entries.append(story.commit(name, 7, hold, grants[name]))
    return entries


def history_of(partition: int, pairs: int) -> list[Entry]:
    """Holds and commits of two accounts with names of their own: each lives in one partition."""
    return holds_and_commits(Story(partition), [f"ada-{partition}", f"bob-{partition}"], pairs)
