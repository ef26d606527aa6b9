"""The ledger as a file, and back: what an auditor takes away and verifies without us.

A line of JSON holds one entry with all that its hash is over, so that the chain can be verified
from the file alone. CSV holds the same figures flat, for a spreadsheet.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from holdfast_server.domain.entry import Context, Entry, EntryKind, GrantPosting
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.reply import BUCKETS, Buckets, HoldState
from holdfast_server.ledger.records import RecordedEntry

#: Characters of one line of an export: an entry has at most a few kilobytes.
LINE_CHARACTERS_MAX = 1_048_576

_CONTEXT = ("method", "key", "feature", "caller", "trace_id", "reason")

#: The columns of CSV.
CSV_COLUMNS = (
    *("partition", "epoch", "seq", "transaction", "kind", "tenant", "account", "credit_type"),
    *("version", "event_ms", "recorded_ms", "actor", "mode", "hold", "ends_hold", "refund_of"),
    *(f"delta_{name}" for name in BUCKETS),
    *(f"after_{name}" for name in BUCKETS),
    *(*_CONTEXT, "labels", "grants", "hash"),
)


def to_json(recorded: RecordedEntry) -> dict[str, object]:
    """One entry as a JSON object; enums by name, bytes in hexadecimal digits."""
    entry = recorded.entry
    context = dataclasses.asdict(entry.context)
    return {
        "partition": entry.partition,
        "epoch": entry.epoch,
        "seq": entry.seq,
        "first_seq": entry.first_seq,
        "kind": entry.kind.name,
        "tenant": entry.tenant,
        "account": entry.account,
        "credit_type": entry.credit_type,
        "version": entry.version,
        "event_ms": entry.event_ms,
        "delta": dataclasses.asdict(entry.delta),
        "after": dataclasses.asdict(entry.after),
        "grants": [dataclasses.asdict(posting) for posting in entry.grants],
        "mode": entry.mode.name if entry.mode else "",
        "hold": entry.hold,
        "actor": entry.actor,
        "ends_hold": entry.ends_hold.name if entry.ends_hold else "",
        "refund_of": entry.refund_of,
        "context": {**context, "fingerprint": entry.context.fingerprint.hex()},
        "recorded_ms": recorded.recorded_ms,
        "hash": recorded.hash.hex(),
    }


def from_json(fields: Mapping[str, Any]) -> RecordedEntry:
    """The entry that `to_json` wrote. Raises ValueError, KeyError or TypeError for others."""
    context = fields["context"]
    if not all(isinstance(fields[name], int) for name in ("partition", "epoch", "seq")):
        raise TypeError("the place of an entry is three numbers")
    entry = Entry(
        partition=fields["partition"],
        epoch=fields["epoch"],
        seq=fields["seq"],
        first_seq=fields["first_seq"],
        kind=EntryKind[fields["kind"]],
        tenant=fields["tenant"],
        account=fields["account"],
        credit_type=fields["credit_type"],
        version=fields["version"],
        event_ms=fields["event_ms"],
        delta=Buckets(**fields["delta"]),
        after=Buckets(**fields["after"]),
        grants=tuple(GrantPosting(**posting) for posting in fields["grants"]),
        mode=Mode[fields["mode"]] if fields["mode"] else None,
        hold=fields["hold"],
        actor=fields["actor"],
        ends_hold=HoldState[fields["ends_hold"]] if fields["ends_hold"] else None,
        context=Context(**{**context, "fingerprint": bytes.fromhex(context["fingerprint"])}),
        answer=b"",
        refund_of=fields["refund_of"],
    )
    return RecordedEntry(entry, fields["recorded_ms"], bytes.fromhex(fields["hash"]))


def read_lines(lines: Iterable[str]) -> Iterator[RecordedEntry]:
    """The entries of an export. Raises ValueError that names the first line that is none."""
    for number, line in enumerate(lines, start=1):
        if len(line) > LINE_CHARACTERS_MAX:
            raise ValueError(f"line {number} is longer than {LINE_CHARACTERS_MAX} characters")
        try:
            yield from_json(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"line {number} is no entry of an export") from error


def to_row(recorded: RecordedEntry) -> list[object]:
    """One entry as a row under `CSV_COLUMNS`; labels and grants are JSON in one cell."""
    fields = to_json(recorded)
    entry, context = recorded.entry, recorded.entry.context
    flat: dict[str, object] = {
        **fields,
        "transaction": entry.transaction_id,
        **{f"delta_{name}": getattr(entry.delta, name) for name in BUCKETS},
        **{f"after_{name}": getattr(entry.after, name) for name in BUCKETS},
        **{name: getattr(context, name) for name in _CONTEXT},
        "labels": json.dumps(context.labels, sort_keys=True),
        "grants": json.dumps(fields["grants"]),
    }
    return [_inert(flat[name]) for name in CSV_COLUMNS]


def _inert(cell: object) -> object:
    """A cell that no spreadsheet takes for a formula: callers choose labels, keys and reasons."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell
