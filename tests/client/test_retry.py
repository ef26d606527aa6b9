"""When a failed call is sent again, with a clock that the test turns."""

from __future__ import annotations

import pytest

from holdfast import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    HoldfastError,
    InternalError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unreachable,
)
from holdfast._retry import BACKOFF_INITIAL_MS, BACKOFF_MAX_MS, Attempts, Deadlines


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def attempts(
    clock: Clock, *, attempt_ms: int = 2_000, total_ms: int = 10_000, random: float = 1.0
) -> Attempts:
    return Attempts(Deadlines(attempt_ms, total_ms), clock, lambda: random)


def test_an_attempt_gets_its_share_of_what_is_left() -> None:
    clock = Clock()
    tried = attempts(clock)
    assert tried.timeout_s() == pytest.approx(2.0)
    clock.now_s += 9
    assert tried.timeout_s() == pytest.approx(1.0)
    clock.now_s += 9
    assert 0 < tried.timeout_s() < 0.01


def test_waits_double_up_to_a_ceiling() -> None:
    tried = attempts(Clock(), total_ms=10**9)
    waits = [tried.wait_s(Unreachable("away")) for _ in range(12)]
    assert waits[:3] == pytest.approx([0.05, 0.1, 0.2])
    assert waits[-1] == pytest.approx(BACKOFF_MAX_MS / 1_000)


@pytest.mark.parametrize(
    ("random", "expected_ms"), [(0.0, BACKOFF_INITIAL_MS / 2), (1.0, BACKOFF_INITIAL_MS)]
)
def test_waits_are_spread(random: float, expected_ms: float) -> None:
    tried = attempts(Clock(), random=random)
    assert tried.wait_s(Unavailable("away")) * 1_000 == pytest.approx(expected_ms)


def test_the_server_s_wait_is_respected() -> None:
    error = ResourceExhausted("busy", reason="OVERLOADED", retry_after_ms=700)
    assert attempts(Clock()).wait_s(error) >= 0.7


def test_gives_up_when_the_next_attempt_would_come_too_late() -> None:
    clock = Clock()
    tried = attempts(clock)
    error = Unavailable("busy", reason="OVERLOADED", retry_after_ms=10_000)
    with pytest.raises(Unavailable) as raised:
        tried.wait_s(error)
    assert raised.value is error


def test_gives_up_when_the_overall_deadline_has_passed() -> None:
    clock = Clock()
    tried = attempts(clock)
    clock.now_s += 10
    with pytest.raises(Unreachable):
        tried.wait_s(Unreachable("away"))


def test_a_long_call_does_not_look_for_a_server_for_as_long_as_it_may_take() -> None:
    """A verification may take ten minutes; that nobody is there is known in seconds."""
    clock = Clock()
    tried = Attempts(Deadlines(600_000, 600_000), clock, lambda: 1.0, search_ms=10_000)
    tried.wait_s(Unreachable("away"))
    clock.now_s += 10
    assert tried.wait_s(Unavailable("busy", reason="OVERLOADED", retry_after_ms=10_000)) >= 10
    assert tried.timeout_s() == pytest.approx(590)
    with pytest.raises(Unreachable):
        tried.wait_s(Unreachable("away"))


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("no", reason="ID_INVALID"),
        Unauthenticated("no", reason="TOKEN_EXPIRED"),
        PermissionDenied("no", reason="ROLE_REQUIRED"),
        NotFound("no", reason="HOLD_NOT_FOUND"),
        AlreadyExists("no", reason="IDEMPOTENCY_KEY_REUSED"),
        FailedPrecondition("no", reason="HOLD_EXPIRED"),
        Conflict("no", reason="VERSION_CONFLICT"),
        InternalError("no", reason="INTERNAL"),
        ResourceExhausted("message too large"),
    ],
)
def test_what_cannot_get_better_is_raised_at_once(error: HoldfastError) -> None:
    with pytest.raises(type(error)):
        attempts(Clock()).wait_s(error)


def test_a_clear_refusal_after_an_unknown_result_stays_unknown() -> None:
    """The first attempt may have been applied: the last one's refusal does not change that."""
    tried = attempts(Clock())
    tried.wait_s(Unavailable("lost", reason="RESULT_UNKNOWN"))
    with pytest.raises(Unauthenticated) as raised:
        tried.wait_s(Unauthenticated("expired", reason="TOKEN_EXPIRED"))
    assert raised.value.result_unknown


@pytest.mark.parametrize(
    ("reason", "unknown"),
    [
        ("", True),
        ("RESULT_UNKNOWN", True),
        ("DEADLINE_EXCEEDED", True),
        ("STORE_UNAVAILABLE", False),
    ],
)
def test_which_failures_leave_the_result_unknown(reason: str, unknown: bool) -> None:
    assert Unavailable("no", reason=reason).result_unknown is unknown
