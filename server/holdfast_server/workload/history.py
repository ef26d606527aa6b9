"""What the service acknowledged, kept outside of it: the audit's other side."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from holdfast import Applied, Decision, HoldfastError, Outcome, ResourceExhausted, Unavailable


class Answer(Protocol):
    """What all results of operations share."""

    @property
    def applied(self) -> Applied:
        """Where the operation stands in the ledger."""
        ...


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An operation that was answered and wrote something. `key` is empty if the client made it."""

    method: str
    key: str
    transaction_id: str
    partition: int
    seq: int
    #: What it moved: granted, held, burned, given back or refunded, over all credit types.
    amount: int


@dataclass(slots=True)
class History:
    """Everything that was asked and answered in one run."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    #: Keys whose answer never came: each may have been applied once, or not at all.
    unanswered: set[str] = field(default_factory=set)
    #: Answers that break a promise, in words.
    broken_promises: list[str] = field(default_factory=list)
    operations: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    replays: int = 0
    late_commits: int = 0
    reserve_s: list[float] = field(default_factory=list)

    def kept(self, method: str, key: str, answer: Answer, amount: int) -> None:
        """An operation was written to the ledger, as part of the traffic or of what it needs."""
        applied = answer.applied
        one = Acknowledged(
            method, key, applied.transaction_id, applied.partition, applied.seq, amount
        )
        self.acknowledged.append(one)

    def answered(self, method: str, key: str, answer: Answer, amount: int) -> None:
        """An operation was answered for the first time."""
        self.operations += 1
        if answer.applied.seq:
            self.kept(method, key, answer, amount)

    def answered_again(self, first: Answer, again: Answer) -> None:
        """The same request was sent once more after its answer: it must get the same answer."""
        self.operations += 1
        self.replays += 1
        same = first.applied.transaction_id == again.applied.transaction_id
        if not same or not again.applied.replayed:
            self.broken_promises.append(f"{first.applied} was answered again as {again.applied}")

    def decided(self, decision: Decision) -> None:
        """A question that may be denied was answered."""
        self.outcomes[decision.outcome] += 1
        if decision.reason:
            self.reasons[decision.reason] += 1

    def failed(self, key: str, error: HoldfastError) -> None:
        """An operation was not answered. Only a service that is away or overloaded may do that."""
        self.failures[error.reason or type(error).__name__] += 1
        if not isinstance(error, Unavailable | ResourceExhausted):
            self.broken_promises.append(f"{key} was refused: {error}")
        if error.result_unknown:
            self.unanswered.add(key)

    @property
    def granted(self) -> int:
        """Requests that were allowed to work."""
        return sum(
            count for outcome, count in self.outcomes.items() if outcome is not Outcome.DENIED
        )

    @property
    def denied(self) -> int:
        """Requests that were not."""
        return self.outcomes[Outcome.DENIED]
