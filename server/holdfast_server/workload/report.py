"""What a run shows: progress while it goes on, a table and one JSON object at its end."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from holdfast_server.workload.checks.audit import Audit
from holdfast_server.workload.history import History

#: Violations shown in the table.
VIOLATIONS_SHOWN_MAX = 10
MEDIAN, TAIL = 0.50, 0.99
#: The fields of the JSON object, in order.
JSON_FIELDS = (
    "ok",
    "requests",
    "operations",
    "granted",
    "denied",
    "expired_holds",
    "duplicates",
    "lost",
    "conservation",
    "ledger_rows",
    "chain",
    "operations_per_s",
    "reserve_p50_ms",
    "reserve_p99_ms",
)


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a run. `ok` only if every check holds and the service worked."""

    ok: bool
    requests: int
    operations: int
    granted: int
    denied: int
    expired_holds: int
    duplicates: int
    lost: int
    conservation: str
    ledger_rows: int
    chain: str
    operations_per_s: int
    reserve_p50_ms: float
    reserve_p99_ms: float
    #: What does not hold, in sentences.
    violations: tuple[str, ...]
    #: Operations without an answer, by reason; denials by reason.
    failures: dict[str, int]
    denials: dict[str, int]
    late_commits: int
    replays: int

    def as_json(self) -> str:
        """One line."""
        return json.dumps({name: getattr(self, name) for name in JSON_FIELDS})


def make_report(history: History, audit: Audit, requests: int, drive_s: float) -> Report:
    """Puts together what was asked, what was found, and how long it took."""
    return Report(
        ok=not audit.violations and history.granted > 0,
        requests=requests,
        operations=history.operations,
        granted=history.granted,
        denied=history.denied,
        expired_holds=audit.expired_holds,
        duplicates=len(audit.duplicates),
        lost=len(audit.lost),
        conservation="broken" if audit.conservation else "ok",
        ledger_rows=audit.ledger_rows,
        chain="broken" if audit.chain else "ok",
        operations_per_s=round(history.operations / drive_s),
        reserve_p50_ms=percentile_ms(history.reserve_s, MEDIAN),
        reserve_p99_ms=percentile_ms(history.reserve_s, TAIL),
        violations=audit.violations,
        failures=dict(history.failures.most_common()),
        denials=dict(history.reasons.most_common()),
        late_commits=history.late_commits,
        replays=history.replays,
    )


def percentile_ms(seconds: Sequence[float], share: float) -> float:
    """The smallest figure that at least this share of all does not exceed; 0 for none."""
    if not seconds:
        return 0.0
    ordered = sorted(seconds)
    return round(ordered[math.ceil(share * len(ordered)) - 1] * 1_000, 2)


def make_progress(console: Console) -> Progress:
    """Bars for the parts of a run."""
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
    )


def show_report(report: Report, console: Console) -> None:
    """The closing table, and below it whatever does not hold."""
    table = Table(title="What was done, and what it left behind", show_header=False)
    for name, value in _lines(report):
        table.add_row(name, value)
    console.print(table)
    for violation in report.violations[:VIOLATIONS_SHOWN_MAX]:
        console.print(f"[red]does not hold:[/red] {violation}", soft_wrap=True)
    hidden = len(report.violations) - VIOLATIONS_SHOWN_MAX
    if hidden > 0:
        console.print(f"[red]and {hidden} more[/red]")


def _lines(report: Report) -> list[tuple[str, str]]:
    return [
        ("requests", f"{report.requests:,}"),
        ("operations", f"{report.operations:,} ({report.operations_per_s:,} per second)"),
        ("granted", f"{report.granted:,}"),
        ("denied", f"{report.denied:,}{_counts(report.denials)}"),
        ("holds expired", f"{report.expired_holds:,}"),
        ("late commits, replays", f"{report.late_commits:,}, {report.replays:,}"),
        ("without an answer", f"{sum(report.failures.values()):,}{_counts(report.failures)}"),
        ("reserve p50, p99", f"{report.reserve_p50_ms} ms, {report.reserve_p99_ms} ms"),
        ("ledger rows", f"{report.ledger_rows:,}"),
        ("conservation", report.conservation),
        ("hash chain", report.chain),
        ("applied more than once", f"{report.duplicates:,}"),
        ("lost", f"{report.lost:,}"),
        ("every check holds", "[green]yes[/green]" if report.ok else "[red]no[/red]"),
    ]


def _counts(counts: dict[str, int]) -> str:
    if not counts:
        return ""
    return " (" + ", ".join(f"{name} {count:,}" for name, count in counts.items()) + ")"
