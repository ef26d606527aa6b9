"""The ledger entry: one immutable record of one state change, and the bytes its hash is over.

The scripts write each entry once, as `domain.packed` lists its values, to the outbox stream of its
partition under the explicit id `<epoch>-<seq>`. The flusher decodes it and the ledger stores it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from holdfast_server.domain.operation import Mode
from holdfast_server.domain.reply import Buckets, HoldState

#: The version of `canonical`, part of its bytes.
CANONICAL_LAYOUT = 1

#: Digits of a number in a transaction's name: as many as 2^53-1 has.
NUMBER_DIGITS_MAX = 16

#: The hash before the first entry of a partition.
GENESIS_HASH = bytes(32)


class EntryKind(IntEnum):
    """What kind of state change an entry is. Numbers as in the proto."""

    ACCOUNT = 1
    GRANT = 2
    HOLD = 3
    COMMIT = 4
    RELEASE = 5
    HOLD_EXPIRED = 6
    EXTEND = 7
    BURN = 8
    OVERAGE = 9
    LATE_COMMIT = 10
    REFUND = 11
    GRANT_EXPIRED = 12
    REVOKE = 13
    GRANT_EFFECTIVE = 14
    UNENFORCED = 15


#: What time does by itself. Such an entry has the time when it was due: it is booked when somebody
#: looks, or the sweeper comes.
BY_TIME = frozenset({EntryKind.HOLD_EXPIRED, EntryKind.GRANT_EXPIRED, EntryKind.GRANT_EFFECTIVE})


@dataclass(frozen=True, slots=True)
class GrantPosting:
    """How one grant changed: signed changes of its parts. `grant_id` is 32 hexadecimal digits."""

    grant_id: str
    remaining: int = 0
    held: int = 0
    burned: int = 0
    expired: int = 0
    revoked: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """What the request said, carried through the script unread and kept in the ledger.

    `detail` holds what the kind needs to be rebuilt: the account's terms for ACCOUNT, the grant's
    terms and id for GRANT.
    """

    method: str = ""
    key: str = ""
    fingerprint: bytes = b""
    feature: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    caller: str = ""
    trace_id: str = ""
    span_id: str = ""
    reason: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One state change of one account and credit type (`credit_type` empty: no credits moved)."""

    partition: int
    epoch: int
    seq: int
    kind: EntryKind
    tenant: str
    account: str
    credit_type: str
    #: Gap-free per account and credit type.
    version: int
    event_ms: int
    delta: Buckets
    after: Buckets
    grants: tuple[GrantPosting, ...]
    #: The sequence number of the first entry of the same transaction.
    first_seq: int
    #: None for entries that are not decided in a mode (account, grant, expiry).
    mode: Mode | None
    #: 32 hexadecimal digits, or empty.
    hold: str
    #: The account that acted, at or below `account`.
    actor: str
    #: Set on the one entry that ends a hold.
    ends_hold: HoldState | None
    context: Context
    #: The packed answer, for methods that the ledger protects against repetition; else empty.
    answer: bytes
    #: The transaction that a REFUND refunds, or empty.
    refund_of: str

    @property
    def transaction_id(self) -> str:
        """Names every entry of the transaction that this one belongs to."""
        return transaction_id(self.partition, self.epoch, self.first_seq)


def transaction_id(partition: int, epoch: int, first_seq: int) -> str:
    """The public name of a transaction: where its first entry stands."""
    return f"{partition}-{epoch}-{first_seq}"


def parse_transaction_id(text: str) -> tuple[int, int, int] | None:
    """Partition, epoch and first sequence number; None when `text` is no such name."""
    parts = text.split("-")
    if not all(
        part.isascii() and part.isdigit() and len(part) <= NUMBER_DIGITS_MAX for part in parts
    ):
        return None
    try:
        partition, epoch, first_seq = map(int, parts)
    except ValueError:
        return None
    return partition, epoch, first_seq


def canonical(entry: Entry) -> bytes:
    """The bytes that stand for an entry in the hash chain.

    Every field in a fixed order, each prefixed by its length in bytes, so that no two different
    entries share their bytes. `answer` and `recorded_time` are left out: the first repeats what the
    entry says, the second is the ledger's own.
    """
    parts = [*_place(entry), *_figures(entry), *_context(entry.context)]
    return b"".join(b"%d:%b" % (len(part), part) for part in (text.encode() for text in parts))


def chain_hash(previous: bytes, entry: Entry) -> bytes:
    """SHA-256 over the hash before and this entry."""
    return hashlib.sha256(previous + canonical(entry)).digest()


def _place(entry: Entry) -> list[str]:
    numbers = (
        entry.partition,
        entry.epoch,
        entry.seq,
        entry.first_seq,
        int(entry.kind),
        entry.version,
    )
    return [
        str(CANONICAL_LAYOUT),
        *map(str, numbers),
        str(entry.event_ms),
        entry.tenant,
        entry.account,
        entry.credit_type,
        str(int(entry.mode or 0)),
        entry.hold,
        entry.actor,
        str(int(entry.ends_hold or 0)),
        entry.refund_of,
    ]


def _figures(entry: Entry) -> list[str]:
    grants = [
        f"{g.grant_id},{g.remaining},{g.held},{g.burned},{g.expired},{g.revoked}"
        for g in entry.grants
    ]
    return [_joined(entry.delta.as_tuple()), _joined(entry.after.as_tuple()), ";".join(grants)]


def _context(context: Context) -> list[str]:
    labels = [part for pair in sorted(context.labels.items()) for part in pair]
    return [
        context.method,
        context.key,
        context.fingerprint.hex(),
        context.feature,
        context.caller,
        context.trace_id,
        context.span_id,
        context.reason,
        canonical_value(context.detail),
        *labels,
    ]


def canonical_value(value: object) -> str:
    """A nested value of strings, integers, booleans, lists and string-keyed maps as unambiguous
    text.
    """
    if isinstance(value, Mapping):
        inner = "".join(canonical_value(part) for pair in sorted(value.items()) for part in pair)
        return f"m{len(inner)}:{inner}"
    if isinstance(value, list | tuple):
        inner = "".join(canonical_value(part) for part in value)
        return f"l{len(inner)}:{inner}"
    text = str(int(value)) if isinstance(value, bool | int) else str(value)
    return f"{'i' if isinstance(value, bool | int) else 's'}{len(text)}:{text}"


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
