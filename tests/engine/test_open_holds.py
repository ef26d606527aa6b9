"""Which holds are listed: those that are open when the answer is given, page by page."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.engine import accounts
from holdfast_server.engine.accounts import HoldCursor
from tests.support.pair import Real, hold_id

#: Of so many holds the index lies in the tree, and of so many it is a set.
FEW, MANY = 4, 40


async def prepare(real: Real, holds: int, apart_ms: int = 1_000) -> list[str]:
    """An account with so many open holds, each of which expires so much after the one before."""
    given = op.GrantTerms("ai", holds, op.GrantSource.PURCHASE)
    await real.decide(
        [op.CreateAccount("t", "a", op.AccountTerms(), "create"), op.Grant("t", "a", given, "g")]
    )
    answers = await real.decide(
        [
            op.Reserve("t", "a", (op.Line("ai", 1),), 1_000 + n * apart_ms, f"k{n}")
            for n in range(holds)
        ]
    )
    return [hold_id(answer.hold) for answer in answers]


async def page(
    real: Real, limit: int, after: HoldCursor | None = None
) -> tuple[list[str], HoldCursor | None]:
    """The ids of a page, sooner expiry first, and where the next one begins."""
    found, cursor = await real.engine.list_holds("t", "a", False, limit, after)
    return [hold_id(each.hold) for each in found], cursor


@pytest.mark.parametrize("number", [FEW, MANY])
async def test_a_hold_whose_time_is_over_is_not_listed(real: Real, number: int) -> None:
    """Although nobody has ended it yet: a balance, which ends it, counts as many."""
    holds = await prepare(real, number)
    real.clock.now_ms += 2_000
    listed, _ = await page(real, number)
    assert listed == holds[2:]
    (balance,) = await real.decide([op.GetBalance("t", "a")])
    assert balance.open_holds == len(listed)


async def test_time_does_not_go_back_for_a_listing(real: Real) -> None:
    """Also where only another tree of the partition has seen the later time."""
    holds = await prepare(real, FEW)
    names, partition = map(str, count()), real.keys.partition("t", "a")
    other = next(name for name in names if real.keys.partition("t", name) == partition)
    real.clock.now_ms += 2_000
    await real.decide([op.CreateAccount("t", other, op.AccountTerms(), "other")])
    real.clock.now_ms -= 2_000
    assert (await page(real, FEW))[0] == holds[2:]


@pytest.mark.parametrize("number", [FEW, MANY])
async def test_a_listing_goes_on_behind_pages_that_are_over(real: Real, number: int) -> None:
    holds = await prepare(real, number)
    first, cursor = await page(real, 1)
    assert first == holds[:1]
    real.clock.now_ms += 3_000
    second, cursor = await page(real, 1, cursor)
    assert second == holds[3:4]
    rest, _ = await page(real, number, cursor)
    assert rest == holds[4:]
    real.clock.now_ms += 1_000 * number
    assert await page(real, 1, cursor) == ([], None)


async def test_holds_that_end_during_a_listing_hide_no_others(
    real: Real, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes several steps, and what is read in one of them moves up before the next."""
    monkeypatch.setattr(accounts, "SCAN_ROWS", 10)
    holds = await prepare(real, MANY)
    listed, _ = await real.engine.list_holds("t", "a", False, 5, None)
    ending = [op.Release("t", each.hold, "release-" + each.hold) for each in listed]
    run = type(real.store).run

    async def run_and_release(*called: Any) -> Any:
        answer = await run(*called)
        if "ZRANGE" in called[-1] and ending:
            releases, ending[:] = ending.copy(), []
            await real.decide(releases)
        return answer

    monkeypatch.setattr(type(real.store), "run", run_and_release)
    assert (await page(real, MANY))[0] == holds[5:]


async def test_holds_of_one_time_are_all_listed(
    real: Real, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are more than one step reads."""
    monkeypatch.setattr(accounts, "SCAN_ROWS", 5)
    holds = await prepare(real, MANY, apart_ms=0)
    first, cursor = await page(real, 18)
    rest, _ = await page(real, MANY, cursor)
    assert [*first, *rest] == sorted(holds)
