"""A packed entry as the bytes that are hashed and recorded, fast.

The flusher spends most of its time here. For every entry that `packed.to_entry` accepts, `columns`
gives what `entry.canonical` gives behind the layout; a property test compares the two.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
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
    DELTA,
    FIRST_GRANT,
    FIRST_SEQ,
    GRANT_VALUES,
    PackedEntry,
    text,
)

#: Bytes of the id of a hold or a grant.
ID_BYTES: Final = 16
#: Bytes of any text of an entry that is not nested: more than `domain.bounds` lets anybody say.
TEXT_BYTES_MAX: Final = 1_023

_LAYOUT: Final = bytes([CANONICAL_LAYOUT])
# Each number behind its length in bytes; the list has all lengths, and zeros for the numbers.
_NUMBERS: Final = struct.Struct(">" + "ii" + "iq" * 3 + "ih" + "iq" * 2 + "ih" * 2 + "iq" * 16)
_LENGTHS_AND_ZEROS: Final = [
    part for length in (4, 8, 8, 8, 2, 8, 8, 2, 2, *[8] * 16) for part in (length, 0)
]
# How the length of a text is written, and of one that may be missing.
_TEXT: Final = [length.to_bytes(4, "big") for length in range(TEXT_BYTES_MAX + 1)]
_OPTIONAL: Final = [NO_COLUMN, *_TEXT[1:]]


def chain_hash(previous: bytes, columns_: bytes) -> bytes:
    """SHA-256 over the hash before and the columns of an entry."""
    return hashlib.sha256(b"".join((previous, _LAYOUT, columns_))).digest()


def columns(packed: PackedEntry) -> bytes:
    """The canonical bytes of an entry behind the layout. Raises one of MALFORMED."""
    fields = packed.fields
    _, kind, tenant, account, credit_type, version, event_ms = fields[:DELTA]
    first_seq, mode, hold, actor, ends_hold, _, _, refund_of = fields[FIRST_SEQ:FIRST_GRANT]
    method, key, fingerprint, feature, labels, caller, trace, span, reason, detail = packed.context
    numbers = _LENGTHS_AND_ZEROS.copy()
    numbers[1::2] = (
        packed.partition,
        packed.epoch,
        packed.seq,
        first_seq,
        kind,
        version,
        (event_ms - TIME_ZERO_MS) * 1000,
        mode,
        ends_hold,
        *fields[DELTA:FIRST_SEQ],
    )
    # fmt: off
    return b"".join((
        _NUMBERS.pack(*numbers),
        _TEXT[len(tenant)], tenant,
        _TEXT[len(account)], account,
        _TEXT[len(credit_type)], credit_type,
        _TEXT[len(actor)], actor,
        _TEXT[len(method)], method,
        _TEXT[len(key)], key,
        _TEXT[len(fingerprint)], fingerprint,
        _id_column(hold) if hold else NO_COLUMN,
        _OPTIONAL[len(feature)], feature,
        _labels(labels) if labels else NO_COLUMN,
        _OPTIONAL[len(caller)], caller,
        _OPTIONAL[len(trace)], trace,
        _OPTIONAL[len(span)], span,
        _OPTIONAL[len(reason)], reason,
        column(canonical_json(text(detail))) if detail else NO_COLUMN,
        _OPTIONAL[len(refund_of)], refund_of,
        _GRANTS[(len(fields) - FIRST_GRANT) // GRANT_VALUES].pack(fields),
    ))
    # fmt: on


def column(value: bytes) -> bytes:
    """A value of any length as a column."""
    return len(value).to_bytes(4, "big") + value


def _check_id(id_: bytes) -> None:
    if len(id_) != ID_BYTES:
        raise ValueError(f"an id has {ID_BYTES} bytes")


def _id_column(id_: bytes) -> bytes:
    _check_id(id_)
    return _TEXT[ID_BYTES] + id_


def _labels(labels: Mapping[bytes, bytes]) -> bytes:
    """Canonical JSON of a flat map, in a third of the time."""
    pairs = [
        f"{encode_basestring_ascii(name.decode())}:{encode_basestring_ascii(value.decode())}"
        for name, value in sorted(labels.items())
    ]
    return column(f"{{{','.join(pairs)}}}".encode())


class _Grants:
    """The two columns of what an entry changes of so many grants: ids, and five changes for each.

    Lengths and heads of arrays are the same for all such entries; ids and changes go between them.
    """

    def __init__(self, count: int) -> None:
        changes = count * (GRANT_VALUES - 1)
        self._struct = struct.Struct(">6i" + f"i{ID_BYTES}s" * count + "6i" + "iq" * changes)
        ids = [*_array_head(UUID_TYPE, count, ID_BYTES), *[ID_BYTES, b""] * count]
        numbers = [*_array_head(BIGINT_TYPE, changes, 8), *[8, 0] * changes]
        self._values: list[Any] = ids + numbers
        self._ids = slice(len(ids) - 2 * count + 1, len(ids), 2)
        self._changes = slice(len(ids) + len(numbers) - 2 * changes + 1, None, 2)

    def pack(self, fields: Sequence[Any]) -> bytes:
        """The columns with the values of one entry."""
        changes = list(fields[FIRST_GRANT:])
        ids = changes[::GRANT_VALUES]
        for id_ in ids:
            _check_id(id_)
        del changes[::GRANT_VALUES]
        values = self._values.copy()
        values[self._ids] = ids
        values[self._changes] = changes
        return self._struct.pack(*values)


class _NoGrants(_Grants):
    def pack(self, fields: Sequence[Any]) -> bytes:
        """Two columns that are empty."""
        return NO_COLUMN + NO_COLUMN


class _GrantsByCount(dict[int, _Grants]):
    """Kept for each number of grants that has been seen."""

    def __missing__(self, count: int) -> _Grants:
        made = self[count] = _Grants(count)
        return made


def _array_head(type_: int, count: int, element_bytes: int) -> tuple[int, ...]:
    """Length of the column; dimensions, whether there are nulls, type, elements, first index."""
    return (20 + count * (4 + element_bytes), 1, 0, type_, count, 1)


_GRANTS: Final = _GrantsByCount({0: _NoGrants(0)})
