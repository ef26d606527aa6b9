"""Entries as rows in Postgres' binary COPY format.

Rows are packed here, all columns of fixed width in one step, since the driver's own row writer
takes three times as long; a flusher spends most of its time in this file and in the hash chain.
"""

from __future__ import annotations

import json
import struct
from binascii import hexlify
from collections.abc import Iterable, Sequence
from typing import Any, Final

from holdfast_server.domain.packed import (
    ACTOR,
    CONTEXT,
    FIRST_GRANT,
    FIRST_SEQ,
    HOLD,
    REFUND_OF,
    TENANT,
    VERSION,
    Numbers,
    PackedEntry,
    postings,
    text,
    with_lengths,
)

#: The columns of `holdfast.entry` in the order of `entry_row`. `recorded_at` sets itself.
ENTRY_COLUMNS: Final = (
    "partition",
    "epoch",
    "seq",
    "first_seq",
    "kind",
    "version",
    "event_time",
    "mode",
    "ends_hold",
    "delta_granted",
    "delta_debt",
    "delta_unenforced",
    "delta_available",
    "delta_held",
    "delta_burned",
    "delta_expired",
    "delta_revoked",
    "granted",
    "debt",
    "unenforced",
    "available",
    "held",
    "burned",
    "expired",
    "revoked",
    "hash",
    "hold",
    "tenant",
    "account",
    "credit_type",
    "actor",
    "grants",
    "method",
    "idempotency_key",
    "fingerprint",
    "feature",
    "labels",
    "caller",
    "trace_id",
    "span_id",
    "reason",
    "detail",
    "refund_of",
)

#: The columns of `holdfast.operation` in the order of `operation_row`.
OPERATION_COLUMNS: Final = (
    "partition",
    "epoch",
    "first_seq",
    "hold_ended",
    "tenant",
    "method",
    "idempotency_key",
    "fingerprint",
    "answer",
)

#: The method under which the end of a hold is kept that is not the entry with the answer: expiry.
EXPIRE_METHOD: Final = b"Expire"

_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
#: Postgres counts microseconds from 2000-01-01.
_EPOCH_MS: Final = 946_684_800_000
_HASH_BYTES: Final = 32
_UUID_BYTES: Final = 16
#: jsonb begins with the number of its format.
_JSON_FORMAT: Final = b"\x01"
_EMPTY_MAP: Final = _JSON_FORMAT + b"{}"
_EMPTY_LIST: Final = _JSON_FORMAT + b"[]"
_POSTING: Final = b'["%b",' + b",".join([b"%d"] * 5) + b"]"

# The number of columns, then each column of fixed width behind its own length.
_FIXED: Final = struct.Struct(
    ">h" + "ii" + "iq" * 3 + "ih" + "iq" * 2 + "ih" * 2 + "iq" * 16 + "i32s"
)
_OPERATION_FIXED: Final = struct.Struct(">h" + "ii" + "iq" * 2)
_LENGTHS: Final = Numbers(lambda length: length.to_bytes(4, "big"))


def copy_block(rows: Iterable[bytes]) -> bytes:
    """A whole binary COPY."""
    return b"".join((_HEADER, *rows, _TRAILER))


def entry_row(packed: PackedEntry, hash_: bytes) -> bytes:
    """One row of `ENTRY_COLUMNS`. Raises struct.error, ValueError, TypeError for what has none."""
    fields = packed.fields
    tenant, account, credit_type = fields[TENANT:VERSION]
    hold, actor, refund_of = fields[HOLD], fields[ACTOR], fields[REFUND_OF]
    method, key, fingerprint, feature, labels, caller, trace, span, reason, detail = packed.context
    return (
        _fixed(packed, hash_)
        + _uuid(hold)
        + _varying(
            (
                tenant,
                account,
                credit_type,
                actor,
                _postings(fields) if len(fields) > FIRST_GRANT else _EMPTY_LIST,
                method,
                key,
                fingerprint,
                feature,
                _json(labels) if labels else _EMPTY_MAP,
                caller,
                trace,
                span,
                reason,
                _json(detail) if detail else _EMPTY_MAP,
                refund_of,
            )
        )
    )


def operation_row(packed: PackedEntry) -> bytes | None:
    """The row of `OPERATION_COLUMNS` that protects against repetition, where the entry has one.

    An entry with an answer stands for its operation; one that ends a hold and has no answer stands
    for that end alone, under the hold's own id.
    """
    first_seq, _, hold, _, ends_hold, _, answer, _ = packed.fields[FIRST_SEQ:FIRST_GRANT]
    if not answer and not ends_hold:
        return None
    tenant = packed.fields[TENANT]
    method, key, fingerprint = packed.context[:3]
    if not answer:
        method, key = EXPIRE_METHOD, hexlify(hold)
    fixed = _OPERATION_FIXED.pack(
        len(OPERATION_COLUMNS), 4, packed.partition, 8, packed.epoch, 8, first_seq
    )
    ended = _uuid(hold) if ends_hold else _NULL
    return fixed + ended + _varying((tenant, method, key, fingerprint, answer))


def _fixed(packed: PackedEntry, hash_: bytes) -> bytes:
    _, kind, _, _, _, version, event_ms, *amounts = packed.fields[:FIRST_SEQ]
    first_seq, mode, _, _, ends_hold = packed.fields[FIRST_SEQ:CONTEXT]
    d, a = amounts[:8], amounts[8:]
    # fmt: off
    return _FIXED.pack(
        len(ENTRY_COLUMNS),
        4, packed.partition, 8, packed.epoch, 8, packed.seq, 8, first_seq,
        2, kind, 8, version, 8, (event_ms - _EPOCH_MS) * 1000, 2, mode, 2, ends_hold,
        8, d[0], 8, d[1], 8, d[2], 8, d[3], 8, d[4], 8, d[5], 8, d[6], 8, d[7],
        8, a[0], 8, a[1], 8, a[2], 8, a[3], 8, a[4], 8, a[5], 8, a[6], 8, a[7],
        _HASH_BYTES, hash_,
    )
    # fmt: on


def _varying(columns: Sequence[bytes]) -> bytes:
    return with_lengths(columns, _LENGTHS)


def _uuid(raw: bytes) -> bytes:
    if not raw:
        return _NULL
    if len(raw) != _UUID_BYTES:
        raise ValueError("a hold id has 16 bytes")
    return _LENGTHS[_UUID_BYTES] + raw


def _postings(fields: Sequence[Any]) -> bytes:
    rows = [_POSTING % (hexlify(grant), *parts) for grant, *parts in postings(fields)]
    return _JSON_FORMAT + b"[" + b",".join(rows) + b"]"


def _json(value: Any) -> bytes:
    return _JSON_FORMAT + json.dumps(text(value), separators=(",", ":")).encode()
