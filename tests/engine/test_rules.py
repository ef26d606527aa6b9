"""Rules that random histories rarely reach, each on the engine alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.bounds import AMOUNT_MAX, GRANTS_MAX, TREE_LEVELS_MAX
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.zones import offsets_of
from holdfast_server.errors import HoldfastError, Reason
from tests.support.pair import Real

BURST = op.Limit(
    "burst", op.LimitUnit.AMOUNT, op.LimitWindow.BURST, 100, op.LimitEnforcement.HARD, 60_000, "ai"
)


#: Lines of a hold with more draws than fit at once.
LINES = 3


def reserve(key: str, amount: int, **more: Any) -> op.Reserve:
    return op.Reserve("t", "a", (op.Line("ai", amount),), 600_000, key, **more)


async def start(real: Real, credits: int, **terms: Any) -> None:
    """An account with credits."""
    await real.decide([op.CreateAccount("t", "a", op.AccountTerms(**terms), "create")])
    given = op.GrantTerms("ai", credits, op.GrantSource.PURCHASE)
    await real.decide([op.Grant("t", "a", given, "grant")])


async def buckets(real: Real) -> rp.Buckets:
    (balance,) = await real.decide([op.GetBalance("t", "a")])
    figures: rp.Buckets = balance.credits[0].buckets
    return figures


async def test_releasing_old_holds_does_not_refill_a_burst_bucket(real: Real) -> None:
    """What has drained since it was counted cannot be given back a second time."""
    await start(real, 10_000, limits=(BURST,))
    holds = []
    for turn in range(4):
        (held,) = await real.decide([reserve(f"r{turn}", 100)])
        holds.append(held.hold)
        real.clock.now_ms += 60_000
    real.clock.now_ms -= 60_000
    for turn, hold in enumerate(holds[:3]):
        await real.decide([op.Release("t", hold, f"release-{turn}")])
        (answer,) = await real.decide([reserve(f"again-{turn}", 100)])
        assert answer.decision.reason is Reason.LIMIT_EXCEEDED
    await real.decide([op.Release("t", holds[3], "release-last")])
    (answer,) = await real.decide([reserve("now", 100)])
    assert answer.decision.outcome is rp.Outcome.GRANTED


async def test_1500_holds_that_expire_at_once_do_not_count(real: Real) -> None:
    """I14 for many: none of them is held, settled in time, or extended."""
    await start(real, 1_500)
    answers = await real.decide(
        [op.Reserve("t", "a", (op.Line("ai", 1),), 1_000, f"r{n}") for n in range(1_500)]
    )
    real.clock.now_ms += 1_000
    (burned,) = await real.decide([op.Burn("t", "a", (op.Line("ai", 1_500),), "all")])
    (late,) = await real.decide([op.Commit("t", answers[-1].hold, "late")])
    (gone,) = await real.decide([op.Extend("t", answers[-2].hold, 60_000, "extend")])
    assert burned.decision.outcome is rp.Outcome.GRANTED
    assert late.late
    assert gone.reason is Reason.HOLD_EXPIRED


async def test_more_than_one_call_may_end_is_not_decided_upon(real: Real) -> None:
    """Nothing is decided, and nothing is remembered, until all that is due has ended."""
    await start(real, 2_500)
    for first in range(0, 2_500, 500):
        names = [f"r{n}" for n in range(first, first + 500)]
        await real.decide(
            [op.Reserve("t", "a", (op.Line("ai", 1),), 1_000, name) for name in names]
        )
    real.clock.now_ms += 1_000
    burn = op.Burn("t", "a", (op.Line("ai", 2_500),), "all")
    (refused,) = await real.decide([burn])
    (granted,) = await real.decide([burn])
    assert isinstance(refused, HoldfastError)
    assert refused.reason is Reason.OVERLOADED
    assert granted.decision.outcome is rp.Outcome.GRANTED
    assert not granted.applied.replayed


@pytest.mark.parametrize("amount", [100, 40])
async def test_shadow_does_not_give_less_to_those_who_take_what_they_get(
    real: Real, amount: int
) -> None:
    await start(real, 50)
    real.mode.now = Mode.SHADOW
    (held,) = await real.decide([reserve("r", amount, fit=op.Fit.UP_TO)])
    expected = rp.Outcome.GRANTED if amount <= 50 else rp.Outcome.GRANTED_SHADOW
    assert held.decision.outcome is expected
    assert held.lines[0].held == amount
    assert (await buckets(real)).unenforced == max(0, amount - 50)


async def test_a_grant_may_be_as_large_as_the_debt_that_it_repays(real: Real) -> None:
    """A commit beyond all measure is booked, and can be paid for."""
    await start(real, 1)
    (held,) = await real.decide([reserve("r", 1)])
    lines = (op.CommitLine("ai", AMOUNT_MAX - 10),)
    await real.decide([op.Commit("t", held.hold, "c", lines)])
    given = op.GrantTerms("ai", AMOUNT_MAX - 11, op.GrantSource.PURCHASE)
    (granted,) = await real.decide([op.Grant("t", "a", given, "repay")])
    assert granted.debt_repaid == AMOUNT_MAX - 11
    assert (await buckets(real)).debt == 0


async def test_what_is_to_come_cannot_count_on_the_debt_of_today(real: Real) -> None:
    """That may be repaid by then, and the grant would have no room."""
    await start(real, 1)
    (held,) = await real.decide([reserve("r", 1)])
    await real.decide([op.Commit("t", held.hold, "c", (op.CommitLine("ai", AMOUNT_MAX - 10),))])
    later_ms = real.clock.now_ms + 1_000
    given = op.GrantTerms("ai", 11, op.GrantSource.PURCHASE, effective_at_ms=later_ms)
    (refused,) = await real.decide([op.Grant("t", "a", given, "later")])
    assert refused.reason is Reason.BALANCE_LIMIT_EXCEEDED


async def test_a_late_commit_counts_as_a_request(real: Real) -> None:
    """The hold's expiry gave its request back; what is burned all the same counts again, once."""
    two = op.Limit(
        "two", op.LimitUnit.REQUESTS, op.LimitWindow.CALENDAR_DAY, 2, op.LimitEnforcement.HARD
    )
    await start(real, 100, limits=(two,))
    for turn in range(2):
        request = op.Reserve("t", "a", (op.Line("ai", 10),), 1_000, f"r{turn}")
        (held,) = await real.decide([request])
        real.clock.now_ms += 1_000
        for part in range(2):
            lines = (op.CommitLine("ai", 5),)
            late = op.Commit("t", held.hold, f"c{turn}-{part}", lines, final=part == 1)
            (answer,) = await real.decide([late])
            assert answer.late
    (third,) = await real.decide([reserve("third", 10)])
    assert third.decision.reason is Reason.LIMIT_EXCEEDED
    assert third.decision.limit.used == 2


