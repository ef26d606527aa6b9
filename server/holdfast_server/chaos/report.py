"""What a chaos run ends with."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from holdfast_server.chaos.history import Attempt, Status
from holdfast_server.chaos.plan import Kind
from holdfast_server.chaos.trial import Verdict


@dataclass(frozen=True)
class Options:
    """How long to break things, and which."""

    seed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """One run. It holds when nothing is lost, duplicated or violated."""

    #: Operations that were answered and wrote something.
    acked: int
    lost: int
    duplicated: int
    violations: list[str]
    #: How often each kind of fault was done.
    faults: Mapping[str, int]
    seed: int
    commit: str
    seconds: float
    attempts: Mapping[str, int]
    #: Answers and failures by outcome or reason.
    outcomes: Mapping[str, int]
    ledger_rows: int
    #: Seconds from healing until every call had ended.
    recovered_s: float

    @property
    def holds(self) -> bool:
        """Whether everything does, and something was done and broken at all."""
        is_sound = not (self.lost or self.duplicated or self.violations)
        return is_sound and self.acked > 0 and sum(self.faults.values()) > 0


def make_report(
    options: Options, attempts: Sequence[Attempt], faults: Mapping[Kind, int], verdict: Verdict
) -> Report:
    """Puts together what was tried, what was broken and what was found."""
    acked = {(each.op, each.key) for each in attempts if each.status is Status.OK and each.seq}
    audit = verdict.audit
    return Report(
        acked=len(acked),
        lost=len(audit.lost) if audit else 0,
        duplicated=len(audit.duplicates) if audit else 0,
        violations=list(verdict.violations),
        faults={kind.value: count for kind, count in sorted(faults.items())},
        seed=options.seed,
        commit=commit(),
        seconds=options.seconds,
        attempts=dict(Counter(each.status.value for each in attempts)),
        outcomes=dict(Counter(each.outcome or "UNREACHABLE" for each in attempts).most_common()),
        ledger_rows=audit.ledger_rows if audit else 0,
        recovered_s=round(verdict.recovered_s, 2),
    )


def commit() -> str:
    """Which code ran: the commit of the checkout, marked when it was changed, else the version."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return version("holdfast")
    return found.stdout.strip() or version("holdfast")
