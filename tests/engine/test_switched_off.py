"""A retry that comes when its scope was switched to OFF since, or is no longer: charged once."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.operation import Mode
from tests.support.pair import Real

LINES = (op.Line("ai", 10),)
BURN = op.Burn("t", "a", LINES, "burn")
RESERVE = op.Reserve("t", "a", LINES, 60_000, "reserve")


async def start(real: Real) -> None:
    given = op.GrantTerms("ai", 100, op.GrantSource.PURCHASE)
    await real.decide([op.CreateAccount("t", "a", op.AccountTerms(), "create")])
    await real.decide([op.Grant("t", "a", given, "grant")])


async def ask(real: Real, operation: op.Operation, mode: Mode) -> Any:
    real.mode.now = mode
    (answer,) = await real.decide([operation])
    return answer


async def buckets(real: Real) -> rp.Buckets:
    balance = await ask(real, op.GetBalance("t", "a"), Mode.ENFORCE)
    found: rp.Buckets = balance.credits[0].buckets
    return found


@pytest.mark.parametrize(
    "modes",
    [
        (Mode.ENFORCE, Mode.OFF, Mode.ENFORCE),
        (Mode.OFF, Mode.ENFORCE, Mode.SHADOW),
        (Mode.SHADOW, Mode.OFF, Mode.ENFORCE),
    ],
)
async def test_a_burn_that_is_retried_across_a_switch_is_charged_once(
    real: Real, modes: tuple[Mode, ...]
) -> None:
    """And not at all by what was answered in OFF."""
    await start(real)
    answers = [await ask(real, BURN, mode) for mode in modes]
    booked = [answer for answer in answers if answer.applied.seq]
    assert [answer.decision.outcome for answer in answers if answer not in booked] == [
        rp.Outcome.BYPASSED
    ]
    assert [answer.applied.replayed for answer in booked] == [False, True]
    assert await buckets(real) == rp.Buckets(granted=100, available=90, burned=10)


async def test_a_hold_whose_reserve_is_retried_in_off_is_the_only_one(real: Real) -> None:
    """It ends by its time unless it is settled; and a retry after the switch back names it."""
    await start(real)
    held, passed, again = [
        await ask(real, RESERVE, mode) for mode in (Mode.ENFORCE, Mode.OFF, Mode.ENFORCE)
    ]
    assert passed.decision.outcome is rp.Outcome.BYPASSED
    assert (again.hold, again.applied.replayed) == (held.hold, True)
    assert (await buckets(real)).held == 10
    real.clock.now_ms += 60_000
    assert await buckets(real) == rp.Buckets(granted=100, available=100)


async def test_the_mode_is_that_of_whom_and_what_is_asked_for(real: Real) -> None:
    await start(real)
    await real.decide([op.CreateAccount("t", "b", op.AccountTerms(parent="a"), "create b")])
    lines = (op.Line("ai", 1), op.Line("video", 1))
    with patch.object(real.mode, "mode", return_value=Mode.OFF) as mode:
        await real.decide([op.Burn("t", "b", lines, "of b", "chat")])
    mode.assert_called_once_with("t", "b", "a", ["ai", "video"], "chat")
