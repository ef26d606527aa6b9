"""A tree as it lies in the hot store, read value by value, so that two of them can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from holdfast_server.domain.operation import (
    Limit,
    LimitEnforcement,
    LimitUnit,
    LimitWindow,
)
from holdfast_server.domain.twin.state import Counter
from holdfast_server.domain.twin.windows import settle_counter
from holdfast_server.engine.image import Image
from holdfast_server.engine.keys import DUE_FIELD
from holdfast_server.engine.rows import unpack_due, unpack_hold, unpack_row
from tests.support.pair import Real

CREDIT_PLACE, GRANT_PLACE, PENDING_PLACE = 10, 13, 12
OVERDRAFT_PLACE, LIMITS_PLACE, OFFSETS_PLACE = 7, 8, 9


async def stored(real: Real, tenant: str, root: str) -> dict[str, Any]:
    """What the store holds of a tree."""
    partition = real.keys.partition(tenant, root)
    tree, index = real.keys.tree_keys(partition, 1, tenant, root)
    fields: Any = await real.store.client.hgetall(tree)
    fields.pop(b"m", None)
    rows: Any = await real.store.client.zrange(index, 0, -1, withscores=True)
    due = {member: int(score) for member, score in rows}
    assert not due or DUE_FIELD.encode() not in fields
    late: Any = await real.store.client.hgetall(real.keys.partition_keys(partition, 1)[4])
    return comparable(fields, due, late, real.clock.now_ms)


def drawn(image: Image, now_ms: int) -> dict[str, Any]:
    """The same of an image that was drawn from entries."""
    late = {hold: packed for hold, (packed, _) in image.late.items()}
    return comparable(image.fields, image.due, late, now_ms)


def comparable(
    fields: Mapping[bytes, bytes],
    due: Mapping[bytes, int],
    late: Mapping[bytes, bytes],
    now_ms: int,
) -> dict[str, Any]:
    """Every value by its name. Limits are brought to the present, for which nobody needs to come;
    expired holds that nobody can commit any more are left out.
    """
    found: dict[str, Any] = {}
    for name, value in fields.items():
        mark, rest = name[:1], name[1:]
        if mark == b"a":
            found[f"account {rest.decode()}"] = _account(unpack_row(value), now_ms)
        elif mark == DUE_FIELD.encode():
            due = unpack_due(value)
        elif mark == b"h":
            found[f"hold {rest.hex()}"] = unpack_hold(value)
        else:
            found[f"{mark.decode()} {rest.decode()}"] = _unpacked(value)
    holds = {hold.hex(): _plain(_unpacked(packed)) for hold, packed in late.items()}
    found["late"] = {hold: each for hold, each in holds.items() if each[4] > now_ms}
    return found | {"due": dict(due)}


def _account(row: list[Any], now_ms: int) -> dict[str, Any]:
    offsets = tuple(map(tuple, _part(row[OFFSETS_PLACE]) or ()))
    counters = [_counter(each, offsets, now_ms) for each in _part(row[LIMITS_PLACE]) or ()]
    credits = row[CREDIT_PLACE:]
    named = zip(credits[0::2], credits[1::2], strict=True)
    return {
        "values": row[:OVERDRAFT_PLACE],
        "overdraft": _part(row[OVERDRAFT_PLACE]),
        "offsets": offsets,
        "limits": counters,
        # In their order, which is that of their first use.
        "credits": [(name.decode(), _credit(unpack_row(credit))) for name, credit in named],
    }


def _counter(row: list[Any], offsets: Any, now_ms: int) -> Counter:
    name, unit, window, maximum, enforcement, window_ms, credit_type, feature, warn = row[:9]
    limit = Limit(
        name.decode(),
        LimitUnit(unit),
        LimitWindow(window),
        maximum,
        LimitEnforcement(enforcement),
        window_ms,
        credit_type.decode(),
        feature.decode(),
        tuple(warn),
    )
    used, level, level_ms, number = row[9] or [], *row[10:]
    counted = dict(zip(used[0::2], used[1::2], strict=True))
    counter = Counter(limit, number, counted, level, level_ms)
    settle_counter(counter, offsets, now_ms)
    return counter


def _credit(row: list[Any]) -> dict[str, Any]:
    return {
        "figures": row[:PENDING_PLACE],
        "pending": _part(row[PENDING_PLACE]),
        "grants": [unpack_row(grant) for grant in row[GRANT_PLACE:]],
    }


def _part(packed: bytes) -> Any:
    return _unpacked(packed) if packed else None


def _plain(value: Any) -> Any:
    """Lua packs an empty list as an empty map."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return [] if value == {} else value


def _unpacked(packed: bytes) -> Any:
    return msgpack.unpackb(packed, raw=True, strict_map_key=False)
