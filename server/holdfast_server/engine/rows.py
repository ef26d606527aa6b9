"""Rows of values as the scripts keep them: one after another, without the header of an array.

Lua makes a table of the right size from a row, where an array would grow value by value
(`lua/lib/layout.lua`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgpack

#: So many values msgpack announces in one byte; more than that, in three.
_SHORT_ARRAY_MAX: Final = 15


def pack_row(values: Sequence[object]) -> bytes:
    """The row of some values, at most 65,535 of them."""
    # Lua's cmsgpack knows no type for bytes: strings and bytes travel alike.
    packed = msgpack.packb(values, use_bin_type=False)
    assert isinstance(packed, bytes)
    return packed[1:] if len(values) <= _SHORT_ARRAY_MAX else packed[3:]


def unpack_row(row: bytes) -> list[Any]:
    """The values of a row, texts as bytes."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
    unpacker.feed(row)
    return list(unpacker)
