"""A packed entry as the bytes that are hashed and recorded, fast.

The flusher spends most of its time here. For every entry that `packed.to_entry` accepts, `columns`
gives what `entry.canonical` gives behind the layout; a property test compares the two.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from holdfast_server.domain.entry import (
    BIGINT_TYPE,
    CANONICAL_LAYOUT,
    NO_COLUMN,
    TIME_ZERO_MS,
    UUID_TYPE,
    canonical_json,
)
from holdfast_server.domain.packed import (
    BUCKETS_END,
    DELTA_AT,
    GRANT_BYTES,
    PackedEntry,
    text,
)

#: Bytes of the id of a hold or a grant.
ID_BYTES: Final = 16
#: Bytes of a number that may be large.
NUMBER_BYTES: Final = 8
_GRANT_NUMBERS: Final = (GRANT_BYTES - ID_BYTES) // NUMBER_BYTES
#: Bytes of any text of an entry that is not nested: more than `domain.bounds` lets anybody say.
TEXT_BYTES_MAX: Final = 1_023

#: Details that are kept as JSON has them.
DETAILS_MAX: Final = 1_000

# The hash before, and the layout, stand before the columns of an entry.
_LAYOUT: Final = bytes([CANONICAL_LAYOUT])
# The columns before the buckets, each behind its length in bytes, and the length of the next.
_numbers: Final = struct.Struct(">ii" + "iq" * 3 + "ih" + "iq" * 2 + "ih" * 2 + "i").pack
_buckets: Final = struct.Struct("8s" * ((BUCKETS_END - DELTA_AT) // NUMBER_BYTES)).unpack_from
# What stands between two numbers, and between two ids.
_NUMBER: Final = NUMBER_BYTES.to_bytes(4, "big")
_ID: Final = ID_BYTES.to_bytes(4, "big")
# How the length of a text is written, and of one that may be missing.
_TEXT: Final = [length.to_bytes(4, "big") for length in range(TEXT_BYTES_MAX + 1)]
_OPTIONAL: Final = [NO_COLUMN, *_TEXT[1:]]


def chain_hash(previous: bytes, columns_: bytes) -> bytes:
    """SHA-256 over the hash before and the columns of an entry."""
    return hashlib.sha256(previous + _LAYOUT + columns_).digest()


def columns(packed: PackedEntry) -> bytes:
    """The canonical bytes of an entry behind the layout. Raises one of MALFORMED.

    Figures of buckets and grants are taken as they were found: the bytes are those of a column.
    """
    # fmt: off
    (
        partition, epoch, seq, raw, kind, mode, ends_hold, version, event_ms, first_seq,
        tenant, account, credit_type, actor, refund_of, hold, _, grants, context,
    ) = packed
    method, key, fingerprint, feature, labels, caller, trace, span, reason, detail = context
    if hold and len(hold) != ID_BYTES:
        raise ValueError(f"an id has {ID_BYTES} bytes")
    return b"".join((
        _numbers(
            4, partition, 8, epoch, 8, seq, 8, first_seq, 2, kind, 8, version,
            8, (event_ms - TIME_ZERO_MS) * 1000, 2, mode, 2, ends_hold, 8,
        ),
        _NUMBER.join(_buckets(raw, DELTA_AT)),
        _GRANTS[grants](raw) if grants else _NO_GRANTS,
        _TEXT[len(tenant)], tenant,
        _TEXT[len(account)], account,
        _TEXT[len(credit_type)], credit_type,
        _TEXT[len(actor)], actor,
        _TEXT[len(method)], method,
        _TEXT[len(key)], key,
        _TEXT[len(fingerprint)], fingerprint,
        _OPTIONAL[len(hold)], hold,
        _OPTIONAL[len(feature)], feature,
        _OPTIONAL[len(caller)], caller,
        _OPTIONAL[len(trace)], trace,
        _OPTIONAL[len(span)], span,
        _OPTIONAL[len(reason)], reason,
        _OPTIONAL[len(refund_of)], refund_of,
        _labels(labels) if labels else NO_COLUMN,
        _detail(detail) if detail else NO_COLUMN,
    ))
    # fmt: on


def column(value: bytes) -> bytes:
    """A value of any length as a column that is not empty."""
    return len(value).to_bytes(4, "big") + value


def texts(*values: bytes) -> bytes:
    """Texts as columns, also where they are empty."""
    return b"".join([part for value in values for part in (_TEXT[len(value)], value)])


def _labels(labels: Mapping[bytes, bytes]) -> bytes:
    """Canonical JSON of a flat map, in a third of the time."""
    pairs = [
        f"{encode_basestring_ascii(name.decode())}:{encode_basestring_ascii(value.decode())}"
        for name, value in sorted(labels.items())
    ]
    return column(f"{{{','.join(pairs)}}}".encode())


def _detail(detail: Mapping[bytes, Any]) -> bytes:
    """Canonical JSON; of numbers alone, which is what a hold has, in a third of the time."""
    for value in detail.values():
        if type(value) is not int:
            return column(canonical_json(text(detail)))
    return _detail_of_numbers(*detail.items())


@lru_cache(DETAILS_MAX)
def _detail_of_numbers(*pairs: tuple[bytes, int]) -> bytes:
    """Kept, since most holds live for as long as others."""
    written = [f"{encode_basestring_ascii(name.decode())}:{value}" for name, value in sorted(pairs)]
    return column(f"{{{','.join(written)}}}".encode())


class _Grants:
    """The two columns about grants, of an entry with so many."""

    def __init__(self, grants: int) -> None:
        changes = grants * _GRANT_NUMBERS
        # The first length of an array is in its head.
        self._ids_head = _array_head(UUID_TYPE, grants, ID_BYTES)
        self._changes_head = _array_head(BIGINT_TYPE, changes, NUMBER_BYTES)
        self._bytes = grants * GRANT_BYTES
        parts = f"{ID_BYTES}s" + f"{NUMBER_BYTES}s" * _GRANT_NUMBERS
        self._parts = struct.Struct(parts * grants).unpack_from

    def __call__(self, raw: bytes) -> bytes:
        changes = list(self._parts(raw, len(raw) - self._bytes))
        ids = changes[:: 1 + _GRANT_NUMBERS]
        del changes[:: 1 + _GRANT_NUMBERS]
        heads = self._ids_head, self._changes_head
        return b"".join((heads[0], _ID.join(ids), heads[1], _NUMBER.join(changes)))


class _GrantsByNumber(dict[int, _Grants]):
    """Kept for each number of grants that has been seen."""

    def __missing__(self, grants: int) -> _Grants:
        made = self[grants] = _Grants(grants)
        return made


def _array_head(type_: int, count: int, element_bytes: int) -> bytes:
    """Length of the column; dimensions, whether there are nulls, type, elements, first index; and
    the length of the first element.
    """
    return struct.pack(
        ">7i", 20 + count * (4 + element_bytes), 1, 0, type_, count, 1, element_bytes
    )


_GRANTS: Final = _GrantsByNumber()
_NO_GRANTS: Final = NO_COLUMN * 2
