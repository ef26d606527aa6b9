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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

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
_NUMBERS: Final = struct.Struct(">4B19qB2I")
#: Where the bytes have the figures of the buckets, and how many each grant takes at their end.
BUCKETS_AT: Final = struct.calcsize(">4B3q")
_GRANT: Final = struct.Struct(">16s5q")
GRANT_BYTES: Final = _GRANT.size
_TEXTS: Final = 5
_LAYOUT_BYTE: Final = bytes([LAYOUT])
#: Where the values have what is looked up by its place. Each grant has so many.
KIND: Final = 1
TENANT: Final = 2
VERSION: Final = 5
EVENT_MS: Final = 6
DELTA: Final = 7
AFTER: Final = 15
FIRST_SEQ: Final = 23
MODE: Final = 24
HOLD: Final = 25
ACTOR: Final = 26
ENDS_HOLD: Final = 27
CONTEXT: Final = 28
ANSWER: Final = 29
REFUND_OF: Final = 30
FIRST_GRANT: Final = 31
GRANT_VALUES: Final = 6


@dataclass(slots=True)
class PackedEntry:
    """Where an entry stands, its values, and the unpacked context. Texts are still bytes.

    Not frozen, since that would double the time it takes to make one; nobody changes it.
    """

    partition: int
    epoch: int
    seq: int
    #: As found in the outbox.
    raw: bytes
    fields: list[Any]
    context: list[Any]

    @property
    def kind(self) -> int:
        """The number of an `EntryKind`, if the entry is a sound one."""
        kind: int = self.fields[KIND]
        return kind

    @property
    def trace(self) -> tuple[str, str]:
        """The trace and span of the request, or two empty texts."""
        return self.context[_TRACE_ID].decode(), self.context[_SPAN_ID].decode()

    @property
    def event_ms(self) -> int:
        """The entry's event time, if it is a sound one."""
        event_ms: int = self.fields[EVENT_MS]
        return event_ms


def unpack_fields(raw: bytes) -> list[Any]:
    """The values of an entry. Raises one of MALFORMED for what is none that this version knows."""
    if raw[:1] != _LAYOUT_BYTE:
        raise ValueError("not the layout that this version knows")
    # fmt: off
    (
        layout, kind, mode, ends_hold, version, event_ms, first_seq, *buckets,
        context_at, context_bytes, answer_bytes,
    ) = _NUMBERS.unpack_from(raw)
    tenant, account, credit_type, actor, refund_of, rest = raw[_NUMBERS.size :].split(b"\0", _TEXTS)
    answer_at = context_at + context_bytes
    grants_at = answer_at + answer_bytes
    if grants_at > len(rest):
        raise ValueError("shorter than it says")
    fields = [
        layout, kind, tenant, account, credit_type, version, event_ms, *buckets, first_seq, mode,
        rest[:context_at], actor, ends_hold, rest[context_at:answer_at], rest[answer_at:grants_at],
        refund_of,
    ]
    # fmt: on
    for grant in _GRANT.iter_unpack(rest[grants_at:]):
        fields += grant
    return fields


def to_entry(packed: PackedEntry) -> Entry:
    """The entry in full. Raises one of MALFORMED for what is none."""
    fields = packed.fields
    _, kind, tenant, account, credit_type, version, event_ms = fields[:DELTA]
    first_seq, mode, hold, actor, ends_hold, _, answer, refund_of = fields[FIRST_SEQ:FIRST_GRANT]
    return Entry(
        partition=packed.partition,
        epoch=packed.epoch,
        seq=packed.seq,
        kind=EntryKind(kind),
        tenant=tenant.decode(),
        account=account.decode(),
        credit_type=credit_type.decode(),
        version=version,
        event_ms=event_ms,
        delta=Buckets(*fields[DELTA:AFTER]),
        after=Buckets(*fields[AFTER:FIRST_SEQ]),
        grants=tuple(GrantPosting(grant.hex(), *parts) for grant, *parts in postings(fields)),
        first_seq=first_seq,
        mode=Mode(mode) if mode else None,
        hold=hold.hex(),
        actor=actor.decode(),
        ends_hold=HoldState(ends_hold) if ends_hold else None,
        context=_context(packed.context),
        answer=answer,
        refund_of=refund_of.decode(),
    )


def postings(fields: Sequence[Any]) -> list[Sequence[Any]]:
    """What an entry changes of each grant: the id and the five changes."""
    places = range(FIRST_GRANT, len(fields), GRANT_VALUES)
    return [fields[place : place + GRANT_VALUES] for place in places]


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
