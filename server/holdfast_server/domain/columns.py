"""A packed entry as the bytes that are hashed and recorded, fast.

The flusher spends most of its time here. For every entry that `packed.to_entry` accepts, `columns`
gives what `entry.canonical` gives behind the layout; a property test compares the two.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
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
    ACTOR,
    DELTA,
    ENDS_HOLD,
    EVENT_MS,
    FIRST_GRANT,
    FIRST_SEQ,
    GRANT_VALUES,
    HOLD,
    KIND,
    MODE,
    REFUND_OF,
    TENANT,
    VERSION,
    PackedEntry,
    text,
)

#: Bytes of the id of a hold or a grant.
ID_BYTES: Final = 16
#: Bytes of any text of an entry that is not nested: more than `domain.bounds` lets anybody say.
TEXT_BYTES_MAX: Final = 1_023

# The hash before, and the layout, stand before the columns of an entry.
_LAYOUT: Final = bytes([CANONICAL_LAYOUT])
# The lengths in bytes of the columns that are numbers.
_NUMBER_BYTES: Final = (4, 8, 8, 8, 2, 8, 8, 2, 2, *[8] * 16)
_NUMBER_FORMATS: Final = {2: "ih", 4: "ii", 8: "iq"}
# How the length of a text is written, and of one that may be missing.
_TEXT: Final = [length.to_bytes(4, "big") for length in range(TEXT_BYTES_MAX + 1)]
_OPTIONAL: Final = [NO_COLUMN, *_TEXT[1:]]


def chain_hash(previous: bytes, columns_: bytes) -> bytes:
    """SHA-256 over the hash before and the columns of an entry."""
    return hashlib.sha256(previous + _LAYOUT + columns_).digest()


def columns(packed: PackedEntry) -> bytes:
    """The canonical bytes of an entry behind the layout. Raises one of MALFORMED."""
    fields = packed.fields
    tenant, account, credit_type = fields[TENANT:VERSION]
    hold, actor, refund_of = fields[HOLD], fields[ACTOR], fields[REFUND_OF]
    method, key, fingerprint, feature, labels, caller, trace, span, reason, detail = packed.context
    if hold:
        _check_id(hold)
    # fmt: off
    return b"".join((
        _figures(packed),
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


def _figures(packed: PackedEntry) -> bytes:
    """The columns that are numbers, and those about grants."""
    fields = packed.fields
    figures = _FIGURES[(len(fields) - FIRST_GRANT) // GRANT_VALUES]
    values = figures.values.copy()
    values[_NUMBERS] = (
        packed.partition,
        packed.epoch,
        packed.seq,
        fields[FIRST_SEQ],
        fields[KIND],
        fields[VERSION],
        (fields[EVENT_MS] - TIME_ZERO_MS) * 1000,
        fields[MODE],
        fields[ENDS_HOLD],
        *fields[DELTA:FIRST_SEQ],
    )
    if figures.changes:
        changes = fields[FIRST_GRANT:]
        values[figures.ids_at] = ids = changes[::GRANT_VALUES]
        for id_ in ids:
            _check_id(id_)
        del changes[::GRANT_VALUES]
        values[figures.changes_at] = changes
    return figures.pack(*values)


def _check_id(id_: bytes) -> None:
    if len(id_) != ID_BYTES:
        raise ValueError(f"an id has {ID_BYTES} bytes")


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
    pairs = [
        f"{encode_basestring_ascii(name.decode())}:{value}"
        for name, value in sorted(detail.items())
    ]
    return column(f"{{{','.join(pairs)}}}".encode())


class _Figures:
    """The columns of an entry with so many grants that are numbers, and those about its grants.

    Lengths and heads of arrays are the same for all such entries; what differs goes between them.
    """

    def __init__(self, grants: int) -> None:
        self.changes = grants * (GRANT_VALUES - 1)
        ids = [*_array_head(UUID_TYPE, grants, ID_BYTES), *[ID_BYTES, b""] * grants]
        changes = [*_array_head(BIGINT_TYPE, self.changes, 8), *[8, 0] * self.changes]
        numbers = [part for length in _NUMBER_BYTES for part in (length, 0)]
        self.values: list[Any] = numbers + (ids + changes if grants else [-1, -1])
        end = len(numbers) + len(ids)
        self.ids_at = slice(end - 2 * grants + 1, end, 2)
        self.changes_at = slice(end + len(changes) - 2 * self.changes + 1, None, 2)
        arrays = "6i" + f"i{ID_BYTES}s" * grants + "6i" + "iq" * self.changes
        number_formats = "".join(_NUMBER_FORMATS[length] for length in _NUMBER_BYTES)
        self.pack = struct.Struct(f">{number_formats}{arrays if grants else '2i'}").pack


class _FiguresByGrants(dict[int, _Figures]):
    """Kept for each number of grants that has been seen."""

    def __missing__(self, grants: int) -> _Figures:
        made = self[grants] = _Figures(grants)
        return made


def _array_head(type_: int, count: int, element_bytes: int) -> tuple[int, ...]:
    """Length of the column; dimensions, whether there are nulls, type, elements, first index."""
    return (20 + count * (4 + element_bytes), 1, 0, type_, count, 1)


_NUMBERS: Final = slice(1, 2 * len(_NUMBER_BYTES), 2)
_FIGURES: Final = _FiguresByGrants()