async def test_overage_is_owed_by_who_has_credits_of_their_own(real: Real) -> None:
    """The first on the path that was ever granted the credit type: its next grant repays."""
    await start(real, 100)
    await real.decide(
        [
            op.CreateAccount("t", "pooled", op.AccountTerms(parent="a"), "pooled"),
            op.CreateAccount("t", "own", op.AccountTerms(parent="a"), "own"),
        ]
    )
    given = op.GrantTerms("ai", 5, op.GrantSource.PURCHASE)
    await real.decide([op.Grant("t", "own", given, "own grant")])
    for account in ("pooled", "own"):
        request = op.Reserve("t", account, (op.Line("ai", 5),), 60_000, f"r-{account}")
        (held,) = await real.decide([request])
        lines = (op.CommitLine("ai", 150),)
        await real.decide([op.Commit("t", held.hold, f"c-{account}", lines)])
    balances = await real.decide([op.GetBalance("t", name) for name in ("a", "own", "pooled")])
    debts = [sum(credit.buckets.debt for credit in balance.credits) for balance in balances]
    assert debts == [50, 145, 0]


async def test_one_commit_beyond_all_measure_does_not_empty_a_burst_bucket_for_ever(
    real: Real,
) -> None:
    await start(real, 1_000, limits=(BURST,))
    (held,) = await real.decide([reserve("r", 10)])
    await real.decide([op.Commit("t", held.hold, "c", (op.CommitLine("ai", 10**9),))])
    given = op.GrantTerms("ai", 10**9, op.GrantSource.PURCHASE)
    await real.decide([op.Grant("t", "a", given, "more"), op.Grant("t", "a", given, "and more")])
    (denied,) = await real.decide([reserve("soon", 100)])
    real.clock.now_ms += 120_000
    (granted,) = await real.decide([reserve("later", 100)])
    assert denied.decision.reason is Reason.LIMIT_EXCEEDED
    assert 0 < denied.decision.retry_after_ms <= 120_000
    assert granted.decision.outcome is rp.Outcome.GRANTED


