"""An entry as the bytes that the scripts write.

All numbers come first, in fixed places, big-endian: layout, kind, mode and hold state where it
ends one, a byte each; eight bytes each for version, event time (ms), first sequence number, the
eight changes and the eight buckets after; and the lengths of hold, context and answer. Then, each
ended by a zero: tenant, account, credit type, actor and refunded transaction. Then hold, context
and answer. Then for each grant its id and five changes.

Most entries pass from the outbox to the ledger without ever becoming an `Entry`, which would take
the flusher as long as all the rest of its work: `domain.columns` makes their rows from the values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from holdfast_server.domain.entry import (
    Context,
    Entry,
    EntryKind,
    GrantPosting,
)
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.reply import Buckets, HoldState

#: What working with a packed entry raises that is not a sound one.
MALFORMED: Final = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    struct.error,
)

#: The version of the bytes. A flusher refuses entries of one that it does not know.
LAYOUT: Final = 3
#: Where the bytes have the changes of the buckets and the buckets after, and where these end.
DELTA_AT: Final = struct.calcsize(">4B3q")
AFTER_AT: Final = DELTA_AT + struct.calcsize(">8q")
BUCKETS_END: Final = AFTER_AT + struct.calcsize(">8q")
#: All numbers but those, which are read where somebody asks for them.
_NUMBERS: Final = struct.Struct(f">4B3q{BUCKETS_END - DELTA_AT}xB2I")
_BUCKETS: Final = struct.Struct(">8q")
_GRANT: Final = struct.Struct(">16s5q")
#: How many bytes each grant takes, at the end.
GRANT_BYTES: Final = _GRANT.size
_TEXTS: Final = 5
_LAYOUT_BYTE: Final = bytes([LAYOUT])


class PackedEntry(NamedTuple):
    """Where an entry stands, its bytes, and what is read of them. Texts are still bytes.

    A tuple, since nothing is made and taken apart faster.
    """

    partition: int
    epoch: int
    seq: int
    #: As found in the outbox.
    raw: bytes
    #: The number of an `EntryKind`, if the entry is a sound one.
    kind: int
    mode: int
    ends_hold: int
    version: int
    event_ms: int
    first_seq: int
    tenant: bytes
    account: bytes
    credit_type: bytes
    actor: bytes
    refund_of: bytes
    hold: bytes
    answer: bytes
    #: How many grants it changes.
    grants: int
    #: What Python packed and the scripts carried, unpacked.
    context: list[Any]

    @property
    def trace(self) -> tuple[str, str]:
        """The trace and span of the request, or two empty texts."""
        return self.context[_TRACE_ID].decode(), self.context[_SPAN_ID].decode()


def unpack_entry(
    place: tuple[int, int, int], raw: bytes, unpack_context: Callable[[bytes], list[Any]]
) -> PackedEntry:
    """The entry at a place: partition, epoch and sequence number.

    Raises one of MALFORMED for bytes that are none that this version knows.
    """
    if raw[:1] != _LAYOUT_BYTE:
        raise ValueError("not the layout that this version knows")
    # fmt: off
    (
        _, kind, mode, ends_hold, version, event_ms, first_seq,
        hold_bytes, context_bytes, answer_bytes,
    ) = _NUMBERS.unpack_from(raw)
    tenant, account, credit_type, actor, refund_of, rest = raw[_NUMBERS.size :].split(b"\0", _TEXTS)
    answer_at = hold_bytes + context_bytes
    grants_at = answer_at + answer_bytes
    grants, odd_bytes = divmod(len(rest) - grants_at, GRANT_BYTES)
    if grants < 0 or odd_bytes:
        raise ValueError("not as long as it says")
    return _made((
        *place, raw, kind, mode, ends_hold, version, event_ms, first_seq,
        tenant, account, credit_type, actor, refund_of,
        rest[:hold_bytes], rest[answer_at:grants_at], grants,
        unpack_context(rest[hold_bytes:answer_at]),
    ))
    # fmt: on


_made: Final = PackedEntry._make


def buckets_at(raw: bytes, place: int) -> tuple[int, ...]:
    """The eight figures at DELTA_AT or AFTER_AT."""
    return _BUCKETS.unpack_from(raw, place)


def to_entry(packed: PackedEntry) -> Entry:
    """The entry in full. Raises one of MALFORMED for what is none."""
    raw = packed.raw
    grants = _GRANT.iter_unpack(raw[len(raw) - packed.grants * GRANT_BYTES :])
    return Entry(
        partition=packed.partition,
        epoch=packed.epoch,
        seq=packed.seq,
        kind=EntryKind(packed.kind),
        tenant=packed.tenant.decode(),
        account=packed.account.decode(),
        credit_type=packed.credit_type.decode(),
        version=packed.version,
        event_ms=packed.event_ms,
        delta=Buckets(*buckets_at(raw, DELTA_AT)),
        after=Buckets(*buckets_at(raw, AFTER_AT)),
        grants=tuple(GrantPosting(grant.hex(), *parts) for grant, *parts in grants),
        first_seq=packed.first_seq,
        mode=Mode(packed.mode) if packed.mode else None,
        hold=packed.hold.hex(),
        actor=packed.actor.decode(),
        ends_hold=HoldState(packed.ends_hold) if packed.ends_hold else None,
        context=_context(packed.context),
        answer=packed.answer,
        refund_of=packed.refund_of.decode(),
    )


def text(value: Any) -> Any:
    """A nested value with text where the array has bytes."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [text(part) for part in value]
    if isinstance(value, dict):
        return {key.decode(): text(part) for key, part in value.items()}
    return value


def _context(context: Sequence[Any]) -> Context:
    method, key, fingerprint, feature, labels, caller, trace, span, reason, detail = context
    return Context(
        method.decode(),
        key.decode(),
        fingerprint,
        feature.decode(),
        text(labels) or {},
        caller.decode(),
        trace.decode(),
        span.decode(),
        reason.decode(),
        text(detail) or {},
    )


_TRACE_ID: Final = 6
_SPAN_ID: Final = 7
