"""The ledger entry: one immutable record of one state change, and the bytes its hash is over.

The scripts write each entry once, as `domain.packed` lists its values, to the outbox stream of its
partition under the explicit id `<epoch>-<seq>`. The flusher decodes it and the ledger stores it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from enum import IntEnum
from typing import Final

from holdfast_server.domain.operation import Mode
from holdfast_server.domain.reply import Buckets, HoldState
from holdfast_server.domain.value import value

#: The version of `canonical`, its first byte.
CANONICAL_LAYOUT = 1

#: From where `canonical` counts time: 2000-01-01, in milliseconds since the Unix epoch.
TIME_ZERO_MS = 946_684_800_000
#: The numbers of Postgres' types in arrays, and what stands for a column that is empty.
UUID_TYPE = 2950
BIGINT_TYPE = 20
NO_COLUMN = b"\xff\xff\xff\xff"

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
    RECOVERED_COMMIT = 16


#: What time does by itself. Such an entry has the time when it was due: it is booked when somebody
#: looks, or the sweeper comes.
BY_TIME = frozenset({EntryKind.HOLD_EXPIRED, EntryKind.GRANT_EXPIRED, EntryKind.GRANT_EFFECTIVE})


@value(frozen=True, slots=True)
class GrantPosting:
    """How one grant changed: signed changes of its parts. `grant_id` is 32 hexadecimal digits."""

    grant_id: str
    remaining: int = 0
    held: int = 0
    burned: int = 0
    expired: int = 0
    revoked: int = 0

    @property
    def changes(self) -> tuple[int, ...]:
        """The five of them in order."""
        return self.remaining, self.held, self.burned, self.expired, self.revoked


@value(frozen=True, slots=True)
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


@value(frozen=True, slots=True)
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
    # One transaction has one name: what was refunded of it is found by that.
    if text != transaction_id(partition, epoch, first_seq):
        return None
    return partition, epoch, first_seq


def canonical(entry: Entry) -> bytes:
    """The bytes that stand for an entry in the hash chain: its layout, and its columns in order.

    A column is its length in four bytes and then its bytes, so that no two different entries share
    theirs; an optional one that is empty has the length -1 and no bytes. Numbers are signed and
    big-endian, times microseconds since the year 2000, nested values JSON, and lists arrays (see
    `_array`). That is the binary form that Postgres takes them in and hands them out in: recording
    an entry and hashing it are one encoding.

    `answer` and `recorded_time` are left out: the first repeats what the entry says, the second is
    the ledger's own.
    """
    columns = (*_numbers(entry), *_grants(entry), *_texts(entry))
    return bytes([CANONICAL_LAYOUT]) + b"".join(columns)


def chain_hash(previous: bytes, entry: Entry) -> bytes:
    """SHA-256 over the hash before and this entry."""
    return hashlib.sha256(previous + canonical(entry)).digest()


def canonical_json(value: object) -> bytes:
    """A nested value as JSON that is the same for the same value: ASCII, sorted, without spaces."""
    return _ENCODER.encode(value).encode()


def _numbers(entry: Entry) -> Iterable[bytes]:
    yield _number(entry.partition, 4)
    for long in (entry.epoch, entry.seq, entry.first_seq):
        yield _number(long, 8)
    yield _number(entry.kind, 2)
    yield _number(entry.version, 8)
    yield _number((entry.event_ms - TIME_ZERO_MS) * 1000, 8)
    yield _number(entry.mode or 0, 2)
    yield _number(entry.ends_hold or 0, 2)
    for amount in entry.delta.as_tuple() + entry.after.as_tuple():
        yield _number(amount, 8)


def _texts(entry: Entry) -> Iterable[bytes]:
    context = entry.context
    for text in (entry.tenant, entry.account, entry.credit_type, entry.actor):
        yield _column(text.encode())
    for part in (context.method.encode(), context.key.encode(), context.fingerprint):
        yield _column(part)
    yield _optional(bytes.fromhex(entry.hold))
    texts = (context.feature, context.caller, context.trace_id, context.span_id, context.reason)
    for text in (*texts, entry.refund_of):
        yield _optional(text.encode())
    # A list of pairs is refused: `dict` would make the object of it that has the same bytes.
    yield _optional(canonical_json({**context.labels}) if context.labels else b"")
    yield _optional(canonical_json({**context.detail}) if context.detail else b"")


def _grants(entry: Entry) -> Iterable[bytes]:
    """The ids, and five changes for each of them."""
    changes = [change for grant in entry.grants for change in grant.changes]
    yield _optional(_array(UUID_TYPE, [bytes.fromhex(grant.grant_id) for grant in entry.grants]))
    yield _optional(_array(BIGINT_TYPE, [_signed(change, 8) for change in changes]))


def _array(type_: int, elements: Sequence[bytes]) -> bytes:
    """One dimension, no nulls, the type's number in Postgres, how many, the first index, and the
    elements as columns; nothing where there are none.
    """
    if not elements:
        return b""
    head = b"".join(number.to_bytes(4, "big") for number in (1, 0, type_, len(elements), 1))
    return head + b"".join(map(_column, elements))


def _number(number: int, length: int) -> bytes:
    return _column(_signed(number, length))


def _signed(number: int, length: int) -> bytes:
    return number.to_bytes(length, "big", signed=True)


def _optional(part: bytes) -> bytes:
    return _column(part) if part else NO_COLUMN


def _column(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
