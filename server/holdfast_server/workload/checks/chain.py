"""The hash chain, recomputed from its definition. Pure.

An entry's bytes are its fields in a fixed order, as text, each prefixed by its length in bytes and
a colon. Its hash is SHA-256 over the hash before it in its partition (32 zero bytes before the
first) and these bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

GENESIS = bytes(32)
LAYOUT = 1


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
    grants: list[list[Any]]
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
    digest = hashlib.sha256(previous)
    for text in _texts(row):
        data = text.encode()
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.digest()


def _texts(row: Row) -> Iterable[str]:
    numbers = (LAYOUT, row.partition, row.epoch, row.seq, row.first_seq, row.kind, row.version)
    yield from map(str, numbers)
    yield str(row.event_ms)
    yield from (row.tenant, row.account, row.credit_type, str(row.mode), row.hold, row.actor)
    yield from (str(row.ends_hold), row.refund_of)
    yield _commas(row.delta)
    yield _commas(row.after)
    yield ";".join(map(_commas, row.grants))
    yield from (row.method, row.key, row.fingerprint.hex(), row.feature, row.caller)
    yield from (row.trace_id, row.span_id, row.reason, _nested(row.detail))
    for name in sorted(row.labels):
        yield from (name, row.labels[name])


def _commas(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def _nested(value: object) -> str:
    """Maps as `m`, lists as `l`, numbers and truth values as `i`, else `s`; with lengths."""
    match value:
        case dict():
            return _marked(
                "m", "".join(_nested(name) + _nested(value[name]) for name in sorted(value))
            )
        case list():
            return _marked("l", "".join(map(_nested, value)))
        case bool() | int():
            return _marked("i", str(int(value)))
        case _:
            return _marked("s", str(value))


def _marked(mark: str, text: str) -> str:
    return f"{mark}{len(text)}:{text}"
