"""Spooled work as text: one JSON object that says who did what and when, readable by a person."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from holdfast_server.domain.operation import (
    BookUnenforced,
    Burn,
    Caller,
    Commit,
    CommitLine,
    Durability,
    Extend,
    Fit,
    Line,
    Overage,
    Release,
)

#: What can be spooled.
Spooled = BookUnenforced | Burn | Commit | Extend | Release

#: The layout below. Records of another layout are kept aside.
LAYOUT = 1

_TYPES: Mapping[str, type[Spooled]] = {
    each.__name__: each for each in (BookUnenforced, Burn, Commit, Extend, Release)
}


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that was let through, and when."""

    caller: Caller
    operation: Spooled
    passed_at_ms: int


def encode(record: Record) -> bytes:
    """A record as text."""
    content = {
        "layout": LAYOUT,
        "method": type(record.operation).__name__,
        "passed_at_ms": record.passed_at_ms,
        "caller": asdict(record.caller),
        "operation": asdict(record.operation),
    }
    return json.dumps(content, separators=(",", ":")).encode()


def decode(raw: bytes) -> Record | None:
    """The record of a text; None when it is none that this version can read."""
    try:
        content = json.loads(raw)
        if content["layout"] != LAYOUT:
            return None
        operation = _operation(_TYPES[content["method"]], content["operation"])
        return Record(Caller(**content["caller"]), operation, int(content["passed_at_ms"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _operation(kind: type[Spooled], values: Mapping[str, Any]) -> Spooled:
    names = {field.name for field in fields(kind)}
    if names != values.keys():
        raise ValueError("the fields are those of another version")
    line = CommitLine if kind is Commit else Line
    readers: dict[str, Callable[[Any], Any]] = {
        "lines": lambda lines: tuple(line(**each) for each in lines),
        "durability": lambda level: None if level is None else Durability(level),
        "overage": Overage,
        "fit": Fit,
    }
    read: dict[str, Any] = {name: readers.get(name, _same)(value) for name, value in values.items()}
    return kind(**read)


def _same(value: Any) -> Any:
    return value
