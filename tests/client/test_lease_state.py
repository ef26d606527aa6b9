"""Leases against a model of the service: never beyond what is held, all of it captured once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast import results
from holdfast._calls import Defaults
from holdfast._lease_state import RETRY_SECONDS_MAX, RETRY_SECONDS_MIN, LeaseState, Terms, Wanted
from holdfast.errors import FailedPrecondition, NotFound, Unreachable
from holdfast.kinds import HoldState, Outcome
from holdfast.v1 import balance_service_pb2 as pb

TTL_S = 30.0
#: How old a hold of the model may become: short, so that histories get there.
HOLD_AGE_S = 90.0
GRANTED = results.Decision(Outcome.GRANTED)


def built(operation: Any) -> Any:
    """The request of an operation."""
    return getattr(operation.build(Defaults("", "ai")), operation.kind.item)


@dataclass
class ModelHold:
    """A hold as the service has it."""

    left: int
    placed_s: float
    expires_s: float
    settled: bool = False


@dataclass
class Model:
    """As much of the service as leases see, with answers kept by key."""

    available: int
    #: How far its clock is ahead of the client's.
    ahead_s: float = 1_000.0
    holds: dict[str, ModelHold] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    burned: int = 0

    def ask(self, operation: Any, now_s: float) -> Any:
        """Applies a request, once for its key; raises what the service would answer."""
        request = built(operation)
        key = request.idempotency_key
        if key not in self.answers:
            self.answers[key] = self._apply(request, now_s)
        answer = self.answers[key]
        if isinstance(answer, Exception):
            # An error is no decision: the next attempt is judged anew.
            del self.answers[key]
            raise answer
        return answer

    def knows(self, operation: Any) -> bool:
        """Whether a request has arrived."""
        return built(operation).idempotency_key in self.answers

    def _apply(self, request: Any, now_s: float) -> Any:
        self.expire(now_s)
        if isinstance(request, pb.ReserveRequest):
            return self._reserve(request, now_s)
        hold = self.holds[request.hold_id]
        if hold.settled:
            return FailedPrecondition("settled", reason="HOLD_ALREADY_SETTLED")
        if isinstance(request, pb.CommitRequest):
            return self._commit(request, hold, now_s)
        return self._extend(hold, request.ttl_ms, now_s) or results.ExtendResult(
            GRANTED, self._ms(hold.expires_s)
        )

    def _reserve(self, request: pb.ReserveRequest, now_s: float) -> results.ReserveResult:
        (line,) = request.lines
        held = min(line.amount, self.available)
        if held < 1:
            return results.ReserveResult(results.Decision(Outcome.DENIED, "INSUFFICIENT_CREDITS"))
        self.available -= held
        name = f"hold-{len(self.holds)}"
        self.holds[name] = ModelHold(held, now_s, now_s + request.ttl_ms / 1_000)
        shown = results.HeldLine("ai", line.amount, held, 0, 0, self.available)
        return results.ReserveResult(GRANTED, name, (shown,), self._ms(self.holds[name].expires_s))

    def _commit(self, request: pb.CommitRequest, hold: ModelHold, now_s: float) -> Any:
        late = hold.expires_s <= now_s
        if request.ttl_ms and not late and (error := self._extend(hold, request.ttl_ms, now_s)):
            return error
        (line,) = request.lines
        self.burned += line.amount
        if late:
            self.available -= line.amount
            return results.CommitResult(GRANTED, late=True, state=HoldState.EXPIRED)
        assert line.amount <= hold.left, "more was captured than was held"
        hold.left -= line.amount
        if request.final:
            self.available += hold.left
            hold.left, hold.settled = 0, True
        return results.CommitResult(GRANTED, expires_at_ms=self._ms(hold.expires_s))

    def _extend(self, hold: ModelHold, ttl_ms: int, now_s: float) -> Exception | None:
        latest_s = hold.placed_s + HOLD_AGE_S
        if now_s >= latest_s:
            return FailedPrecondition("too old", reason="HOLD_MAXIMUM_AGE")
        hold.expires_s = min(now_s + ttl_ms / 1_000, latest_s)
        return None

    def expire(self, now_s: float) -> None:
        """Gives back what holds past their time hold."""
        for hold in self.holds.values():
            if hold.expires_s <= now_s:
                self.available += hold.left
                hold.left = 0

    def _ms(self, instant_s: float) -> int:
        return int((instant_s + self.ahead_s) * 1_000)


class LeaseMachine(RuleBasedStateMachine):
    """Spends, sends, loses answers and lets time pass, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.model = Model(available=1_000)
        self.lease = LeaseState(Terms("acct", 100, "ai", ttl_ms=int(TTL_S * 1_000)))
        self.spent = 0
        self.send()

    @rule(amount=st.integers(1, 120))
    def spend(self, amount: int) -> None:
        before = [portion.spent for portion in self.lease.portions]
        if not self.lease.spend(amount, self.now_s):
            return
        self.spent += amount
        for portion, spent in zip(self.lease.portions, before, strict=True):
            hold = self.model.holds[portion.hold_id]
            if portion.spent > spent:
                assert hold.settled or hold.expires_s > self.now_s, "an expired hold was spent"

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 14.0, 29.0, 31.0, RETRY_SECONDS_MAX]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def send(self) -> None:
        if isinstance(wanted := self.lease.next_call(self.now_s), Wanted):
            self.answer(wanted)

    @rule(reached=st.booleans())
    def lose_the_answer(self, reached: bool) -> None:
        if not isinstance(wanted := self.lease.next_call(self.now_s), Wanted):
            return
        if reached:
            self.attempt(wanted)
        if not self.lease.is_closing:
            self.lease.failed(wanted, Unreachable("no answer"), self.now_s)

    @precondition(lambda self: not self.lease.is_closing)
    @rule(chosen=st.randoms(use_true_random=False))
    def settle_behind_its_back(self, chosen: Any) -> None:
        open_holds = [hold for hold in self.model.holds.values() if not hold.settled]
        if open_holds:
            hold = chosen.choice(open_holds)
            self.model.available += hold.left
            hold.left, hold.settled = 0, True

    @rule()
    def close(self) -> None:
        self.lease.close()
        for _ in range(1_000):
            if self.lease.is_settled:
                break
            wanted = self.lease.next_call(self.now_s)
            assert isinstance(wanted, Wanted)
            self.answer(wanted)
        assert self.lease.is_settled
        assert self.spent == self.lease.captured + self.lease.uncharged
        assert self.lease.captured == self.model.burned
        assert not self.lease.spend(1, self.now_s)

    def answer(self, wanted: Wanted) -> None:
        try:
            result = self.model.ask(wanted.operation, self.now_s)
        except (NotFound, FailedPrecondition) as error:
            self.lease.failed(wanted, error, self.now_s)
        else:
            self.lease.answered(wanted, result, self.now_s)

    def attempt(self, wanted: Wanted) -> None:
        try:
            self.model.ask(wanted.operation, self.now_s)
        except FailedPrecondition:
            return

    @invariant()
    def what_was_spent_and_may_be_is_held(self) -> None:
        """For every hold that is open; a capture that has arrived counts no more."""
        self.model.expire(self.now_s)
        for portion in self.lease.portions:
            hold, pending = self.model.holds[portion.hold_id], portion.pending
            captured = pending is not None and self.model.knows(pending.operation)
            asked = pending.amount if pending is not None and not captured else 0
            if not hold.settled and hold.expires_s > self.now_s:
                assert portion.free + portion.spent + asked <= hold.left

    @invariant()
    def nothing_is_captured_that_was_not_spent(self) -> None:
        assert self.model.burned <= self.spent

    @invariant()
    def what_is_left_is_what_portions_have(self) -> None:
        assert self.lease.left == sum(portion.free for portion in self.lease.portions) >= 0


LeaseMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
test_leases_against_the_model = LeaseMachine.TestCase


def test_a_hold_is_not_spent_in_the_last_part_of_its_time() -> None:
    model = Model(available=1_000)
    lease = LeaseState(Terms("acct", 100, "ai", ttl_ms=30_000))
    wanted = lease.next_call(0.0)
    assert isinstance(wanted, Wanted)
    lease.answered(wanted, model.ask(wanted.operation, 0.0), 20.0)

    assert lease.spend(1, 26.9)
    assert not lease.spend(1, 27.0)


def test_a_capture_gives_a_hold_more_time_but_not_more_than_it_says() -> None:
    model = Model(available=1_000)
    lease = LeaseState(Terms("acct", 100, "ai", ttl_ms=30_000))
    for now_s in (0.0, 10.0):
        wanted = lease.next_call(now_s)
        assert isinstance(wanted, Wanted)
        lease.answered(wanted, model.ask(wanted.operation, now_s), now_s)
        assert lease.spend(10, now_s)

    assert (lease.captured, model.burned) == (10, 10)
    assert lease.spend(1, 36.9)
    assert not lease.spend(1, 37.0)


def test_a_refused_top_up_is_not_asked_again_at_once() -> None:
    model = Model(available=60)
    lease = LeaseState(Terms("acct", 100, "ai"))
    for _ in range(2):
        wanted = lease.next_call(0.0)
        if isinstance(wanted, Wanted):
            lease.answered(wanted, model.ask(wanted.operation, 0.0), 0.0)

    assert lease.left == 60
    assert lease.spend(60, 0.0)
    assert not lease.spend(1, 0.0)
    assert not lease.wants_reserve(0.0)
    assert lease.wants_reserve(RETRY_SECONDS_MAX)


def test_nothing_is_looked_at_before_what_failed_is_asked_again() -> None:
    """A top-up and a capture without an answer: neither its own time nor that of the hold matters
    until then."""
    model = Model(available=1_000)
    lease = LeaseState(Terms("acct", 100, "ai", ttl_ms=30_000))
    wanted = lease.next_call(0.0)
    assert isinstance(wanted, Wanted)
    lease.answered(wanted, model.ask(wanted.operation, 0.0), 0.0)
    assert lease.spend(60, 0.0)

    for now_s in (2.0, 2.0, 28.0, 28.0):
        wanted = lease.next_call(now_s)
        assert isinstance(wanted, Wanted)
        lease.failed(wanted, ConnectionError(), now_s)

    waits_s = lease.next_call(28.0)
    assert isinstance(waits_s, float)
    assert waits_s >= RETRY_SECONDS_MIN
