"""The hot store as it is, unpacked by hand. Only this module of the audit speaks to Redis.

A partition's keys begin with `{pNNN}:eEPOCH:`. `state` is a hash with a row that begins with the
sequence number (field `m`) and the ledger's watermark as text (`f`); `t:TENANT/ROOT` is a hash with
a row for each account (field `a` and the id) and each open hold (field `h` and the id). A row is
values packed one after another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack
import redis

from holdfast_server.workload.checks.ledger import BUCKETS, Cursor, Place

#: Keys asked for in one step of a scan, and read in one round trip.
SCAN_KEYS = 1_000

#: Where an account's row begins to name a credit type and, packed by itself, its row; where each of
#: those has its version, then buckets.
ACCOUNT_CREDITS = 10
CREDIT_VERSION = 0
#: Where a hold's array has the account that placed it.
HOLD_ACCOUNT = 0

_TREE_KEY = re.compile(rb"\{p(\d+)\}:e(\d+):t:([^/]+)/(.+)", re.DOTALL)


@dataclass(slots=True)
class Stored:
    """What the hot store holds, in the epochs that count."""

    buckets: dict[Place, list[int]] = field(default_factory=dict)
    versions: dict[Place, int] = field(default_factory=dict)
    #: The account that placed each open hold.
    open_holds: dict[str, str] = field(default_factory=dict)


def read_positions(url: str, cursors: dict[int, Cursor]) -> dict[int, tuple[int, int]]:
    """The sequence number and the watermark of each of these partitions."""
    with redis.Redis.from_url(url) as client:
        pipeline = client.pipeline(transaction=False)
        for partition, cursor in cursors.items():
            prefix = f"{{p{partition:03d}}}:e{cursor.home}:"
            pipeline.hmget(prefix + "state", "m", "f")
        values = pipeline.execute()
    return {
        partition: (int(unpack_row(numbers)[0]) if numbers else 0, int(flushed or 0))
        for partition, (numbers, flushed) in zip(cursors, values, strict=True)
    }


def read_trees(url: str, cursors: dict[int, Cursor]) -> Stored:
    """Every account and open hold in these partitions."""
    stored = Stored()
    with redis.Redis.from_url(url) as client:
        keys = [key for key in _tree_keys(client) if _is_current(key, cursors)]
        for first in range(0, len(keys), SCAN_KEYS):
            pipeline = client.pipeline(transaction=False)
            for key in keys[first : first + SCAN_KEYS]:
                pipeline.hgetall(key)
            for key, fields in zip(keys[first:], pipeline.execute(), strict=False):
                _read_tree(stored, key, fields)
    return stored


def _tree_keys(client: Any) -> Iterator[bytes]:
    return client.scan_iter(match="{p*}:e*:t:*", count=SCAN_KEYS)  # type: ignore[no-any-return]


def _is_current(key: bytes, cursors: dict[int, Cursor]) -> bool:
    match = _TREE_KEY.fullmatch(key)
    if match is None:
        return False
    cursor = cursors.get(int(match[1]))
    return cursor is not None and cursor.home == int(match[2])


def _read_tree(stored: Stored, key: bytes, fields: dict[bytes, bytes]) -> None:
    match = _TREE_KEY.fullmatch(key)
    assert match is not None
    tenant = match[3].decode()
    for name, value in fields.items():
        if name.startswith(b"h"):
            stored.open_holds[name[1:].hex()] = unpack_row(value)[HOLD_ACCOUNT].decode()
        elif name.startswith(b"a"):
            _read_account(stored, tenant, name[1:].decode(), unpack_row(value))


def _read_account(stored: Stored, tenant: str, account: str, state: list[Any]) -> None:
    pairs = iter(state[ACCOUNT_CREDITS:])
    for credit_type, packed in zip(pairs, pairs, strict=True):
        place, credit = (tenant, account, credit_type.decode()), unpack_row(packed)
        stored.versions[place] = int(credit[CREDIT_VERSION])
        first = CREDIT_VERSION + 1
        stored.buckets[place] = [int(amount) for amount in credit[first : first + len(BUCKETS)]]


def unpack_row(value: bytes) -> list[Any]:
    """The values that are packed one after another."""
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
    unpacker.feed(value)
    return list(unpacker)
