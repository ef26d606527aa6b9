"""A real API server over a submitter that does what a test tells it, for faults of the inside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from holdfast_server.api.accounts import AccountService
from holdfast_server.api.allowance import Allowance
from holdfast_server.api.auth.authenticator import Authenticator
from holdfast_server.api.balance import BalanceService
from holdfast_server.api.dispatch import Bounds, Dispatcher
from holdfast_server.api.grants import GrantService
from holdfast_server.api.ledger import LedgerService
from holdfast_server.api.methods import Service
from holdfast_server.api.page_token import PageTokens
from holdfast_server.api.server import ApiServer
from holdfast_server.api.submission import Submission
from holdfast_server.api.transport import Endpoint
from holdfast_server.domain import reply
from holdfast_server.domain.operation import Caller, Durability, Operation
from holdfast_server.domain.submit import Answer, Asked
from holdfast_server.engine.accounts import HoldCursor
from holdfast_server.ledger.store import Ledger
from holdfast_server.telemetry.recorder import Recorder
from holdfast_server.telemetry.tracing import Tracing

PARTITIONS = 256
#: A port on which nothing listens: the ledger connects when it is first asked.
NO_POSTGRES = "postgresql://holdfast@127.0.0.1:1/holdfast"

Behaviour = Callable[[Operation], Awaitable[Answer]]


async def empty_balance(operation: Operation) -> Answer:
    """What an account without credits has."""
    return reply.BalanceReply(account="a", credits=(), limits=(), open_holds=0, as_of_ms=1)


class HeldUp:
    """Answers nothing before it is released."""

    def __init__(self) -> None:
        self.is_begun, self.is_released = asyncio.Event(), asyncio.Event()
        self.is_done = asyncio.Event()

    async def __call__(self, operation: Operation) -> Answer:
        self.is_begun.set()
        await self.is_released.wait()
        self.is_done.set()
        return await empty_balance(operation)


@dataclass
class Recording:
    """Records what it is asked, and behaves as told. Also the reader of accounts and holds."""

    behave: Behaviour = empty_balance
    #: What an attempt leaves to a call of its own.
    is_slow: Callable[[Operation], bool] = lambda _: False
    seen: list[tuple[Caller, Operation]] = field(default_factory=list)
    #: How many operations were tried together, each time.
    tried: list[int] = field(default_factory=list)

    async def submit(self, caller: Caller, operations: Sequence[Operation]) -> list[Answer]:
        self.seen += [(caller, operation) for operation in operations]
        return [await self.behave(operation) for operation in operations]

    async def attempt(self, asked: Sequence[Asked]) -> list[Answer | None]:
        """What does not depend on one another is done at the same time."""
        self.tried.append(len(asked))
        return await asyncio.gather(*(self._tried(*each) for each in asked))

    async def _tried(self, caller: Caller, operation: Operation) -> Answer | None:
        if self.is_slow(operation):
            return None
        self.seen.append((caller, operation))
        return await self.behave(operation)

    async def list_holds(
        self,
        tenant: str,
        account: str,
        include_descendants: bool,
        limit: int,
        after: HoldCursor | None,
    ) -> tuple[list[reply.OpenHold], HoldCursor | None]:
        """One page after another, without end."""
        return [], HoldCursor(1, bytes(16))

    async def await_durable(self, transaction_id: str, seq: int, level: Durability) -> Durability:
        """Everything has reached everything."""
        return level

    async def get_account(self, tenant: str, account: str) -> reply.Account:
        raise NotImplementedError


@dataclass
class Running:
    """A server and what it is made of."""

    port: int
    server: ApiServer
    recording: Recording
    dispatcher: Dispatcher


@asynccontextmanager
async def running(
    recording: Recording,
    *,
    authenticator: Authenticator | None = None,
    endpoint: Endpoint | None = None,
    bounds: Bounds | None = None,
    allowance: Allowance | None = None,
    tracing: Tracing | None = None,
) -> AsyncIterator[Running]:
    """Serves on a free port of loopback until the block ends."""
    authenticator = authenticator or Authenticator()
    ledger = await Ledger.open(NO_POSTGRES, pool_size=1)
    dispatcher = Dispatcher(
        authenticator,
        allowance or Allowance(0, lambda: 0),
        bounds or Bounds(deadline_ms=5_000, concurrent_max=100),
        Recorder(),
        tracing or Tracing({}, 0.0),
    )
    server = ApiServer(
        endpoint or Endpoint("127.0.0.1", 0, development=True),
        services(recording, ledger),
        authenticator,
        dispatcher,
    )
    try:
        yield Running(await server.start(), server, recording, dispatcher)
    finally:
        await server.drain(0.1)
        await ledger.close()


def services(recording: Recording, ledger: Ledger) -> list[Service]:
    """All but the control service, which needs its stores."""
    pages, submission = PageTokens(bytes(32)), Submission(recording, Recorder())
    return [
        BalanceService(submission, recording, recording, pages),
        AccountService(submission, recording, ledger, ledger, pages),
        GrantService(submission, ledger, pages),
        LedgerService(ledger, pages, PARTITIONS),
    ]
