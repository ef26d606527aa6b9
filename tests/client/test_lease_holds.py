"""When the holds of a lease are captured, extended, replaced and given up."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast import results
from holdfast._lease_state import (
    CAPTURE_INTERVAL_MS_DEFAULT,
    RETRY_SECONDS_MAX,
    LeaseState,
    Terms,
    Wanted,
)
from holdfast.errors import FailedPrecondition, Unreachable
from holdfast.kinds import Outcome
from tests.client.test_lease_state import built

GRANTED = results.Decision(Outcome.GRANTED)
BYPASSED = results.Decision(Outcome.BYPASSED)
#: How far the store's clock is ahead of the client's.
AHEAD_MS = 1_000_000


def lease_of(held: int = 100, interval_ms: int = CAPTURE_INTERVAL_MS_DEFAULT) -> LeaseState:
    """A lease of 100 whose first hold has just been placed."""
    lease = LeaseState(Terms("acct", 100, "ai", capture_interval_ms=interval_ms))
    lease.answered(wanted(lease, 0.0), placed("first", held, 0.0), 0.0)
    return lease


def placed(name: str, held: int, at_s: float) -> results.ReserveResult:
    """The answer to a reserve, of a hold with the usual time to live."""
    line = results.HeldLine("ai", held, held, 0, 0, 0)
    return results.ReserveResult(GRANTED, name, (line,), AHEAD_MS + int(at_s * 1_000) + 30_000)


def wanted(lease: LeaseState, now_s: float) -> Wanted:
    """What the lease wants to be sent now."""
    found = lease.next_call(now_s)
    assert isinstance(found, Wanted), f"nothing for {found} s"
    return found


def asked(lease: LeaseState, now_s: float) -> tuple[str, Any]:
    """Which call that is, and its request."""
    operation = wanted(lease, now_s).operation
    return operation.kind.item, built(operation)


def test_what_is_left_of_several_holds_is_spent_together() -> None:
    lease = lease_of(held=60)
    assert lease.spend(20, 0.0)
    lease.answered(wanted(lease, 0.5), placed("second", 60, 0.5), 0.5)

    assert not lease.spend(70, 27.2), "what the first hold had left may be gone"
    assert lease.spend(70, 1.0)
    assert (lease.left, [each.spent for each in lease.portions]) == (30, [60, 30])
    assert not lease.spend(31, 1.0)


def test_a_hold_lives_no_longer_than_the_service_says() -> None:
    lease = lease_of()
    extension = wanted(lease, 15.0)
    lease.answered(extension, results.ExtendResult(GRANTED, AHEAD_MS + 34_000), 15.0)

    assert lease.spend(1, 30.9)
    assert not lease.spend(1, 31.0)


def test_a_hold_without_use_is_extended_when_half_of_its_time_has_passed() -> None:
    lease = lease_of()
    assert isinstance(lease.next_call(14.9), float)
    assert asked(lease, 15.0)[0] == "extend"


@pytest.mark.parametrize("spent", [0, 10])
def test_a_hold_is_extended_in_time_though_it_is_seldom_captured(spent: int) -> None:
    """Else there would be nothing to spend until another hold is placed."""
    lease = lease_of(interval_ms=600_000)
    assert lease.spend(spent, 1.0) if spent else True
    assert lease.next_call(10.0) == 5.0
    name, request = asked(lease, 15.0)
    assert (name, request.ttl_ms) == ("commit" if spent else "extend", 30_000)


def test_what_a_hold_that_is_too_old_did_not_capture_is_captured_without_more_time() -> None:
    lease = lease_of()
    assert lease.spend(10, 1.0)
    error = FailedPrecondition("too old", reason="HOLD_MAXIMUM_AGE")
    assert lease.failed(wanted(lease, 2.0), error, 2.0) == 0

    name, request = asked(lease, 3.0)
    assert (name, request.lines[0].amount) == ("commit", 10)
    assert (request.ttl_ms, request.final) == (0, False)


def too_old(lease: LeaseState) -> None:
    """The hold may not become older."""
    error = FailedPrecondition("too old", reason="HOLD_MAXIMUM_AGE")
    lease.failed(wanted(lease, 15.0), error, 15.0)


def passed(lease: LeaseState) -> None:
    """The kill switch is on: nobody extends the hold, whatever the answer says."""
    extension = wanted(lease, 15.0)
    lease.answered(extension, results.ExtendResult(BYPASSED, AHEAD_MS + 45_000), 15.0)


@pytest.mark.parametrize("end", [too_old, passed])
def test_a_hold_that_is_not_extended_is_replaced_before_it_ends(end: Any) -> None:
    """There is always something to spend, and never more than is held."""
    lease = lease_of()
    end(lease)
    name, request = asked(lease, 15.0)
    assert (name, request.lines[0].amount) == ("reserve", 100)
    lease.answered(wanted(lease, 15.0), placed("second", 100, 15.0), 15.0)

    assert lease.next_call(15.0) == 1.0
    assert lease.spend(90, 26.9), "the first hold goes first"
    assert not lease.spend(101, 27.1)
    assert lease.spend(100, 27.1)


def test_work_that_nobody_could_be_asked_about_goes_on() -> None:
    """More is asked for before what passed is over: to find nobody takes its time."""
    lease = LeaseState(Terms("acct", 100, "ai"))
    lease.answered(wanted(lease, 0.0), results.ReserveResult(BYPASSED), 10.0)
    assert lease.next_call(14.0) == pytest.approx(1.0)
    again = wanted(lease, 15.0)
    assert again.operation.kind.item == "reserve"
    lease.answered(again, results.ReserveResult(BYPASSED), 25.0)
    assert lease.spend(100, 30.0)


def test_a_capture_that_the_service_cannot_make_durable_is_sent_again() -> None:
    """The hold is as it was, and what was spent of it is not given away."""
    lease = lease_of()
    assert lease.spend(10, 1.0)
    capture = wanted(lease, 2.0)
    refusal = FailedPrecondition("no replica", reason="DURABILITY_UNAVAILABLE")
    assert lease.failed(capture, refusal, 2.0) == 0
    assert wanted(lease, 3.0) is capture
    assert (lease.left, lease.uncharged) == (90, 0)


def test_what_a_limit_denies_for_days_is_asked_for_again_before() -> None:
    """Others give back, and limits are raised."""
    lease = lease_of()
    assert lease.spend(60, 0.0)
    denial = results.Decision(Outcome.DENIED, "LIMIT_EXCEEDED", retry_after_ms=20 * 86_400_000)
    lease.answered(wanted(lease, 0.0), results.ReserveResult(denial), 0.0)
    assert not lease.wants_reserve(RETRY_SECONDS_MAX - 0.1)
    assert lease.wants_reserve(RETRY_SECONDS_MAX)


def test_the_last_capture_of_a_hold_asks_for_no_more_time() -> None:
    """What is too old to be extended can still be settled."""
    lease = lease_of()
    assert lease.spend(10, 0.0)
    lease.close()
    name, request = asked(lease, 0.0)
    assert (name, request.lines[0].amount) == ("commit", 10)
    assert (request.ttl_ms, request.final) == (0, True)


def test_a_lease_that_ends_asks_no_more_for_what_nobody_answers() -> None:
    lease = lease_of()
    assert lease.spend(60, 0.0)
    top_up = wanted(lease, 0.0)
    lease.close()
    assert wanted(lease, 0.0) is top_up
    assert lease.failed(top_up, Unreachable("no answer"), 0.0) == 0
    lease.answered(wanted(lease, 0.0), results.CommitResult(GRANTED), 0.0)
    assert lease.is_settled


@pytest.mark.parametrize("terms", [{"amount": 0}, {"amount": 2.5}, {"capture_interval_ms": 0}])
def test_a_lease_of_nothing_is_refused(terms: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Terms(**{"account": "acct", "amount": 100, "credit_type": "ai", **terms})
