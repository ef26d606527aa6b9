"""Rows of values as the scripts keep them: one after another, without the header of an array.

Lua makes a table of the right size from a row, where an array would grow value by value
(`lua/lib/layout.lua`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgpack

#: So many values msgpack announces in one byte; more than that, in three.
_SHORT_ARRAY_MAX: Final = 15
#: Values of a hold before its lines, and of a line before its draws.
_HOLD_VALUES: Final = 6
_LINE_VALUES: Final = 4
#: The time of something that is due.
_TIME_BYTES: Final = 7
#: One for all: making one takes longer than packing a row. For one thread only.
_PACKER: Final = msgpack.Packer(use_bin_type=False)


def pack_row(values: Sequence[object]) -> bytes:
    """The row of some values, at most 65,535 of them."""
    packed = pack_value(values)
    return packed[1:] if len(values) <= _SHORT_ARRAY_MAX else packed[3:]


def pack_value(value: object) -> bytes:
    """A value for Lua, whose cmsgpack knows no type for bytes: strings and bytes travel alike."""
    packed: bytes = _PACKER.pack(value)
    return packed


def unpack_row(row: bytes) -> list[Any]:
    """The values of a row, texts as bytes."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
    unpacker.feed(row)
    return list(unpacker)


def pack_hold(values: Sequence[Any]) -> bytes:
    """A hold with its lines and its counts, as `unpack_hold` answers it (lua/lib/constants.lua,
    H_...).
    """
    *own, lines, counts = values
    flat = [*own, pack_value(counts) if counts else b""]
    for *line, draws in lines:
        flat += (*line, len(draws), *draws)
    return pack_row(flat)


def unpack_hold(row: bytes) -> list[Any]:
    """A hold: its own values, its lines, and what was counted."""
    flat = unpack_row(row)
    *own, counts = flat[:_HOLD_VALUES]
    lines, place = [], _HOLD_VALUES
    while place < len(flat):
        *line, size = flat[place : place + _LINE_VALUES]
        place += _LINE_VALUES
        lines.append([*line, flat[place : place + size]])
        place += size
    return [*own, lines, msgpack.unpackb(counts, raw=True) if counts else []]


def pack_due(due: Mapping[bytes, int]) -> bytes:
    """Members and when they are due, as a list in a tree's hash (lua/lib/due_index.lua)."""
    return b"".join(
        at_ms.to_bytes(_TIME_BYTES, "big") + bytes((len(member),)) + member
        for member, at_ms in due.items()
    )


def unpack_due(listed: bytes) -> dict[bytes, int]:
    """The same the other way round."""
    due, place = dict[bytes, int](), 0
    while place < len(listed):
        member = place + _TIME_BYTES + 1
        end = member + listed[member - 1]
        due[listed[member:end]] = int.from_bytes(listed[place : place + _TIME_BYTES], "big")
        place = end
    return due
