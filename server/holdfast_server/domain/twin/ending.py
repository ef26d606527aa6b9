"""Commit, Release and Extend: how a hold ends, or goes on."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.bounds import HOLD_AGE_MS_MAX
from holdfast_server.domain.entry import EntryKind
from holdfast_server.domain.twin import due, limits, settle
from holdfast_server.domain.twin.journal import Journal
from holdfast_server.domain.twin.memory import Ended, Facts, LateHold, Memory
from holdfast_server.domain.twin.state import HoldLine, HoldRecord, Tree
from holdfast_server.errors import HoldfastError, Reason


def commit(memory: Memory, tree: Tree, operation: op.Commit, facts: Facts) -> rp.Reply:
    """See `op.Commit`."""
    hold = tree.holds.get(operation.hold)
    if hold is None:
        return _commit_late(memory, tree, operation, facts)
    amounts = _actual_amounts(hold.lines, operation)
    held = [line.held for line in hold.lines]
    if operation.overage is op.Overage.REJECT and any(
        a > h for a, h in zip(amounts, held, strict=True)
    ):
        return _overage_rejected(hold.mode, rp.HoldState.OPEN, hold.expires_ms)
    expires_ms = _captured_until(hold, operation, facts.now_ms)
    plans = [
        settle.plan_line(
            tree, hold.account, line, amount, not operation.final, hold.mode, operation.overage
        )
        for line, amount in zip(hold.lines, amounts, strict=True)
    ]
    path, names = tree.path(hold.account), [line.credit_type for line in hold.lines]
    before = limits.available_before(path, names)
    captured = sum(line.captured for line in hold.lines)
    nothing = operation.final and captured == 0 and sum(amounts) == 0
    kind = EntryKind.RELEASE if nothing else EntryKind.COMMIT
    journal = Journal()
    lines = [
        settle.settle_line(journal, tree, hold.account, plan, kind, facts.now_ms) for plan in plans
    ]
    warnings = _count_settlement(tree, hold, lines, nothing, facts.now_ms)
    warnings += limits.passed_balances(path, before, names)
    hold.expires_ms = expires_ms
    if operation.final:
        due.close_hold(journal, tree, hold, kind)
    elif not journal.postings:
        journal.posting(kind, hold.account, hold.lines[0].credit_type)
    applied = memory.write(tree, journal)
    state = rp.HoldState.OPEN
    if operation.final:
        state = rp.HoldState.RELEASED if nothing else rp.HoldState.COMMITTED
        _end(memory, tree, hold.hold, state, hold.lines, applied)
    decision = rp.Decision(rp.Outcome.GRANTED, hold.mode)
    expires = 0 if operation.final else expires_ms
    return rp.CommitReply(decision, applied, state, tuple(lines), False, expires, tuple(warnings))


def _count_settlement(
    tree: Tree,
    hold: HoldRecord,
    lines: list[rp.SettledLine],
    nothing: bool,
    now_ms: int,
) -> list[rp.Warning]:
    """Gives back what was not used, counts what was used above the hold."""
    path, warnings = tree.path(hold.account), list[rp.Warning]()
    limits.settle_counters(path, now_ms)
    for line in lines:
        unused = line.returned
        limits.give_back(tree.accounts, hold.counts, line.credit_type, unused, now_ms)
        if line.overage:
            warnings += limits.count_use(
                path, hold.feature, line.credit_type, line.overage, now_ms
            )[1]
    if nothing:
        limits.give_back(tree.accounts, hold.counts, "", 1, now_ms)
    return warnings


def recover(
    memory: Memory, tree: Tree, operation: op.Commit, lost: LateHold, facts: Facts
) -> rp.Reply:
    """Commits a hold that was lost with the store: as if it had expired, by what its token says."""
    name = tree.tenant, operation.hold
    if operation.hold in tree.holds or name in memory.late or name in memory.ended:
        return commit(memory, tree, operation, facts)
    memory.known(tree, lost.account)
    memory.late[name], memory.hold_account[name] = lost, lost.account
    return _commit_late(memory, tree, operation, facts, EntryKind.RECOVERED_COMMIT)


def _commit_late(
    memory: Memory,
    tree: Tree,
    operation: op.Commit,
    facts: Facts,
    kind: EntryKind = EntryKind.LATE_COMMIT,
) -> rp.Reply:
    late = memory.late.get((tree.tenant, operation.hold))
    if late is None or late.until_ms <= facts.now_ms:
        raise _gone(memory, tree, operation.hold, facts.now_ms, committing=True)
    amounts = _actual_late(late, operation)
    if operation.overage is op.Overage.REJECT and any(
        amount > line.requested for amount, line in zip(amounts, late.lines, strict=True)
    ):
        return _overage_rejected(late.mode, rp.HoldState.EXPIRED, 0)
    overflows = [
        settle.plan_overflow(
            tree,
            late.account,
            line.credit_type,
            amount,
            late.mode,
            operation.overage,
            line.requested,
        )
        for line, amount in zip(late.lines, amounts, strict=True)
    ]
    path, names = tree.path(late.account), [line.credit_type for line in late.lines]
    before = limits.available_before(path, names)
    journal = Journal()
    settled = []
    for line, amount, overflow in zip(late.lines, amounts, overflows, strict=True):
        plan = settle.LinePlan(HoldLine(line.credit_type, 0, []), [], [], [], overflow)
        over = max(0, amount - line.requested)
        receipt = settle.settle_line(journal, tree, late.account, plan, kind, facts.now_ms)
        settled.append(_late_receipt(receipt, over))
        line.requested = max(0, line.requested - amount)
        line.captured += amount
    warnings = _count_late(tree, late, settled, facts.now_ms)
    warnings += limits.passed_balances(path, before, names)
    if not journal.postings:
        journal.posting(kind, late.account, late.lines[0].credit_type)
    applied = memory.write(tree, journal)
    state = rp.HoldState.EXPIRED
    if operation.final:
        state = rp.HoldState.COMMITTED if late.counted else rp.HoldState.RELEASED
        del memory.late[tree.tenant, operation.hold]
        _end(memory, tree, operation.hold, state, late.lines, applied)
    decision = rp.Decision(rp.Outcome.GRANTED, late.mode)
    return rp.CommitReply(decision, applied, state, tuple(settled), True, 0, tuple(warnings))


def _count_late(
    tree: Tree, late: LateHold, lines: list[rp.SettledLine], now_ms: int
) -> list[rp.Warning]:
    path, warnings = tree.path(late.account), list[rp.Warning]()
    limits.settle_counters(path, now_ms)
    if not late.counted and any(line.burned for line in lines):
        late.counted = True
        warnings += limits.count_use(path, late.feature, "", 1, now_ms)[1]
    for line in lines:
        if line.burned:
            warnings += limits.count_use(path, late.feature, line.credit_type, line.burned, now_ms)[
                1
            ]
    return warnings


def release(memory: Memory, tree: Tree, operation: op.Release, facts: Facts) -> rp.Reply:
    """See `op.Release`."""
    hold = tree.holds.get(operation.hold)
    if hold is None:
        raise _gone(memory, tree, operation.hold, facts.now_ms, committing=False)
    plans = [
        settle.plan_line(tree, hold.account, line, 0, False, hold.mode, op.Overage.CHARGE)
        for line in hold.lines
    ]
    journal, kind = Journal(), EntryKind.RELEASE
    lines = [
        settle.settle_line(journal, tree, hold.account, plan, kind, facts.now_ms) for plan in plans
    ]
    untouched = not any(line.captured for line in hold.lines)
    _count_settlement(tree, hold, lines, untouched, facts.now_ms)
    due.close_hold(journal, tree, hold, kind)
    applied = memory.write(tree, journal)
    _end(memory, tree, hold.hold, rp.HoldState.RELEASED, hold.lines, applied)
    return rp.ReleaseReply(rp.Decision(rp.Outcome.GRANTED, hold.mode), applied, tuple(lines))


def extend(memory: Memory, tree: Tree, operation: op.Extend, facts: Facts) -> rp.Reply:
    """See `op.Extend`."""
    hold = tree.holds.get(operation.hold)
    if hold is None:
        raise _gone(memory, tree, operation.hold, facts.now_ms, committing=False)
    hold.expires_ms = _extended(hold, operation.ttl_ms, facts.now_ms)
    journal = Journal()
    journal.posting(EntryKind.EXTEND, hold.account, hold.lines[0].credit_type)
    applied = memory.write(tree, journal)
    return rp.ExtendReply(rp.Decision(rp.Outcome.GRANTED, hold.mode), applied, hold.expires_ms)


def _end(
    memory: Memory,
    tree: Tree,
    hold: str,
    state: rp.HoldState,
    lines: list[HoldLine],
    applied: rp.Applied,
) -> None:
    committed = ",".join(f"{line.credit_type}={line.captured}" for line in lines)
    memory.ended[tree.tenant, hold] = Ended(state, committed, applied.transaction_id)


def _gone(memory: Memory, tree: Tree, hold: str, now_ms: int, *, committing: bool) -> HoldfastError:
    """Why a hold cannot be settled or extended."""
    ended = memory.ended.get((tree.tenant, hold))
    late = memory.late.get((tree.tenant, hold))
    if ended is None and late is not None and late.until_ms > now_ms:
        return HoldfastError(Reason.HOLD_EXPIRED, "the hold expired and gave its credits back")
    if ended is None:
        return HoldfastError(Reason.HOLD_NOT_FOUND, "no such hold")
    if committing and ended.state is rp.HoldState.COMMITTED:
        return HoldfastError(
            Reason.HOLD_ALREADY_COMMITTED,
            "the hold was committed",
            committed=ended.committed,
            transaction_id=ended.transaction_id,
        )
    return HoldfastError(
        Reason.HOLD_ALREADY_SETTLED, "the hold was settled", state=ended.state.name
    )


def _actual_amounts(lines: list[HoldLine], operation: op.Commit) -> list[int]:
    """The actual amount of each line of the hold; a final Commit burns as held what it does not
    name.
    """
    named = _named_amounts([line.credit_type for line in lines], operation.lines)
    return [
        _actual(line.held, named.get(line.credit_type, "unnamed"), operation.final)
        for line in lines
    ]


def _actual_late(late: LateHold, operation: op.Commit) -> list[int]:
    named = _named_amounts([line.credit_type for line in late.lines], operation.lines)
    return [
        _actual(line.requested, named.get(line.credit_type, "unnamed"), operation.final)
        for line in late.lines
    ]


def _actual(held: int, named: int | str | None, final: bool) -> int:
    if isinstance(named, int):
        return named
    return held if final or named is None else 0


def _named_amounts(known: list[str], lines: Sequence[op.CommitLine]) -> dict[str, int | None]:
    for line in lines:
        if line.credit_type not in known:
            raise HoldfastError(
                Reason.LINE_UNKNOWN,
                "the hold has no such credit type",
                credit_type=line.credit_type,
            )
    return {line.credit_type: line.amount for line in lines}


def _captured_until(hold: HoldRecord, operation: op.Commit, now_ms: int) -> int:
    if operation.final or not operation.ttl_ms:
        return hold.expires_ms
    return _extended(hold, operation.ttl_ms, now_ms)


def _extended(hold: HoldRecord, ttl_ms: int, now_ms: int) -> int:
    """The new end of a hold, within its maximum age."""
    latest = hold.placed_ms + HOLD_AGE_MS_MAX
    if now_ms >= latest:
        raise HoldfastError(
            Reason.HOLD_MAXIMUM_AGE,
            "the hold cannot live longer; place a new one",
            maximum_age_ms=HOLD_AGE_MS_MAX,
        )
    return min(now_ms + ttl_ms, latest)


def _overage_rejected(mode: op.Mode, state: rp.HoldState, expires_ms: int) -> rp.Reply:
    decision = rp.Decision(rp.Outcome.DENIED, mode, Reason.OVERAGE_REJECTED)
    return rp.CommitReply(decision, rp.Applied(), state, (), False, expires_ms)


def _late_receipt(receipt: rp.SettledLine, over: int) -> rp.SettledLine:
    """A late Commit draws everything anew, so its overage is what passes the hold, not what was
    drawn.
    """
    return rp.SettledLine(
        receipt.credit_type,
        receipt.burned,
        0,
        over,
        receipt.debt,
        receipt.unenforced,
        0,
        receipt.available_after,
        receipt.grants,
    )
