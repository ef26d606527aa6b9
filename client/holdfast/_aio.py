"""The asyncio client: the hot path. I/O only: calls are built and read in `operations`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from holdfast import _calls, operations, results
from holdfast._aio_administration import AsyncAdministration
from holdfast._calls import Amounts, Operation
from holdfast._hold_aio import AsyncHold
from holdfast._lease_aio import AsyncLease
from holdfast._lease_state import CAPTURE_INTERVAL_MS_DEFAULT, LEASE_TTL_MS_DEFAULT, Terms
from holdfast.kinds import Durability, Overage


class AsyncClient(AsyncAdministration):
    """A connection to Holdfast for asyncio.

    Amounts are integers in a credit type's smallest unit: an `int` is of `credit_type` (of the
    call, else of the client), a mapping names an amount for each credit type. Every mutation has a
    `key` that makes sending it again safe; the client makes one by default, and repeats by itself
    what may be repeated. Give your own, such as your request's id, to be protected across restarts.

    Methods answer with results, denials included; `hold` raises `Denied`. What goes wrong is raised
    as a `HoldfastError`; see `holdfast.errors`.
    """

    def hold(
        self,
        account: str,
        amount: Amounts,
        *,
        credit_type: str | None = None,
        minimum: Amounts | None = None,
        feature: str = "",
        ttl_ms: int = operations.TTL_MS_DEFAULT,
        labels: Mapping[str, str] | None = None,
        key: str | None = None,
        durability: Durability = Durability.UNSPECIFIED,
    ) -> AsyncHold:
        """A hold for a block of work: `async with client.hold(…) as hold: … hold.commit(actual)`.

        Raises `Denied` at the beginning of the block when the work must not be done. Extended while
        the block runs, so `ttl_ms` only says how soon credits come back after a crash.
        """
        reserve = operations.reserve(
            account,
            amount,
            credit_type=credit_type,
            minimum=minimum,
            feature=feature,
            ttl_ms=ttl_ms,
            labels=labels,
            key=key,
            durability=durability,
        )
        asked = self._core.amounts(amount, credit_type)
        return AsyncHold(self._core, reserve, asked, ttl_ms, self._send, self._tasks)

    def lease(
        self,
        account: str,
        amount: int,
        *,
        credit_type: str | None = None,
        feature: str = "",
        ttl_ms: int = LEASE_TTL_MS_DEFAULT,
        capture_interval_ms: int = CAPTURE_INTERVAL_MS_DEFAULT,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncLease:
        """Credits held in advance and spent in this process, in about a microsecond each:
        `async with client.lease(…) as lease: … if lease.spend(3): …`.

        `amount` is how much is held at a time: at least as much as the largest `spend`. What was
        spent is captured every `capture_interval_ms` and replaced in the background; the end of
        the block gives the rest back. Never more is spent than is held. If the process dies, its
        holds expire within `ttl_ms`, and what it spent since its last capture is not charged.
        Raises `Denied` at the beginning of the block when there is nothing to hold.
        """
        ((name, whole),) = self._core.amounts(amount, credit_type).items()
        terms = Terms(account, whole, name, feature, ttl_ms, capture_interval_ms, labels)
        return AsyncLease(self._core, terms, self._send, self._leases)

    async def reserve(
        self,
        account: str,
        amount: Amounts,
        *,
        credit_type: str | None = None,
        minimum: Amounts | None = None,
        feature: str = "",
        ttl_ms: int = operations.TTL_MS_DEFAULT,
        labels: Mapping[str, str] | None = None,
        key: str | None = None,
        durability: Durability = Durability.UNSPECIFIED,
    ) -> results.ReserveResult:
        """Sets credits aside for `ttl_ms`. With `minimum`, less will do, but at least that much."""
        return await self._send(
            operations.reserve(
                account,
                amount,
                credit_type=credit_type,
                minimum=minimum,
                feature=feature,
                ttl_ms=ttl_ms,
                labels=labels,
                key=key,
                durability=durability,
            )
        )

    async def commit(
        self,
        hold_id: str,
        amount: Amounts | None = None,
        *,
        credit_type: str | None = None,
        final: bool = True,
        ttl_ms: int = 0,
        overage: Overage = Overage.UNSPECIFIED,
        labels: Mapping[str, str] | None = None,
        key: str | None = None,
        durability: Durability = Durability.UNSPECIFIED,
    ) -> results.CommitResult:
        """Burns what was used of a hold (None: what is held) and gives the rest back.

        Not `final`: captures a part, keeps the rest held, and with `ttl_ms` lets it live that long.
        """
        return await self._send(
            operations.commit(
                hold_id,
                amount,
                credit_type=credit_type,
                final=final,
                ttl_ms=ttl_ms,
                overage=overage,
                labels=labels,
                key=key,
                durability=durability,
            )
        )

    async def release(
        self,
        hold_id: str,
        *,
        reason: str = "",
        key: str | None = None,
        durability: Durability = Durability.UNSPECIFIED,
    ) -> results.ReleaseResult:
        """Gives all of a hold back."""
        return await self._send(
            operations.release(hold_id, reason=reason, key=key, durability=durability)
        )

    async def extend(
        self, hold_id: str, ttl_ms: int, *, key: str | None = None
    ) -> results.ExtendResult:
        """Gives a hold more time, measured from now."""
        return await self._send(operations.extend(hold_id, ttl_ms, key=key))

    async def burn(
        self,
        account: str,
        amount: Amounts,
        *,
        credit_type: str | None = None,
        minimum: Amounts | None = None,
        feature: str = "",
        labels: Mapping[str, str] | None = None,
        key: str | None = None,
        durability: Durability = Durability.UNSPECIFIED,
    ) -> results.BurnResult:
        """Reserves and commits in one step. Look at `decision.allowed`: it can be denied."""
        return await self._send(
            operations.burn(
                account,
                amount,
                credit_type=credit_type,
                minimum=minimum,
                feature=feature,
                labels=labels,
                key=key,
                durability=durability,
            )
        )

    async def refund(
        self,
        transaction_id: str,
        amount: Amounts | None = None,
        *,
        credit_type: str | None = None,
        reason_code: str = "",
        goodwill_ttl_ms: int = 0,
        key: str | None = None,
        durability: Durability = Durability.UNSPECIFIED,
    ) -> results.RefundResult:
        """Gives what a commit or burn burned back to its grants; None means all that is left.

        What belonged to a grant that has expired stays expired; with `goodwill_ttl_ms` it becomes a
        new grant that lives this long.
        """
        return await self._send(
            operations.refund(
                transaction_id,
                amount,
                credit_type=credit_type,
                reason_code=reason_code,
                goodwill_ttl_ms=goodwill_ttl_ms,
                key=key,
                durability=durability,
            )
        )

    async def batch(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """Up to 1,000 operations (of `holdfast.operations`) in one call, decided in their order.

        Answers each with its result, or with the `HoldfastError` a single call would have raised.
        """
        answers, asked = self._core.batch(operations)
        if asked:
            found = await self._send(_calls.batch([operations[index] for index in asked]))
            for index, answer in zip(asked, found, strict=True):
                answers[index] = answer
        return answers

    async def balance(self, account: str) -> results.BalanceResult:
        """What an account has, holds and has used now."""
        return await self._send(operations.balance(account))

    async def await_durable(
        self,
        transaction_id: str,
        durability: Durability = Durability.LEDGER,
        *,
        seq: int = 0,
    ) -> Durability:
        """What has been reached of a transaction: less than was asked for where that takes long.

        Both are in an answer's `applied`; without `seq` it waits for all that the partition has.
        Call it again to wait on.
        """
        return await self._send(_calls.await_durable(transaction_id, seq, durability))

    def list_holds(
        self, account: str, *, include_descendants: bool = False
    ) -> AsyncIterator[results.OpenHold]:
        """The open holds of an account, sooner expiry first."""
        return self._pages(lambda token: _calls.list_holds(account, include_descendants, token))