async def test_what_a_burst_bucket_forgot_is_not_given_back(real: Real) -> None:
    await start(real, 10_000, limits=(BURST,))
    await real.decide([reserve("full", 100)])
    real.mode.now = Mode.SHADOW
    (beyond,) = await real.decide([reserve("beyond", 1_000)])
    real.mode.now = Mode.ENFORCE
    await real.decide([op.Release("t", beyond.hold, "release")])
    (denied,) = await real.decide([reserve("more", 1)])
    assert denied.decision.reason is Reason.LIMIT_EXCEEDED


@pytest.mark.parametrize("place_ms", [0, 50, 100])
async def test_a_sliding_window_is_never_too_short_nor_a_tenth_too_long(
    real: Real, place_ms: int
) -> None:
    """Of a length that is no multiple of its slices, wherever in one of them the use lies."""
    window_ms, slice_ms = 1_009, 101
    once = op.Limit(
        "once",
        op.LimitUnit.REQUESTS,
        op.LimitWindow.SLIDING,
        1,
        op.LimitEnforcement.HARD,
        window_ms,
    )
    await start(real, 10, limits=(once,))
    real.clock.now_ms += slice_ms - real.clock.now_ms % slice_ms + place_ms
    await real.decide([reserve("first", 1)])
    real.clock.now_ms += window_ms - 1
    (denied,) = await real.decide([reserve("early", 1)])
    assert denied.decision.reason is Reason.LIMIT_EXCEEDED
    assert denied.decision.retry_after_ms <= slice_ms + 3
    real.clock.now_ms += denied.decision.retry_after_ms
    (granted,) = await real.decide([reserve("then", 1)])
    assert granted.decision.outcome is rp.Outcome.GRANTED


@pytest.mark.parametrize("before_ms", [1_800_000, 10_800_000])
async def test_a_day_without_a_midnight_ends_with_the_change(real: Real, before_ms: int) -> None:
    """In Santiago the clocks go from 23:59:59 to 01:00."""
    zone = "America/Santiago"
    daily = op.Limit(
        "daily", op.LimitUnit.REQUESTS, op.LimitWindow.CALENDAR_DAY, 1, op.LimitEnforcement.HARD
    )
    changes = pairwise(offsets_of(zone))
    change_ms = next(b[0] for a, b in changes if b[1] > a[1] and b[0] > real.clock.now_ms)
    real.clock.now_ms = change_ms - before_ms
    await start(real, 10, limits=(daily,), zone=zone)
    burns = [op.Burn("t", "a", (op.Line("ai", 1),), f"burn-{n}") for n in range(3)]
    _, denied = await real.decide(burns[:2])
    assert denied.decision.retry_after_ms == before_ms
    real.clock.now_ms += before_ms
    (granted,) = await real.decide(burns[2:])
    assert granted.decision.outcome is rp.Outcome.GRANTED


