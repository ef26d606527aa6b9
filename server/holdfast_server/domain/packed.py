"""An entry as the array that the scripts write, and what the flusher needs of it, fast.

The array is flat: layout, kind, tenant, account, credit type, version, event time (ms); the eight
changes and the eight buckets after; first sequence number, mode, hold, actor, hold state where it
ends one, context, answer, refunded transaction; and for each grant its id and five changes.

Most entries pass from the outbox to the ledger without ever becoming an `Entry`: building one, and
the bytes of its hash from it, would take the flusher as long as all the rest of its work. For every
entry that `to_entry` accepts, `canonical` gives the same bytes as `domain.entry.canonical`; a
property test compares the two.
"""

from __future__ import annotations

import hashlib
from binascii import hexlify
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from holdfast_server.domain.entry import (
    CANONICAL_LAYOUT,
    Context,
    Entry,
    EntryKind,
    GrantPosting,
    canonical_value,
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
)

#: The version of the array. A flusher refuses entries of one that it does not know.
LAYOUT: Final = 2
#: Where it has what is looked up by its place. Each grant has so many values.
KIND: Final = 1
TENANT: Final = 2
VERSION: Final = 5
EVENT_MS: Final = 6
DELTA: Final = 7
AFTER: Final = 15
FIRST_SEQ: Final = 23
HOLD: Final = 25
ACTOR: Final = 26
CONTEXT: Final = 28
REFUND_OF: Final = 30
FIRST_GRANT: Final = 31
GRANT_VALUES: Final = 6

#: Numbers that are kept ready: codes, partitions, and the lengths of nearly all texts in entries.
NUMBERS_AT_HAND: Final = 512


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
    fields: Sequence[Any]
    context: Sequence[Any]

    @property
    def kind(self) -> int:
        """The number of an `EntryKind`, if the entry is a sound one."""
        return int(self.fields[KIND])

    @property
    def trace(self) -> tuple[str, str]:
        """The trace and span of the request, or two empty texts."""
        return self.context[_TRACE_ID].decode(), self.context[_SPAN_ID].decode()

    @property
    def event_ms(self) -> int:
        """The entry's event time, if it is a sound one."""
        return int(self.fields[EVENT_MS])


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


def chain_hash(previous: bytes, packed: PackedEntry) -> bytes:
    """SHA-256 over the hash before and this entry."""
    return hashlib.sha256(previous + canonical(packed)).digest()


def canonical(packed: PackedEntry) -> bytes:
    """The bytes that stand for the entry in the hash chain. Raises one of MALFORMED."""
    fields = packed.fields
    _, kind, tenant, account, credit_type, version, event_ms = fields[:DELTA]
    first_seq, mode, hold, actor, ends_hold, _, _, refund_of = fields[FIRST_SEQ:FIRST_GRANT]
    method, key, fingerprint, feature, labels, caller, trace, span, reason, detail = packed.context
    parts = [
        _LAYOUT,
        _DIGITS[packed.partition],
        _DIGITS[packed.epoch],
        b"%d" % packed.seq,
        b"%d" % first_seq,
        _DIGITS[kind],
        b"%d" % version,
        b"%d" % event_ms,
        tenant,
        account,
        credit_type,
        _DIGITS[mode],
        hexlify(hold),
        actor,
        _DIGITS[ends_hold],
        refund_of,
        _BUCKETS % tuple(fields[DELTA:AFTER]),
        _BUCKETS % tuple(fields[AFTER:FIRST_SEQ]),
        b";".join([_POSTING % (hexlify(grant), *parts) for grant, *parts in postings(fields)]),
        method,
        key,
        hexlify(fingerprint),
        feature,
        caller,
        trace,
        span,
        reason,
        canonical_value(text(detail)).encode() if detail else _NO_DETAIL,
    ]
    if labels:
        parts += [part for pair in sorted(labels.items()) for part in pair]
    return with_lengths(parts, _PREFIXES)


class Numbers(dict[int, bytes]):
    """How numbers are written. Small ones are at hand, others are made when asked for."""

    def __init__(self, write: Callable[[int], bytes]) -> None:
        super().__init__((number, write(number)) for number in range(NUMBERS_AT_HAND))
        self._write = write

    def __missing__(self, number: int) -> bytes:
        return self._write(number)


def with_lengths(parts: Sequence[bytes], lengths: Numbers) -> bytes:
    """The parts, each behind its length. Two slices take half the time of a loop."""
    woven = [b""] * (2 * len(parts))
    woven[::2] = map(lengths.__getitem__, map(len, parts))
    woven[1::2] = parts
    return b"".join(woven)


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
_PREFIXES: Final = Numbers(lambda length: b"%d:" % length)
_DIGITS: Final = Numbers(lambda number: b"%d" % number)
_LAYOUT: Final = b"%d" % CANONICAL_LAYOUT
_BUCKETS: Final = b",".join([b"%d"] * 8)
_POSTING: Final = b",".join([b"%b"] + [b"%d"] * 5)
_NO_DETAIL: Final = canonical_value({}).encode()
