"""Reserve and Burn: may this account spend so much, and from which grants?"""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast_server.domain.entry import EntryKind
from holdfast_server.domain.operation import AccountStatus, Burn, Fit, Line, Mode, Reserve
from holdfast_server.domain.reply import (
    Decision,
    LimitUse,
    Outcome,
    Shortfall,
    Warning,
)
from holdfast_server.domain.twin import limits, windows
from holdfast_server.domain.twin.draw import (
    apply_draws,
    check_room,
    draw_from_grants,
    draw_from_overdraft,
    spendable,
)
from holdfast_server.domain.twin.journal import Journal
from holdfast_server.domain.twin.state import (
    UNENFORCED,
    AccountState,
    Count,
    Counter,
    Draw,
    HoldLine,
    Tree,
)
from holdfast_server.errors import Reason


@dataclass(slots=True)
class Verdict:
    """What enforcement says: an amount per line, or a reason against."""

    amounts: list[int]
    reason: Reason = Reason.UNSPECIFIED
    shortfalls: list[Shortfall] = field(default_factory=list)
    limit: LimitUse | None = None
    retry_after_ms: int = 0


@dataclass(slots=True)
class Placed:
    """What was drawn, counted and warned about."""

    decision: Decision
    lines: list[HoldLine]
    counts: list[Count]
    warnings: list[Warning]


def place(
    journal: Journal,
    tree: Tree,
    operation: Reserve | Burn,
    mode: Mode,
    kind: EntryKind,
    now_ms: int,
) -> Placed | Decision:
    """Judges, then draws into `held` (kind HOLD) or `burned` (kind BURN); answers the denial if
    there is one.
    """
    path = tree.path(operation.account)
    limits.settle_counters(path, now_ms)
    verdict = judge(path, operation, mode, now_ms)
    decision = decide(verdict, operation.lines, mode)
    if decision.outcome is Outcome.DENIED:
        return decision
    if verdict.reason is not Reason.UNSPECIFIED:
        verdict.amounts = [line.amount for line in operation.lines]
    lines = _plan(path, operation.lines, verdict.amounts)
    names = [line.credit_type for line in lines]
    before = limits.available_before(path, names)
    target = "held" if kind is EntryKind.HOLD else "burned"
    for line in lines:
        apply_draws(journal, kind, tree.accounts, line.credit_type, line.draws, target)
    counts, warnings = _count(path, operation.feature, lines, now_ms)
    warnings.extend(limits.passed_balances(path, before, names))
    return Placed(decision, lines, counts, warnings)


def judge(path: list[AccountState], operation: Reserve | Burn, mode: Mode, now_ms: int) -> Verdict:
    """Status, then limits, then credits: the order of precedence of the reasons."""
    for status, reason in (
        (AccountStatus.CLOSED, Reason.ACCOUNT_CLOSED),
        (AccountStatus.FROZEN, Reason.ACCOUNT_FROZEN),
    ):
        if any(state.status is status for state in path):
            return Verdict([], reason)
    verdict = _judge_limits(path, operation, mode, now_ms)
    return (
        verdict
        if verdict.reason is not Reason.UNSPECIFIED
        else _judge_credits(path, operation, mode, verdict.amounts)
    )


def _judge_limits(
    path: list[AccountState], operation: Reserve | Burn, mode: Mode, now_ms: int
) -> Verdict:
    least = [(line.credit_type, _least(line, operation.fit, mode)) for line in operation.lines]
    found = [
        _Exceeded(state, counter, windows.retry_after_ms(counter, state.offsets, now_ms, amount))
        for credit_type, amount in [("", 1), *least]
        for state, counter in limits.exceeded(path, operation.feature, credit_type, amount)
    ]
    if found:
        return _limited(max(found, key=_Exceeded.wait_ms), now_ms)
    return Verdict(
        [
            limits.remaining(path, operation.feature, line.credit_type, line.amount)
            for line in operation.lines
        ]
    )


@dataclass(slots=True)
class _Exceeded:
    """A hard limit without room, and after how long it has some; 0 when it never does."""

    state: AccountState
    counter: Counter
    retry_after_ms: int

    def wait_ms(self) -> float:
        """How long it denies."""
        return self.retry_after_ms or float("inf")


def _limited(found: _Exceeded, now_ms: int) -> Verdict:
    """The limit that denies longest; of equals the first."""
    use = limits.use_of(found.state, found.counter, now_ms)
    return Verdict([], Reason.LIMIT_EXCEEDED, limit=use, retry_after_ms=found.retry_after_ms)


def _judge_credits(
    path: list[AccountState], operation: Reserve | Burn, mode: Mode, amounts: list[int]
) -> Verdict:
    held, shortfalls = [], []
    for line, amount in zip(operation.lines, amounts, strict=True):
        there = spendable(path, line.credit_type)
        least = _least(line, operation.fit, mode)
        if there < least:
            shortfalls.append(Shortfall(line.credit_type, there, least - there))
        held.append(min(amount, there))
    reason = Reason.INSUFFICIENT_CREDITS if shortfalls else Reason.UNSPECIFIED
    return Verdict(held, reason, shortfalls)


def _least(line: Line, fit: Fit, mode: Mode) -> int:
    """The least that enforcement would have to grant. Shadow mode lets all pass that is asked."""
    return line.minimum if fit is Fit.UP_TO and mode is Mode.ENFORCE else line.amount


def decide(verdict: Verdict, lines: tuple[Line, ...], mode: Mode) -> Decision:
    """What the verdict means in a mode."""
    if verdict.reason is not Reason.UNSPECIFIED:
        outcome = Outcome.DENIED if mode is Mode.ENFORCE else Outcome.GRANTED_SHADOW
        shortfalls = tuple(verdict.shortfalls)
        return Decision(
            outcome, mode, verdict.reason, shortfalls, verdict.limit, verdict.retry_after_ms
        )
    asked = [line.amount for line in lines]
    return Decision(Outcome.GRANTED if verdict.amounts == asked else Outcome.GRANTED_PARTIAL, mode)


def _plan(path: list[AccountState], lines: tuple[Line, ...], amounts: list[int]) -> list[HoldLine]:
    """Draws from grants, then overdraft; what is missing is left only by shadow mode, as
    unenforced.
    """
    planned = []
    for line, amount in zip(lines, amounts, strict=True):
        draws, missing = draw_from_grants(path, line.credit_type, amount)
        overdrawn, missing = draw_from_overdraft(path, line.credit_type, missing)
        draws += overdrawn
        if missing > 0:
            draws.append(Draw(path[0].account, UNENFORCED, missing))
        check_room(path, line.credit_type, draws)
        planned.append(HoldLine(line.credit_type, line.amount, draws))
    return planned


def _count(
    path: list[AccountState], feature: str, lines: list[HoldLine], now_ms: int
) -> tuple[list[Count], list[Warning]]:
    counts, warnings = limits.count_use(path, feature, "", 1, now_ms)
    for line in lines:
        more_counts, more_warnings = limits.count_use(
            path, feature, line.credit_type, line.held, now_ms
        )
        counts += more_counts
        warnings += more_warnings
    return counts, warnings
