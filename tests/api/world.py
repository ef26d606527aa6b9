"""A tenant of a real service: makes what a test needs, and sees whether anything was changed."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from holdfast.v1 import account_service_pb2 as accounts
from holdfast.v1 import balance_service_pb2 as balance
from holdfast.v1 import grant_service_pb2 as grants
from holdfast.v1 import ledger_service_pb2 as ledger
from holdfast.v1 import types_pb2 as types
from holdfast_server.errors import Reason
from tests.api.service import ApiService
from tests.support.stubs import Stubs
from tests.support.wire import Refusal, refused

#: How long a condition may take to come true.
WAIT_SECONDS_MAX = 15.0
POLL_SECONDS = 0.02


def uuid7(time_ms: int | None = None) -> str:
    """A UUIDv7 of now, or of another time."""
    time_ms = time.time_ns() // 1_000_000 if time_ms is None else time_ms
    random = secrets.token_hex(10)
    head = f"{time_ms:012x}"
    return f"{head[:8]}-{head[8:]}-7{random[:3]}-8{random[3:6]}-{random[6:18]}"


@dataclass
class World:
    """One tenant of a service."""

    service: ApiService
    client: Stubs
    tenant: str
    _numbers: Any = field(default_factory=count)

    def name(self, prefix: str = "a") -> str:
        """An id that was not used before."""
        return f"{prefix}{next(self._numbers)}"

    async def create_credit_type(self, code: str) -> None:
        """Defines a credit type."""
        await self.client.accounts.CreateCreditType(
            accounts.CreateCreditTypeRequest(
                tenant=self.tenant, credit_type=types.CreditType(credit_type=code)
            )
        )

    async def create_account(
        self, *, credits: int = 0, parent: str = "", account: str = "", **terms: Any
    ) -> str:
        """An account, with credits if it shall have any."""
        account = account or self.name()
        await self.client.accounts.CreateAccount(
            accounts.CreateAccountRequest(
                tenant=self.tenant,
                account=accounts.Account(account=account, parent=parent, **terms),
                idempotency_key=uuid7(),
            )
        )
        if credits:
            await self.client.grants.Grant(self.grant(account, amount=credits))
        return account

    def grant(self, account: str, **changes: Any) -> grants.GrantRequest:
        """A Grant that is right, but for the changes to its terms."""
        terms = {"credit_type": "ai", "amount": 1_000, "source": types.GRANT_SOURCE_PLAN, **changes}
        return grants.GrantRequest(
            tenant=self.tenant,
            account=account,
            terms=grants.GrantTerms(**terms),
            idempotency_key=uuid7(),
            durability=types.DURABILITY_MEMORY,
        )

    def reserve(self, account: str, amount: int = 10, **changes: Any) -> balance.ReserveRequest:
        """A Reserve that is right, but for the changes."""
        fields = {
            "tenant": self.tenant,
            "account": account,
            "lines": [types.Line(credit_type="ai", amount=amount)],
            "ttl_ms": 60_000,
            "idempotency_key": uuid7(),
            **changes,
        }
        return balance.ReserveRequest(**fields)

    def burn(self, account: str, amount: int = 10, **changes: Any) -> balance.BurnRequest:
        """A Burn that is right, but for the changes."""
        fields = {
            "tenant": self.tenant,
            "account": account,
            "lines": [types.Line(credit_type="ai", amount=amount)],
            "idempotency_key": uuid7(),
            **changes,
        }
        return balance.BurnRequest(**fields)

    def commit(self, hold: str, **changes: Any) -> balance.CommitRequest:
        """A Commit that is right, but for the changes."""
        fields = {
            "tenant": self.tenant,
            "hold_id": hold,
            "idempotency_key": uuid7(),
            **changes,
        }
        return balance.CommitRequest(**fields)

    def release(self, hold: str, **changes: Any) -> balance.ReleaseRequest:
        """A Release that is right, but for the changes."""
        fields = {
            "tenant": self.tenant,
            "hold_id": hold,
            "idempotency_key": uuid7(),
            **changes,
        }
        return balance.ReleaseRequest(**fields)

    async def hold(self, account: str, amount: int = 10, **changes: Any) -> str:
        """The id of a new hold."""
        answer = await self.client.balance.Reserve(self.reserve(account, amount, **changes))
        assert answer.decision.outcome == types.OUTCOME_GRANTED, answer
        return answer.hold_id

    async def balance(self, account: str) -> balance.BalanceResponse:
        """What an account has, without the instant at which that was."""
        request = balance.BalanceRequest(tenant=self.tenant, account=account)
        answer = await self.client.balance.Balance(request)
        answer.ClearField("as_of")
        return answer

    async def buckets(self, account: str) -> types.Buckets:
        """The buckets of an account's one credit type."""
        (credit,) = (await self.balance(account)).credits
        return credit.buckets

    async def entries(self, account: str, at_least: int) -> list[ledger.Entry]:
        """The account's entries in the ledger, newest first, once there are enough of them."""
        request = ledger.ListEntriesRequest(tenant=self.tenant, account=account)
        found: list[ledger.Entry] = []

        async def are_there() -> bool:
            found[:] = (await self.client.ledger.ListEntries(request)).entries
            return len(found) >= at_least

        await eventually(are_there)
        return found

    async def balance_is_answered(self) -> None:
        """The service still answers."""
        request = balance.BalanceRequest(tenant=self.tenant, account="nobody")
        await refused(self.client.balance.Balance(request), Reason.ACCOUNT_NOT_FOUND)

    @asynccontextmanager
    async def unchanged(self, *account_names: str) -> AsyncIterator[None]:
        """Within the block nothing is booked: balances, versions and the outbox stay as they are.

        The accounts must be roots.
        """
        before = [await self.balance(name) for name in account_names]
        outbox = self.service.newest_entries(self.tenant, *account_names)
        yield
        assert [await self.balance(name) for name in account_names] == before
        assert self.service.newest_entries(self.tenant, *account_names) == outbox
        assert self.service.is_healthy()

    async def refuses(
        self, call: Awaitable[object], reason: Reason, *account_names: str
    ) -> Refusal:
        """The refusal of a call that changes nothing."""
        async with self.unchanged(*account_names):
            return await refused(call, reason)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Returns once the condition is true. Fails when that takes too long."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(POLL_SECONDS)
