"""What makes two requests the same: digests of keys and of content, and the time inside a key.

A fingerprint is 128 bits over the whole content, followed by 16 bits per field in the order of the
operation's fields, so that the first field that differs can be named without storing the content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter
from struct import Struct
from typing import Any, Final, get_args
from zlib import crc32

import msgpack

from holdfast_server.domain.operation import (
    AccountTerms,
    CommitLine,
    Grant,
    GrantTerms,
    Limit,
    Line,
    Operation,
    RefundLine,
)

_WHOLE_BYTES: Final = 16
#: From which digests begin: to make one takes longer than to copy it.
_NOTHING: Final = blake2b(digest_size=_WHOLE_BYTES)
#: Pairs of tenant and method whose part of a digest is remembered.
_SCOPES_REMEMBERED: Final = 10_000
_MARK_BYTES: Final = 2
_MARK_MASK: Final = 0xFFFF
_UUID_DIGITS: Final = 32
#: Bits of a UUIDv7 below its time.
_BITS_BELOW_TIME: Final = 80

#: Not content: the scope and the key itself, and how long the caller wants to wait.
_SCOPE: Final = frozenset({"tenant", "key", "durability"})

#: Where a field is called otherwise in the proto; see `_proto_name`.
_PROTO_NAMES: Final = {"hold": "hold_id", "fields": "update_mask", "terms": "account"}

_Getter = Callable[[Any], Any]

#: The fields of each operation that are its content.
_CONTENT: Final[Mapping[type, tuple[str, ...]]] = {
    kind: tuple(field.name for field in fields(kind) if field.name not in _SCOPE)
    for kind in get_args(Operation)
}


def _getter(names: tuple[str, ...]) -> _Getter:
    """Reads fields as a tuple, also where there is only one."""
    if len(names) > 1:
        return attrgetter(*names)
    one = attrgetter(names[0])
    return lambda owner: (one(owner),)


_VALUES: Final[Mapping[type, _Getter]] = {kind: _getter(names) for kind, names in _CONTENT.items()}
_MARKS: Final[Mapping[type, Struct]] = {
    kind: Struct(f">{len(names)}H") for kind, names in _CONTENT.items()
}
#: The same for what stands inside of fields.
_PARTS: Final[Mapping[type, _Getter]] = {
    kind: _getter(tuple(field.name for field in fields(kind)))
    for kind in (Line, CommitLine, RefundLine, AccountTerms, GrantTerms, Limit)
}
#: Those in which some are maps.
_WITH_MAPS: Final = frozenset({AccountTerms, GrantTerms})


def key_digest(tenant: str, method: str, key: str) -> bytes:
    """16 bytes that stand for an idempotency key in its scope."""
    digest = _scope(tenant, method).copy()
    digest.update(key.encode())
    return digest.digest()


@lru_cache(maxsize=_SCOPES_REMEMBERED)
def _scope(tenant: str, method: str) -> blake2b:
    """Where the digest of a key goes on."""
    begun = _NOTHING.copy()
    begun.update(f"{len(tenant)}:{tenant}{len(method)}:{method}".encode())
    return begun


def key_time_ms(key: str) -> int:
    """The Unix time inside a UUIDv7, in milliseconds; 0 for any other key."""
    digits = key.replace("-", "")
    if len(digits) != _UUID_DIGITS or digits[12] != "7" or digits[16] not in "89abAB":
        return 0
    try:
        return int(digits, 16) >> _BITS_BELOW_TIME
    except ValueError:
        return 0


def fingerprint(operation: Operation) -> bytes:
    """The content of an operation, as described above."""
    kind = type(operation)
    parts = [
        _PACK(sorted(value.items()) if type(value) is dict else value)
        for value in _VALUES[kind](operation)
    ]
    whole = _NOTHING.copy()
    whole.update(b"".join(parts))
    return whole.digest() + _MARKS[kind].pack(*[crc32(part) & _MARK_MASK for part in parts])


def first_difference(operation: Operation, stored: bytes) -> str:
    """The proto name of the first field in which a stored fingerprint differs.

    An empty one stands for a key that was used in another partition: for another account or hold,
    which is always the first field.
    """
    kind = type(operation)
    mine = fingerprint(operation)
    for index, name in enumerate(_CONTENT[kind]):
        start = _WHOLE_BYTES + index * _MARK_BYTES
        if mine[start : start + _MARK_BYTES] != stored[start : start + _MARK_BYTES]:
            return _proto_name(kind, name)
    return "content"


def _proto_name(kind: type, field: str) -> str:
    """What the proto calls a field. A grant's terms are the only ones that are called so there."""
    return field if kind is Grant else _PROTO_NAMES.get(field, field)


def _plain(value: object) -> object:
    """Dataclasses and sets as lists, in an order that does not depend on the process."""
    if isinstance(value, frozenset):
        return sorted(value)
    parts = _PARTS[type(value)](value)
    if type(value) not in _WITH_MAPS:
        return parts
    return [sorted(part.items()) if type(part) is dict else part for part in parts]


# One packer for all: making one takes longer than packing a value. For one thread only. Maps become
# lists of pairs before it sees them, since maps have no order that could be relied on.
_PACK: Final[Callable[[object], bytes]] = msgpack.Packer(default=_plain).pack
