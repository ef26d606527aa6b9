"""Every attempt of every caller, as it looked from outside: the checkers' evidence."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TextIO

from holdfast_server.workload.history import Acknowledged, History


class Status(StrEnum):
    """How an attempt ended: answered; surely not applied; nobody knows."""

    OK = "ok"
    FAIL = "fail"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one operation. Times are seconds of one monotone clock."""

    op: str
    key: str
    #: What was asked, hashed: the same for every attempt with this key.
    fingerprint: str
    #: Who asked, and over which connection.
    process: str
    t_invoke: float
    t_return: float
    status: Status
    #: The outcome of an answer, or the reason of a failure.
    outcome: str = ""
    transaction: str = ""
    partition: int = 0
    seq: int = 0
    epoch: int = 0
    #: The durability that the answer claims.
    achieved: str = ""
    replayed: bool = False
    #: What was answered, hashed, without what may differ between two answers to one question.
    answer: str = ""
    #: What it moved, as `Acknowledged` counts it.
    amount: int = 0
    #: The hold that it placed or settled, hashed.
    hold: str = ""
    #: Whether it settled the hold for good.
    final: bool = False
    #: The mode in which it was decided.
    mode: str = ""

    @property
    def decided(self) -> bool:
        """Whether it was answered, and not just let through."""
        return self.status is Status.OK and self.outcome != "BYPASSED"

    def placed(self) -> Acknowledged:
        """Where it stands in the ledger."""
        return Acknowledged(
            self.op, self.key, self.transaction, self.partition, self.seq, self.amount
        )


@dataclass(slots=True)
class Attempts:
    """Attempts as they come, also written down as one JSON object per line."""

    file: TextIO
    made: list[Attempt] = field(default_factory=list)

    def add(self, attempt: Attempt) -> None:
        """Keeps an attempt."""
        self.made.append(attempt)
        self.file.write(json.dumps(asdict(attempt), separators=(",", ":")) + "\n")


def short_hash(*parts: object) -> str:
    """Tells two things apart, in 16 digits."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def by_key(attempts: Iterable[Attempt]) -> dict[tuple[str, str], list[Attempt]]:
    """The attempts at each operation, in the order in which they were given."""
    found = defaultdict[tuple[str, str], list[Attempt]](list)
    for attempt in attempts:
        found[attempt.op, attempt.key].append(attempt)
    return found


def history_of(attempts: Sequence[Attempt], broken_promises: list[str]) -> History:
    """The same for the audit: what was acknowledged, and what nobody knows."""
    history = History(broken_promises=broken_promises, operations=len(attempts))
    for (_, key), tries in by_key(attempts).items():
        written = [each for each in tries if each.status is Status.OK and each.seq]
        if written:
            history.acknowledged.append(written[0].placed())
        elif not all(each.decided or each.status is Status.FAIL for each in tries):
            # What was let through is booked later; one that was in doubt may also be applied.
            history.unanswered.add(key)
    return history
