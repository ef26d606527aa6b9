"""The hot store as it is, unpacked by hand. Only this module of the audit speaks to Redis.

A partition's keys begin with `{pNNN}:eEPOCH:`. `meta` is a packed array that begins with the
sequence number; `flushed` is the ledger's watermark as text; `t:TENANT/ROOT` is a hash with a
packed array for each account (field `a` and the id) and each open hold (field `h` and the id).
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

#: Where an account's array has its credit types; where each of those has its version, then buckets.
ACCOUNT_CREDITS = 7
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
            prefix = f"{{p{partition:03d}}}:e{cursor.epoch}:"
            pipeline.get(prefix + "meta")
            pipeline.get(prefix + "flushed")
        values = pipeline.execute()
    pairs = zip(values[0::2], values[1::2], strict=True)
    return {
        partition: (int(_unpack(meta)[0]) if meta else 0, int(flushed or 0))
        for partition, (meta, flushed) in zip(cursors, pairs, strict=True)
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
    return cursor is not None and cursor.epoch == int(match[2])


def _read_tree(stored: Stored, key: bytes, fields: dict[bytes, bytes]) -> None:
    match = _TREE_KEY.fullmatch(key)
    assert match is not None
    tenant = match[3].decode()
    for name, value in fields.items():
        if name.startswith(b"h"):
            stored.open_holds[name[1:].hex()] = _unpack(value)[HOLD_ACCOUNT].decode()
        elif name.startswith(b"a"):
            _read_account(stored, tenant, name[1:].decode(), _unpack(value))


def _read_account(stored: Stored, tenant: str, account: str, state: list[Any]) -> None:
    credits = state[ACCOUNT_CREDITS]
    # An empty table may have been packed as an array.
    for credit_type, credit in credits.items() if isinstance(credits, dict) else ():
        place = (tenant, account, credit_type.decode())
        stored.versions[place] = int(credit[CREDIT_VERSION])
        first = CREDIT_VERSION + 1
        stored.buckets[place] = [int(amount) for amount in credit[first : first + len(BUCKETS)]]


def _unpack(value: bytes) -> list[Any]:
    unpacked: list[Any] = msgpack.unpackb(value, raw=True, strict_map_key=False)
    return unpacked