async def test_a_late_commit_with_cap_owes_what_its_hold_had_covered(real: Real) -> None:
    """Only what goes beyond the hold is for the customer to keep."""
    await start(real, 60)
    (held,) = await real.decide([op.Reserve("t", "a", (op.Line("ai", 60),), 1_000, "r")])
    real.clock.now_ms += 2_000
    await real.decide([op.Burn("t", "a", (op.Line("ai", 30),), "elsewhere")])
    actual = (op.CommitLine("ai", 70),)
    (late,) = await real.decide([op.Commit("t", held.hold, "c", actual, overage=op.Overage.CAP)])
    assert late.late
    assert (late.lines[0].debt, late.lines[0].unenforced) == (30, 10)


@pytest.mark.parametrize("late", [False, True])
async def test_a_commit_warns_of_a_threshold_that_it_passes(real: Real, late: bool) -> None:
    await start(real, 100)
    (held,) = await real.decide([op.Reserve("t", "a", (op.Line("ai", 10),), 1_000, "r")])
    real.clock.now_ms += 2_000 if late else 0
    (answer,) = await real.decide([op.Commit("t", held.hold, "c", (op.CommitLine("ai", 97),))])
    (after,) = await real.decide([reserve("after", 1)])
    assert answer.late is late
    assert [(each.kind, each.percent) for each in answer.warnings] == [
        (rp.WarningKind.BALANCE_THRESHOLD, 80),
        (rp.WarningKind.BALANCE_THRESHOLD, 95),
    ]
    assert after.warnings == ()


async def test_what_was_effective_sooner_burns_first_although_it_was_given_later(
    real: Real,
) -> None:
    await real.decide([op.CreateAccount("t", "a", op.AccountTerms(), "create")])
    yesterday = op.GrantTerms(
        "ai", 10, op.GrantSource.MIGRATION, effective_at_ms=real.clock.now_ms - 86_400_000
    )
    day_before = replace(yesterday, effective_at_ms=real.clock.now_ms - 2 * 86_400_000)
    _, sooner = await real.decide(
        [op.Grant("t", "a", yesterday, "g1"), op.Grant("t", "a", day_before, "g2")]
    )
    (burned,) = await real.decide([op.Burn("t", "a", (op.Line("ai", 5),), "b")])
    assert [share.grant_id for share in burned.lines[0].grants] == [sooner.grant_id]


async def test_a_hold_of_as_many_grants_as_there_may_be_is_settled_and_expires(
    real: Real,
) -> None:
    """More values than Lua's stack takes at once."""
    names = [f"level-{number}" for number in range(TREE_LEVELS_MAX)]
    codes = [f"type-{number}" for number in range(LINES)]
    for name, parent in zip(names, ["", *names], strict=False):
        terms = op.AccountTerms(parent=parent)
        await real.decide([op.CreateAccount("t", name, terms, name)])
        for code in codes:
            given = op.GrantTerms(code, 1, op.GrantSource.PROMOTION)
            await real.decide(
                [op.Grant("t", name, given, f"{name} {code} {n}") for n in range(GRANTS_MAX)]
            )
    all_of_it = tuple(op.Line(code, TREE_LEVELS_MAX * GRANTS_MAX) for code in codes)
    (held,) = await real.decide([op.Reserve("t", names[-1], all_of_it, 1_000, "r")])
    some = tuple(op.CommitLine(code, 1) for code in codes)
    (committed,) = await real.decide([op.Commit("t", held.hold, "c", some, final=False)])
    real.clock.now_ms += 1_000
    (balance,) = await real.decide([op.GetBalance("t", names[0])])
    assert [line.burned for line in committed.lines] == [1] * LINES
    assert [credit.buckets.held for credit in balance.credits] == [0] * LINES


async def test_times_do_not_fall_where_more_is_due_than_one_call_may_end(real: Real) -> None:
    """What becomes due by an end waits behind what was due before and is still in the index."""
    count = 2_500
    await real.decide([op.CreateAccount("t", "a", op.AccountTerms(), "create")])
    terms = op.GrantTerms(
        "ai", count, op.GrantSource.PURCHASE, expires_at_ms=real.clock.now_ms + 20_000
    )
    await real.decide([op.Grant("t", "a", terms, "grant")])
    for first in range(0, count, 500):
        line = (op.Line("ai", 1),)
        await real.decide(
            [
                op.Reserve("t", "a", line, 1_000 + number, f"r{number}")
                for number in range(first, first + 500)
            ]
        )
    real.clock.now_ms += 60_000
    ended = [(await real.decide([op.ExpireDue("t", "a")]))[0].holds for _ in range(3)]
    times = [entry.event_ms for entry in await real.entries()]
    assert ended == [2_000, 500, 0]
    assert times == sorted(times)
    assert (await buckets(real)).expired == count


