"""The life of a hold around a block of work: what is recorded, how it is settled. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from holdfast import operations, results
from holdfast._calls import Amounts, Call, Operation
from holdfast._core import Core, allowed_amounts
from holdfast.errors import Denied, FailedPrecondition, HoldfastError, NotFound
from holdfast.kinds import Outcome, Overage

logger = logging.getLogger("holdfast")

#: A hold that is being worked under is extended when this share of its time to live has passed, so
#: that one extension may fail and the next still comes in time.
EXTEND_AT_SHARE = 0.5
#: An extension that failed is tried again when this share of the time that is left has passed, and
#: this many seconds at least.
RETRY_AT_SHARE = 0.25
RETRY_SECONDS_MIN = 0.25
#: How long an extension may take with all its attempts: one must not hold up those of other holds.
EXTEND_TIMEOUT_MS = 2_000


class HoldBase:
    """A hold around a block of work: placed at its start, extended meanwhile, settled at its end.

    At the end of the block the amount given to `commit` is burned and the rest given back. A block
    that ends without `commit` burns what is held: the work was done, and charging the estimate can
    be refunded, while giving work away cannot be undone. A block that raises releases the hold,
    unless an amount was recorded before: that much work had been done.
    """

    def __init__(
        self,
        core: Core,
        reserve: Operation[results.ReserveResult],
        asked: dict[str, int],
        ttl_ms: int,
    ) -> None:
        self._core = core
        self._reserve = reserve
        self._asked = asked
        self._ttl_ms = ttl_ms
        self._placed: results.ReserveResult | None = None
        #: A time before which the hold cannot have expired, and when it is to be extended.
        self._expires_s = 0.0
        self._extend_at_s = 0.0
        self._recorded: Operation[results.CommitResult | results.ReleaseResult] | None = None
        self._settled = False
        self._receipt: results.CommitResult | None = None
        self._lost = False

    @property
    def placed(self) -> results.ReserveResult:
        """The whole answer to the reserve. Raises RuntimeError before the block has begun."""
        if self._placed is None:
            raise RuntimeError("the hold is placed when its block begins")
        return self._placed

    @property
    def decision(self) -> results.Decision:
        """Why the work may be done; in shadow mode, why enforcement would have denied it."""
        return self.placed.decision

    @property
    def hold_id(self) -> str:
        """Names the hold; empty when nobody could be reached."""
        return self.placed.hold_id

    @property
    def amounts(self) -> Mapping[str, int]:
        """How much work is allowed, per credit type: with a `minimum`, possibly less than asked."""
        return allowed_amounts(self.placed, self._asked)

    @property
    def amount(self) -> int:
        """How much work is allowed, for a hold of one credit type."""
        (amount,) = self.amounts.values()
        return amount

    @property
    def receipt(self) -> results.CommitResult | None:
        """The answer to the commit at the end of the block; None before, and after a release."""
        return self._receipt

    @property
    def lost(self) -> bool:
        """True when the hold has ended under the block, or will; a commit is then a late one."""
        return self._lost

    @property
    def settled(self) -> bool:
        """True once a settlement has been sent."""
        return self._settled

    def commit(
        self,
        amount: Amounts,
        *,
        credit_type: str | None = None,
        overage: Overage = Overage.UNSPECIFIED,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Records what was used since the last capture; the block's end sends the last record."""
        self._recorded = operations.commit(
            self.hold_id, amount, credit_type=credit_type, overage=overage, labels=labels
        )

    def _capture(
        self,
        amount: Amounts,
        *,
        credit_type: str | None,
        overage: Overage,
        labels: Mapping[str, str] | None,
        key: str | None,
    ) -> Operation[results.CommitResult]:
        """Burns a part and keeps the rest held; there is no rest where nobody could be reached."""
        return operations.commit(
            self.hold_id,
            amount,
            credit_type=credit_type,
            final=False,
            ttl_ms=self._ttl_ms if self.hold_id else 0,
            overage=overage,
            labels=labels,
            key=key,
        )

    def _begin(self, result: results.ReserveResult, sent_s: float) -> None:
        if not result.decision.allowed:
            raise Denied(result.decision)
        self._placed = result
        self._lives(sent_s)

    def _lives(self, sent_s: float) -> None:
        """It has a whole time to live, at the earliest from when that was first sent: the answer
        may be to an attempt that was applied long before.
        """
        ttl_s = self._ttl_ms / 1_000
        self._expires_s = sent_s + ttl_s
        self._extend_at_s = sent_s + ttl_s * EXTEND_AT_SHARE

    def _settlement(
        self, failed: bool
    ) -> Call[results.CommitResult | results.ReleaseResult] | None:
        """What to send at the end of the block, once."""
        if self._settled:
            return None
        self._settled = True
        if self._recorded is not None:
            return self._recorded
        if failed:
            return operations.release(self.hold_id, reason="the work failed")
        return operations.commit(self.hold_id)

    def _extension(self) -> Operation[results.ExtendResult]:
        extension = operations.extend(self.hold_id, self._ttl_ms)
        extension.timeout_ms = EXTEND_TIMEOUT_MS
        return extension

    def _extend_after_s(self, now_s: float) -> float | None:
        """When to extend, from now; None when there is nothing to extend."""
        if self._settled or self._lost or self.decision.outcome is Outcome.BYPASSED:
            return None
        return max(0.0, self._extend_at_s - now_s)

    def _extension_failed(self, error: Exception, now_s: float) -> None:
        """A hold that has ended needs no further extension; everything else is tried again."""
        if self._settled:
            return
        self._lost = isinstance(error, NotFound | FailedPrecondition)
        # The nearer its end, the sooner; and the seldomer, the longer that is past.
        left_s = abs(self._expires_s - now_s)
        self._extend_at_s = now_s + max(RETRY_SECONDS_MIN, left_s * RETRY_AT_SHARE)
        logger.warning("hold not extended: %s", error)

    def _settlement_failed(self, error: HoldfastError, failed: bool) -> None:
        """Raises `error`, unless the block's exception or the choice to fail open goes first."""
        if failed or self._core.forgives(error):
            logger.warning("hold not settled, it will expire: %s", error)
            return
        raise error
