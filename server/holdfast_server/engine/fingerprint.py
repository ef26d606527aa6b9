"""What makes two requests the same: digests of keys and of content, and the time inside a key.

A fingerprint is 128 bits over the whole content, followed by 16 bits per field in the order of the
operation's fields, so that the first field that differs can be named without storing the content.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import fields
from hashlib import blake2b
from typing import get_args

import msgpack

from holdfast_server.domain.operation import Operation

_WHOLE_BYTES = 16
_FIELD_BYTES = 2
_UUID_DIGITS = 32

#: Not content: the scope and the key itself, and how long the caller wants to wait.
_SCOPE = frozenset({"tenant", "key", "durability"})

#: Where a field is called otherwise in the proto.
_PROTO_NAMES = {"hold": "hold_id", "fields": "update_mask"}

#: The fields of each operation that are its content.
_CONTENT: Mapping[type, tuple[str, ...]] = {
    kind: tuple(field.name for field in fields(kind) if field.name not in _SCOPE)
    for kind in get_args(Operation)
}


def key_digest(tenant: str, method: str, key: str) -> bytes:
    """16 bytes that stand for an idempotency key in its scope."""
    scope = f"{len(tenant)}:{tenant}{len(method)}:{method}{key}"
    return blake2b(scope.encode(), digest_size=16).digest()


def key_time_ms(key: str) -> int:
    """The Unix time inside a UUIDv7, in milliseconds; 0 for any other key."""
    digits = key.replace("-", "")
    if len(digits) != _UUID_DIGITS or digits[12] != "7" or digits[16] not in "89abAB":
        return 0
    try:
        return int(digits[:12], 16) if int(digits, 16) else 0
    except ValueError:
        return 0


def fingerprint(operation: Operation) -> bytes:
    """The content of an operation, as described above."""
    parts = [_packed(getattr(operation, name)) for name in _CONTENT[type(operation)]]
    whole = blake2b(b"".join(parts), digest_size=_WHOLE_BYTES).digest()
    return whole + b"".join(zlib.crc32(part).to_bytes(4, "big")[:_FIELD_BYTES] for part in parts)


def first_difference(operation: Operation, stored: bytes) -> str:
    """The proto name of the first field in which a stored fingerprint differs.

    An empty one stands for a key that was used in another partition: for another account or hold,
    which is always the first field.
    """
    if not stored:
        first = _CONTENT[type(operation)][0]
        return _PROTO_NAMES.get(first, first)
    mine = fingerprint(operation)
    for index, name in enumerate(_CONTENT[type(operation)]):
        start = _WHOLE_BYTES + index * _FIELD_BYTES
        if mine[start : start + _FIELD_BYTES] != stored[start : start + _FIELD_BYTES]:
            return _PROTO_NAMES.get(name, name)
    return "content"


def _packed(value: object) -> bytes:
    packed: bytes = _PACKER.pack(_sorted(value))
    return packed


def _sorted(value: object) -> object:
    """A map as a list of pairs, since maps have no order that could be relied on."""
    return sorted(value.items()) if isinstance(value, Mapping) else value


def _plain(value: object) -> object:
    """Dataclasses and sets as lists, in an order that does not depend on the process."""
    if isinstance(value, frozenset):
        return sorted(value)
    return [_sorted(getattr(value, field.name)) for field in fields(value)]  # type: ignore[arg-type]


# One packer for all: making one takes longer than packing a value. For one thread only.
_PACKER = msgpack.Packer(default=_plain)
