"""The state of a tree as JSON that is the same for the same state, and back.

Every value has its place in a list: what is written here says all that there is to say. Nothing
else is relied on, so a change of any of it is a change of `snapshot.SNAPSHOT_LAYOUT`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast_server.domain.operation import (
    AccountStatus,
    AccountTerms,
    Limit,
    LimitEnforcement,
    LimitUnit,
    LimitWindow,
    Mode,
)
from holdfast_server.domain.rebuild.state import OffsetsAt, Rebuilt
from holdfast_server.domain.reply import BUCKETS
from holdfast_server.domain.twin.memory import LateHold
from holdfast_server.domain.twin.state import (
    DEBT,
    UNENFORCED,
    AccountState,
    Count,
    Counter,
    Credit,
    Draw,
    Grant,
    HoldLine,
    HoldRecord,
    Tree,
)


def state_of(rebuilt: Rebuilt) -> list[Any]:
    """Everything but the place up to which it was told.

    An expired hold that cannot be committed any more is left out. Times never fall within a tree,
    so whatever comes later comes when that hold's time is over: no entry will ever name it.
    """
    tree = rebuilt.tree
    late = (item for item in rebuilt.late.items() if item[1].until_ms > rebuilt.event_ms)
    return [
        [_account(state) for state in tree.accounts.values()],
        [_hold(hold) for hold in tree.holds.values()],
        [[hold, *_late(each)] for hold, each in late],
    ]


def rebuilt_of(tenant: str, root: str, state: Sequence[Any], offsets_at: OffsetsAt) -> Rebuilt:
    """What `state_of` was given. Raises ValueError and its like for what it never answered."""
    accounts, holds, late = state
    tree = Tree(tenant, root)
    tree.accounts = {each.account: each for each in map(_account_of, accounts)}
    tree.holds = {each.hold: each for each in map(_hold_of, holds)}
    return Rebuilt(tree, offsets_at, {hold: _late_of(values) for hold, *values in late})


def _account(state: AccountState) -> list[Any]:
    return [
        state.account,
        _terms(state.terms),
        state.created_ms,
        state.offsets,
        state.version,
        [[name, *_credit(credit)] for name, credit in state.credits.items()],
        [[each.number, _pairs(each.used), each.level, each.level_ms] for each in state.counters],
        state.open_holds,
        state.last_refund_seq,
        state.height,
    ]


def _account_of(values: Sequence[Any]) -> AccountState:
    name, told, created_ms, offsets, version, credits, counters, *figures = values
    terms = _terms_of(told)
    pairs = zip(terms.limits, counters, strict=True)
    return AccountState(
        name,
        terms.parent,
        terms,
        created_ms,
        tuple((from_ms, offset_ms) for from_ms, offset_ms in offsets),
        version,
        {each: _credit_of(credit) for each, *credit in credits},
        [Counter(limit, number, dict(used), *rest) for limit, (number, used, *rest) in pairs],
        *figures,
    )


def _terms(terms: AccountTerms) -> list[Any]:
    return [
        terms.parent,
        terms.display_name,
        terms.status,
        _pairs(terms.overdraft_limits),
        [_limit(limit) for limit in terms.limits],
        terms.zone,
        _pairs(terms.labels),
    ]


def _terms_of(values: Sequence[Any]) -> AccountTerms:
    parent, display_name, status, overdraft, limits, zone, labels = values
    return AccountTerms(
        parent,
        display_name,
        AccountStatus(status),
        dict(overdraft),
        tuple(map(_limit_of, limits)),
        zone,
        dict(labels),
    )


def _limit(limit: Limit) -> list[Any]:
    return [
        limit.limit_id,
        limit.unit,
        limit.window,
        limit.maximum,
        limit.enforcement,
        limit.window_ms,
        limit.credit_type,
        limit.feature,
        limit.warn_percents,
    ]


def _limit_of(values: Sequence[Any]) -> Limit:
    limit_id, unit, window, maximum, enforcement, window_ms, *rest = values
    credit_type, feature, warn_percents = rest
    return Limit(
        limit_id,
        LimitUnit(unit),
        LimitWindow(window),
        maximum,
        LimitEnforcement(enforcement),
        window_ms,
        credit_type,
        feature,
        tuple(warn_percents),
    )


def _credit(credit: Credit) -> list[Any]:
    return [
        credit.version,
        [credit.buckets[name] for name in BUCKETS],
        [_grant(grant) for grant in credit.grants],
        [_grant(grant) for grant in credit.pending],
        credit.topped,
        credit.pledged[DEBT],
        credit.pledged[UNENFORCED],
    ]


def _credit_of(values: Sequence[Any]) -> Credit:
    version, buckets, grants, pending, topped, debt, unenforced = values
    return Credit(
        version,
        dict(zip(BUCKETS, buckets, strict=True)),
        [*map(_grant_of, grants)],
        [*map(_grant_of, pending)],
        topped,
        {DEBT: debt, UNENFORCED: unenforced},
    )


def _grant(grant: Grant) -> list[Any]:
    return [
        grant.grant_id,
        grant.remaining,
        grant.priority,
        grant.expires_ms,
        grant.paid,
        grant.effective_ms,
        int(grant.repay),
        grant.held,
        int(grant.revoked),
    ]


def _grant_of(values: Sequence[Any]) -> Grant:
    grant_id, remaining, priority, expires_ms, paid, effective_ms, *rest = values
    repay, held, revoked = rest
    terms = grant_id, remaining, priority, expires_ms, paid, effective_ms
    return Grant(*terms, bool(repay), held, bool(revoked))


def _hold(hold: HoldRecord) -> list[Any]:
    return [
        hold.hold,
        hold.account,
        hold.feature,
        hold.mode,
        hold.placed_ms,
        hold.expires_ms,
        [_line(line) for line in hold.lines],
        [
            [each.account, each.counter, each.window, each.amount, each.credit_type]
            for each in hold.counts
        ],
    ]


def _hold_of(values: Sequence[Any]) -> HoldRecord:
    hold, account, feature, mode, placed_ms, expires_ms, lines, counts = values
    return HoldRecord(
        hold,
        account,
        feature,
        Mode(mode),
        placed_ms,
        expires_ms,
        [*map(_line_of, lines)],
        [Count(*each) for each in counts],
    )


def _line(line: HoldLine) -> list[Any]:
    draws = [[draw.account, draw.source, draw.amount] for draw in line.draws]
    return [line.credit_type, line.requested, draws, line.captured]


def _line_of(values: Sequence[Any]) -> HoldLine:
    credit_type, requested, draws, captured = values
    return HoldLine(credit_type, requested, [Draw(*draw) for draw in draws], captured)


def _late(late: LateHold) -> list[Any]:
    lines = [_line(line) for line in late.lines]
    return [late.account, late.feature, late.mode, lines, late.until_ms, int(late.counted)]


def _late_of(values: Sequence[Any]) -> LateHold:
    account, feature, mode, lines, until_ms, counted = values
    return LateHold(account, feature, Mode(mode), [*map(_line_of, lines)], until_ms, bool(counted))


def _pairs(values: Mapping[Any, Any]) -> list[list[Any]]:
    """In their order, which may matter."""
    return [list(pair) for pair in values.items()]
