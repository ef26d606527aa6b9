"""The hash chain, recomputed from its definition. Pure.

An entry's bytes are a byte for their layout and its columns in a fixed order, each as Postgres has
it in binary form behind its length in four bytes; what is empty has the length -1. Its hash is
SHA-256 over the hash before it in its partition (32 zero bytes before the first) and these bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

GENESIS = bytes(32)
LAYOUT = 1
#: From where Postgres counts time, and its numbers of two types.
YEAR_2000_MS = 946_684_800_000
UUID, BIGINT = 2950, 20


class Row(NamedTuple):
    """A raw row of the ledger, in the order in which `ledger.SELECT` names the columns."""

    partition: int
    epoch: int
    seq: int
    first_seq: int
    kind: int
    version: int
    event_ms: int
    mode: int
    ends_hold: int
    delta: list[int]
    after: list[int]
    hash: bytes
    hold: str
    tenant: str
    account: str
    credit_type: str
    actor: str
    grant_ids: list[str]
    grant_changes: list[int]
    method: str
    key: str
    fingerprint: bytes
    feature: str
    labels: dict[str, str]
    caller: str
    trace_id: str
    span_id: str
    reason: str
    detail: dict[str, Any]
    refund_of: str


def chained(previous: bytes, row: Row) -> bytes:
    """The hash that a row must have after a row with hash `previous`."""
    columns = b"".join(map(_column, _columns(row)))
    return hashlib.sha256(previous + bytes([LAYOUT]) + columns).digest()


def _columns(row: Row) -> Iterator[bytes | None]:
    yield _number(row.partition, 4)
    yield from map(_number, (row.epoch, row.seq, row.first_seq))
    yield _number(row.kind, 2)
    yield from map(_number, (row.version, (row.event_ms - YEAR_2000_MS) * 1000))
    yield from (_number(row.mode, 2), _number(row.ends_hold, 2))
    yield from map(_number, (*row.delta, *row.after))
    yield _array(UUID, [bytes.fromhex(grant_id.replace("-", "")) for grant_id in row.grant_ids])
    yield _array(BIGINT, list(map(_number, row.grant_changes)))
    for text in (row.tenant, row.account, row.credit_type, row.actor, row.method, row.key):
        yield text.encode()
    yield row.fingerprint
    yield bytes.fromhex(row.hold) or None
    yield from map(_text, (row.feature, row.caller, row.trace_id, row.span_id, row.reason))
    yield from (_text(row.refund_of), _nested(row.labels), _nested(row.detail))


def _column(value: bytes | None) -> bytes:
    return _number(-1, 4) if value is None else _number(len(value), 4) + value


def _number(number: int, length: int = 8) -> bytes:
    return number.to_bytes(length, "big", signed=True)


def _text(text: str) -> bytes | None:
    return text.encode() or None


def _nested(value: dict[str, Any]) -> bytes | None:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return text.encode() if value else None


def _array(kind: int, elements: list[bytes]) -> bytes | None:
    head = b"".join(_number(each, 4) for each in (1, 0, kind, len(elements), 1))
    return head + b"".join(map(_column, elements)) if elements else None