async def test_a_hold_keeps_its_feature_by_whatever_name_it_is_settled(real: Real) -> None:
    """The ledger says for what was burned, also where somebody has found the hold in a list."""
    await start(real, 100)
    await real.decide([reserve(f"r{n}", 10, feature="chat") for n in range(2)])
    holds, _ = await real.engine.list_holds("t", "a", False, 2, None)

    await real.decide([op.Commit("t", holds[0].hold, "c"), op.Release("t", holds[1].hold, "d")])

    last = (await real.entries())[-2:]
    assert [entry.context.feature for entry in last] == ["chat", "chat"]


async def test_a_hold_that_burned_something_stays_a_request_when_it_expires(real: Real) -> None:
    one = op.Limit(
        "one", op.LimitUnit.REQUESTS, op.LimitWindow.CALENDAR_DAY, 1, op.LimitEnforcement.HARD
    )
    await start(real, 100, limits=(one,))
    (held,) = await real.decide([op.Reserve("t", "a", (op.Line("ai", 10),), 1_000, "r")])
    await real.decide([op.Commit("t", held.hold, "c", (op.CommitLine("ai", 1),), final=False)])
    real.clock.now_ms += 1_000
    (answer,) = await real.decide([reserve("next", 1)])
    assert answer.decision.reason is Reason.LIMIT_EXCEEDED


async def test_a_commit_of_nothing_is_no_release_where_a_part_was_burned(real: Real) -> None:
    await start(real, 100)
    (held,) = await real.decide([reserve("r", 10)])
    await real.decide([op.Commit("t", held.hold, "c", (op.CommitLine("ai", 1),), final=False)])
    (ended,) = await real.decide([op.Commit("t", held.hold, "d", (op.CommitLine("ai", 0),))])
    assert ended.state is rp.HoldState.COMMITTED


@pytest.mark.parametrize("how", ["expired", "revoked"])
async def test_what_was_lost_counts_for_no_warning(real: Real, how: str) -> None:
    """Thresholds are of what is left to be spent."""
    await start(real, 100)
    expires_ms = real.clock.now_ms + 1_000 if how == "expired" else 0
    more = op.GrantTerms("ai", 100, op.GrantSource.PROMOTION, expires_at_ms=expires_ms)
    (given,) = await real.decide([op.Grant("t", "a", more, "more")])
    if how == "revoked":
        await real.decide([op.Revoke("t", "a", given.grant_id, "revoke")])
    real.clock.now_ms += 1_000
    burns = [op.Burn("t", "a", (op.Line("ai", amount),), f"b{amount}") for amount in (60, 20)]
    warned = [[each.percent for each in (await real.decide([burn]))[0].warnings] for burn in burns]
    assert warned == [[], [80]]


@pytest.mark.parametrize("wait_ms", [0, 1_000])
async def test_a_grant_repays_debt_unless_it_says_that_it_does_not(
    real: Real, wait_ms: int
) -> None:
    """At once, and when it becomes effective."""
    await start(real, 1)
    (held,) = await real.decide([reserve("r", 1)])
    await real.decide([op.Commit("t", held.hold, "c", (op.CommitLine("ai", 21),))])
    owed = []
    for repays in (False, True):
        begins_ms = real.clock.now_ms + wait_ms
        given = op.GrantTerms("ai", 5, op.GrantSource.PURCHASE, effective_at_ms=begins_ms)
        await real.decide([op.Grant("t", "a", replace(given, repay_debt=repays), f"{repays}")])
        real.clock.now_ms += wait_ms
        owed.append((await buckets(real)).debt)
    assert owed == [20, 15]
