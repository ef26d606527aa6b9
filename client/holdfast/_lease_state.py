"""What a lease decides: what may be spent, and what to send. No I/O and no clock.

A lease owns portions. A portion is one hold: placed by a reserve, captured now and then by commits
that keep the rest held, and settled by a final one. A hold cannot grow, so what is spent is made
good by another portion. Whoever drives a lease asks `next_call` what to send, and says how it went.

Nothing is spent beyond what a hold holds, nor after the time at which the hold could have expired,
counted from before the call that placed or extended it was sent. A call whose outcome is unknown is
sent again as it is, under its key and with its amount, until it is known; what is spent meanwhile
is captured by the next one.

A hold that is not extended any more is replaced before it ends. Work that passes without one has a
portion all the same, which ends as if it had.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from holdfast import operations, results
from holdfast._calls import Operation
from holdfast._core import allowed_amounts
from holdfast.errors import FailedPrecondition, NotFound
from holdfast.kinds import Outcome

logger = logging.getLogger("holdfast")

#: How long the holds of a lease live when nobody extends them: how soon credits come back after a
#: crash.
LEASE_TTL_MS_DEFAULT = 30_000
#: How often what was spent is captured: so much time's use is not charged after a crash.
CAPTURE_INTERVAL_MS_DEFAULT = 1_000
#: More is held when less than this share of the lease's amount is left to spend.
TOP_UP_AT_SHARE = 0.5
#: The last part of a hold's time, in which nothing is spent: clocks need not run equally fast.
MARGIN_SHARE = 0.1
#: A hold that was not captured is extended when this share of its time has passed; one that cannot
#: be is replaced from then on.
EXTEND_AT_SHARE = 0.5
#: How long to wait before a call that failed is sent again, or a reserve that was refused is tried
#: anew: doubled up to the maximum.
RETRY_SECONDS_MIN = 0.25
RETRY_SECONDS_MAX = 30.0

_NEVER = float("inf")
#: What says that a hold is settled, or unknown; and for what reason it is neither.
_GONE = (NotFound, FailedPrecondition)
_NOT_GONE = "DURABILITY_UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a lease holds, for whom, and how."""

    account: str
    amount: int
    credit_type: str
    feature: str = ""
    ttl_ms: int = LEASE_TTL_MS_DEFAULT
    capture_interval_ms: int = CAPTURE_INTERVAL_MS_DEFAULT
    labels: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what would hold nothing, or never rest."""
        if not is_positive(self.amount):
            raise ValueError("the amount of a lease is a whole number of at least 1")
        if not is_positive(self.capture_interval_ms):
            raise ValueError("capture_interval_ms is a whole number of at least 1")


@dataclass(eq=False, slots=True)
class Wanted:
    """A call that is sent until its outcome is known. `amount` is what it asks for or captures."""

    operation: Operation[Any]
    first_sent_s: float
    portion: Portion | None = None
    amount: int = 0
    is_final: bool = False
    due_s: float = 0.0
    failures: int = 0


@dataclass(eq=False, slots=True)
class Portion:
    """One hold of a lease. `free` may still be spent, `spent` is not part of any capture yet."""

    hold_id: str
    free: int
    #: The store's time of expiry when it was placed, and a time before which that cannot be here.
    placed_expiry_ms: int
    placed_expiry_s: float
    valid_until_s: float
    capture_at_s: float
    extend_at_s: float
    is_extendable: bool
    spent: int = 0
    is_ending: bool = False
    pending: Wanted | None = None

    @property
    def due_s(self) -> float:
        """When it is looked at next: to capture it, or to extend it."""
        return min(self.capture_at_s, self.extend_at_s if self.is_extendable else _NEVER)


@dataclass(slots=True)
class LeaseState:
    """The decisions of a lease. Not safe for threads by itself."""

    terms: Terms
    portions: list[Portion] = field(default_factory=list)
    #: May be spent, of all portions together.
    left: int = 0
    #: The answer to the last reserve; None before the first.
    decision: results.Decision | None = None
    #: Captured so far; and spent, but not or perhaps not charged.
    captured: int = 0
    uncharged: int = 0
    is_closing: bool = False
    _reserve: Wanted | None = None
    _reserve_at_s: float = 0.0
    _refusals: int = 0

    def spend(self, amount: int, now_s: float) -> bool:
        """Takes from the portions, the oldest first; all of it or nothing."""
        if amount > self.left:
            return False
        for portion in self.portions:
            if portion.free >= amount and now_s < portion.valid_until_s:
                _take(portion, amount)
                self.left -= amount
                return True
        return self._spend_across(amount, now_s)

    def _spend_across(self, amount: int, now_s: float) -> bool:
        usable = [portion for portion in self.portions if now_s < portion.valid_until_s]
        if sum(portion.free for portion in usable) < amount:
            return False
        self.left -= amount
        for portion in usable:
            part = min(amount, portion.free)
            _take(portion, part)
            amount -= part
        return True

    def wants_reserve(self, now_s: float) -> bool:
        """Whether more should be asked for now, and was not yet, because of what was spent."""
        return self._is_low(self.left) and now_s >= self._reserve_at_s and self._may_reserve

    def _is_low(self, left: int) -> bool:
        """Whether more should be held soon where so much is left."""
        return left < self.terms.amount * TOP_UP_AT_SHARE

    @property
    def _may_reserve(self) -> bool:
        return self._reserve is None and not self.is_closing

    def _lasting(self, now_s: float) -> int:
        """What is left without the holds that are soon to be replaced."""
        return self.left - sum(
            portion.free
            for portion in self.portions
            if not portion.is_extendable and now_s >= portion.extend_at_s
        )

    def next_call(self, now_s: float) -> Wanted | float:
        """What to send now, or for how many seconds there is nothing to do."""
        self._end_expired(now_s)
        due = [*self._reserves(now_s), *self._settlements(now_s)]
        for wanted in due:
            if wanted.due_s <= now_s:
                return wanted
        times = (wanted.due_s for wanted in due)
        return max(0.0, min(chain(times, self._changes(now_s)), default=_NEVER) - now_s)

    def _changes(self, now_s: float) -> Iterator[float]:
        """When there may be something else to send. What waits for the answer to a call of its own
        is due when that is sent again.
        """
        if self._may_reserve and self._is_low(self._lasting(now_s)):
            yield self._reserve_at_s
        for portion in self.portions:
            if not portion.is_ending:
                yield portion.valid_until_s
                if not portion.is_extendable and now_s < portion.extend_at_s:
                    yield portion.extend_at_s
            if portion.pending is None:
                yield portion.due_s

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to be sent."""
        return not self.portions and self._reserve is None

    def close(self) -> None:
        """Nothing is spent any more; what was spent is captured, the rest given back."""
        self.is_closing = True
        for portion in self.portions:
            self._end(portion)
            if portion.pending:
                portion.pending.due_s = 0.0
        if self._reserve:
            self._reserve.due_s = 0.0

    def abandon(self) -> None:
        """Forgets every hold: they belong to another process, or will expire."""
        self.portions.clear()
        self.left, self._reserve, self.is_closing = 0, None, True

    def answered(self, wanted: Wanted, result: Any, now_s: float) -> None:
        """What became of a call."""
        portion = wanted.portion
        if portion is None:
            self._reserve = None
            self._reserved(wanted, result, now_s)
            return
        portion.pending = None
        if result.decision.outcome is Outcome.BYPASSED:
            # Nobody was asked: nor is the hold extended, whatever the answer says.
            self.uncharged += wanted.amount
            portion.is_extendable = False
        else:
            self.captured += wanted.amount
        if wanted.is_final:
            self.portions.remove(portion)
        elif isinstance(result, results.CommitResult) and result.late:
            self._end(portion)
        else:
            self._extended(portion, wanted, result.expires_at_ms)

    def failed(self, wanted: Wanted, error: Exception, now_s: float) -> int:
        """A call has no answer: it is sent again, unless that cannot help. Answers how much may not
        have been charged.
        """
        portion = wanted.portion
        if portion is not None and getattr(error, "reason", "") == "HOLD_MAXIMUM_AGE":
            portion.pending, portion.is_extendable = None, False
            portion.spent += wanted.amount
        elif portion is not None and (self.is_closing or _is_gone(error)):
            return self._lose(portion, wanted, error)
        elif self.is_closing:
            self._reserve = None
        else:
            wanted.due_s = now_s + _backoff_s(wanted.failures)
            wanted.failures += 1
            logger.warning("lease: %s; asking again with the same key", error)
        return 0

    def _reserves(self, now_s: float) -> list[Wanted]:
        lasting = self._lasting(now_s)
        if self._may_reserve and self._is_low(lasting) and now_s >= self._reserve_at_s:
            amount = self.terms.amount - lasting
            self._reserve = Wanted(self._reserve_call(amount), now_s, amount=amount)
        return [self._reserve] if self._reserve else []

    def _reserve_call(self, amount: int) -> Operation[results.ReserveResult]:
        terms = self.terms
        return operations.reserve(
            terms.account,
            amount,
            credit_type=terms.credit_type,
            minimum=1,
            feature=terms.feature,
            ttl_ms=terms.ttl_ms,
            labels=terms.labels,
        )

    def _reserved(self, wanted: Wanted, result: results.ReserveResult, now_s: float) -> None:
        self.decision = result.decision
        if not result.decision.allowed:
            self._refused(now_s, result.decision.retry_after_ms)
            return
        asked = {self.terms.credit_type: wanted.amount}
        held = allowed_amounts(result, asked)[self.terms.credit_type]
        self._add(wanted, result, held, now_s)
        if held < wanted.amount:
            self._refused(now_s, 0)
        else:
            self._refusals = 0

    def _add(self, wanted: Wanted, result: results.ReserveResult, held: int, now_s: float) -> None:
        ttl_s = self.terms.ttl_ms / 1_000
        portion = Portion(
            result.hold_id,
            free=held,
            placed_expiry_ms=result.expires_at_ms,
            placed_expiry_s=wanted.first_sent_s + ttl_s,
            valid_until_s=wanted.first_sent_s + ttl_s * (1 - MARGIN_SHARE),
            capture_at_s=now_s + self.terms.capture_interval_ms / 1_000,
            extend_at_s=wanted.first_sent_s + ttl_s * EXTEND_AT_SHARE,
            # Work that passes has no hold.
            is_extendable=result.decision.outcome is not Outcome.BYPASSED,
        )
        self.portions.append(portion)
        self.left += held
        if self.is_closing:
            self._end(portion)

    def _refused(self, now_s: float, retry_after_ms: int) -> None:
        """Asking at once again would only be refused again. A limit may name days, in which others
        give back, or somebody raises it.
        """
        wait_s = max(_backoff_s(self._refusals), retry_after_ms / 1_000)
        self._reserve_at_s = now_s + min(RETRY_SECONDS_MAX, wait_s)
        self._refusals += 1

    def _settlements(self, now_s: float) -> list[Wanted]:
        found = []
        for portion in self.portions:
            if portion.pending is None:
                portion.pending = self._settlement(portion, now_s)
            if portion.pending is not None:
                found.append(portion.pending)
        return found

    def _settlement(self, portion: Portion, now_s: float) -> Wanted | None:
        """The next call about a portion, its amount frozen."""
        if portion.is_ending or portion.free == 0:
            self._end(portion)
            return self._capture(portion, now_s, is_final=True)
        if now_s < portion.due_s:
            return None
        portion.capture_at_s = now_s + self.terms.capture_interval_ms / 1_000
        if portion.spent:
            return self._capture(portion, now_s, is_final=False)
        if portion.is_extendable and now_s >= portion.extend_at_s:
            return Wanted(operations.extend(portion.hold_id, self.terms.ttl_ms), now_s, portion)
        return None

    def _capture(self, portion: Portion, now_s: float, *, is_final: bool) -> Wanted:
        amount, portion.spent = portion.spent, 0
        extends = portion.is_extendable and not is_final
        commit = operations.commit(
            portion.hold_id,
            amount,
            credit_type=self.terms.credit_type,
            final=is_final,
            ttl_ms=self.terms.ttl_ms if extends else 0,
            labels=self.terms.labels,
        )
        return Wanted(commit, now_s, portion, amount, is_final)

    def _extended(self, portion: Portion, wanted: Wanted, expires_at_ms: int) -> None:
        """The hold lives until then by the store's clock, and no longer than it was asked to."""
        if not portion.is_extendable:
            return
        ttl_s = self.terms.ttl_ms / 1_000
        lived_s = (expires_at_ms - portion.placed_expiry_ms) / 1_000
        expiry_s = min(wanted.first_sent_s + ttl_s, portion.placed_expiry_s + lived_s)
        portion.valid_until_s = max(portion.valid_until_s, expiry_s - ttl_s * MARGIN_SHARE)
        portion.extend_at_s = wanted.first_sent_s + ttl_s * EXTEND_AT_SHARE

    def _end_expired(self, now_s: float) -> None:
        for portion in self.portions:
            if now_s >= portion.valid_until_s:
                self._end(portion)

    def _end(self, portion: Portion) -> None:
        """Nothing is spent of a portion any more; it is settled next."""
        portion.is_ending = True
        self.left -= portion.free
        portion.free = 0

    def _lose(self, portion: Portion, wanted: Wanted, error: Exception) -> int:
        """The hold is gone, or is left to expire: what was not captured is not charged."""
        self._end(portion)
        self.portions.remove(portion)
        lost = wanted.amount + portion.spent
        self.uncharged += lost
        logger.warning("lease: %d may not have been charged: %s", lost, error)
        return lost


def is_positive(amount: object) -> bool:
    """Whether it is a whole number of at least 1."""
    return isinstance(amount, int) and not isinstance(amount, bool) and amount >= 1


def _is_gone(error: Exception) -> bool:
    return isinstance(error, _GONE) and error.reason != _NOT_GONE


def _take(portion: Portion, amount: int) -> None:
    portion.free -= amount
    portion.spent += amount


def _backoff_s(failures: int) -> float:
    return min(RETRY_SECONDS_MAX, RETRY_SECONDS_MIN * (1 << min(failures, 16)))
