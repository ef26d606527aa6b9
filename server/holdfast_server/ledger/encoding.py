"""Entries as rows in Postgres' binary COPY format.

Nearly all of a row is what its hash is over (`domain.columns`), so a row costs little beside it.
"""

from __future__ import annotations

import struct
from binascii import hexlify
from collections.abc import Iterable
from typing import Final

from holdfast_server.domain.columns import column, texts
from holdfast_server.domain.entry import NO_COLUMN
from holdfast_server.domain.packed import PackedEntry

#: The columns of `holdfast.entry` in the order of a row. `recorded_at` sets itself.
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
    "grant_ids",
    "grant_changes",
    "tenant",
    "account",
    "credit_type",
    "actor",
    "method",
    "idempotency_key",
    "fingerprint",
    "hold",
    "feature",
    "caller",
    "trace_id",
    "span_id",
    "reason",
    "refund_of",
    "labels",
    "detail",
    "hash",
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
_OPERATION_NUMBERS: Final = struct.Struct(">h" + "ii" + "iq" * 2)

#: What stands before the first column of an entry's row, and before its last: the hash.
ROW_HEAD: Final = len(ENTRY_COLUMNS).to_bytes(2, "big")
HASH_HEAD: Final = (32).to_bytes(4, "big")


def copy_block(rows: Iterable[bytes]) -> bytes:
    """A whole binary COPY."""
    return b"".join((_HEADER, *rows, _TRAILER))


def operation_row(packed: PackedEntry) -> bytes | None:
    """The row of `OPERATION_COLUMNS` that protects against repetition, where the entry has one.

    An entry with an answer stands for its operation; one that ends a hold and has no answer stands
    for that end alone, under the hold's own id.
    """
    answer, ends_hold = packed.answer, packed.ends_hold
    if not answer and not ends_hold:
        return None
    method, key, fingerprint, *_ = packed.context
    if not answer:
        method, key = EXPIRE_METHOD, hexlify(packed.hold)
    numbers = _OPERATION_NUMBERS.pack(
        len(OPERATION_COLUMNS), 4, packed.partition, 8, packed.epoch, 8, packed.first_seq
    )
    ended = column(packed.hold) if ends_hold else NO_COLUMN
    named = texts(packed.tenant, method, key, fingerprint)
    return b"".join((numbers, ended, named, column(answer)))
