"""Session: many operations over one stream, each answered once, whatever happens to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from holdfast.v1 import balance_service_pb2 as balance
from holdfast.v1 import reason_pb2 as reasons
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.auth.principal import Role
from holdfast_server.api.session import UNANSWERED_MAX
from holdfast_server.errors import Reason
from tests.api.service import TENANT, ApiService, token_of
from tests.api.world import World, uuid7
from tests.support.stubs import stubs
from tests.support.wire import refused


class Line:
    """A stream with numbers for its operations."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.answers: dict[int, balance.BatchResult] = {}
        self.closing = False
        self._last = 0

    async def send(self, *items: balance.BatchItem) -> list[int]:
        """Sends a message; answers the ids of its operations."""
        for item in items:
            self._last += 1
            item.id = self._last
        await self.call.write(balance.SessionRequest(items=items))
        return [item.id for item in items]

    async def answered(self, ids: Iterable[int]) -> list[balance.BatchResult]:
        """Reads until all of these are answered."""
        wanted = list(ids)
        while not all(each in self.answers for each in wanted):
            await self.read()
        return [self.answers[each] for each in wanted]

    async def read(self) -> None:
        """Reads one message. No operation is ever answered twice."""
        message = await self.call.read()
        assert message is not grpc.aio.EOF
        self.closing = self.closing or message.closing
        for result in message.results:
            assert result.id not in self.answers
            self.answers[result.id] = result

    async def ask(self, *items: balance.BatchItem) -> list[balance.BatchResult]:
        """Sends a message and waits for its answers."""
        return await self.answered(await self.send(*items))


@asynccontextmanager
async def line(world: World) -> AsyncIterator[Line]:
    """A stream that ends well."""
    opened = Line(world.client.session())
    yield opened
    await opened.call.done_writing()
    while (message := await opened.call.read()) is not grpc.aio.EOF:
        assert message
    assert await opened.call.code() is grpc.StatusCode.OK


def reserve(world: World, account: str, **changes: Any) -> balance.BatchItem:
    return balance.BatchItem(reserve=world.reserve(account, **changes))


def durable_burn(world: World, account: str) -> balance.BatchItem:
    """One that is answered once the ledger has it."""
    return balance.BatchItem(burn=world.burn(account, 1, durability=types.DURABILITY_LEDGER))


def commit(world: World, hold: str, **changes: Any) -> balance.BatchItem:
    fields = {"tenant": world.tenant, "hold_id": hold, "idempotency_key": uuid7(), **changes}
    return balance.BatchItem(commit=balance.CommitRequest(**fields))


def look(world: World, account: str) -> balance.BatchItem:
    return balance.BatchItem(balance=balance.BalanceRequest(tenant=world.tenant, account=account))


async def test_operations_of_every_kind_have_their_own_answers(world: World) -> None:
    account = await world.create_account(credits=100)
    async with line(world) as stream:
        held, denied = await stream.ask(
            reserve(world, account), reserve(world, account, amount=1_000)
        )
        assert held.reserve.decision.outcome == types.OUTCOME_GRANTED
        assert denied.reserve.decision.outcome == types.OUTCOME_DENIED
        receipt, seen, unknown, empty = await stream.ask(
            commit(world, held.reserve.hold_id),
            look(world, account),
            commit(world, "no-such-hold"),
            balance.BatchItem(),
        )
        assert not stream.closing
    assert receipt.commit.lines[0].burned == 10
    assert seen.balance.credits[0].buckets.burned == 10
    assert unknown.error.reason == reasons.REASON_HOLD_NOT_FOUND
    assert empty.error.reason == reasons.REASON_FIELD_INVALID


async def test_messages_are_answered_without_waiting_for_each_other(world: World) -> None:
    account = await world.create_account(credits=10_000)
    async with line(world) as stream:
        ids = [
            one
            for _ in range(20)
            for one in await stream.send(*(reserve(world, account) for _ in range(30)))
        ]
        answers = await stream.answered(ids)
    assert len({answer.reserve.hold_id for answer in answers}) == 600


async def test_the_same_key_twice_is_one_operation(world: World) -> None:
    account = await world.create_account(credits=100)
    key = uuid7()
    async with line(world) as stream:
        first, second = await stream.ask(
            reserve(world, account, idempotency_key=key),
            reserve(world, account, idempotency_key=key),
        )
    assert first.reserve.hold_id == second.reserve.hold_id
    assert [first.reserve.applied.replayed, second.reserve.applied.replayed] == [False, True]


async def test_who_waits_for_the_ledger_does_not_hold_up_the_others(world: World) -> None:
    """The one that is slow comes first in its message; the other is answered before it."""
    account = await world.create_account(credits=100)
    async with line(world) as stream:
        slow, fast = await stream.send(
            reserve(world, account, durability=types.DURABILITY_LEDGER), reserve(world, account)
        )
        await stream.read()
        assert list(stream.answers) == [fast]
        (answer,) = await stream.answered([slow])
    # On a busy machine the ledger may take longer than anybody waits for it.
    assert answer.reserve.applied.durability >= types.DURABILITY_MEMORY


@pytest.mark.parametrize("are_traced", [False, True])
async def test_as_many_may_wait_for_the_ledger_as_may_be_unanswered(
    world: World, are_traced: bool
) -> None:
    """They are answered, not refused for want of room, whatever their number, also where each
    stands in a trace of its own.
    """
    account = await world.create_account(credits=10_000)
    async with line(world) as stream:
        items = [durable_burn(world, account) for _ in range(1_300)]
        for number, item in enumerate(items if are_traced else (), 1):
            item.traceparent = f"00-{number:032x}-{number:016x}-00"
        ids = [one for some in (items[:1_000], items[1_000:]) for one in await stream.send(*some)]
        answers = await stream.answered(ids)
    assert {reasons.Reason.Name(answer.error.reason) for answer in answers} == {
        "REASON_UNSPECIFIED"
    }
    assert (await world.buckets(account)).burned == 1_300


async def test_a_stream_that_breaks_and_the_same_again_leave_one_hold(world: World) -> None:
    account = await world.create_account(credits=100)
    item = reserve(world, account)
    broken = Line(world.client.session())
    await broken.send(item)
    broken.call.cancel()
    async with line(world) as stream:
        (again,) = await stream.ask(item)
        (seen,) = await stream.ask(look(world, account))
    assert again.reserve.decision.outcome == types.OUTCOME_GRANTED
    assert seen.balance.credits[0].buckets.held == 10


@pytest.mark.parametrize(
    ("ids", "reason"),
    [([0], Reason.FIELD_INVALID), ([7, 7], Reason.FIELD_INVALID), ([], Reason.BATCH_EMPTY)],
)
async def test_a_message_that_cannot_be_answered_ends_the_stream(
    world: World, ids: list[int], reason: Reason
) -> None:
    account = await world.create_account(credits=100)
    items = [reserve(world, account) for _ in ids]
    for item, id in zip(items, ids, strict=True):
        item.id = id
    call = world.client.session()
    await call.write(balance.SessionRequest(items=items))
    refusal = await refused(call.read(), reason)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_bytes_that_are_no_message_end_the_stream(world: World, service: ApiService) -> None:
    async with stubs(service.port, token=token_of(TENANT, Role.SPENDER)) as client:
        call: Any = client.channel.stream_stream("/holdfast.v1.BalanceService/Session")(
            metadata=client.metadata
        )
        await call.write(b"\xff\xff\xff")
        await refused(call.read(), Reason.MALFORMED_REQUEST)


async def test_a_caller_that_does_not_read_is_held_back_not_forgotten(world: World) -> None:
    """More than may wait are sent before one answer is read; all of them are answered."""
    account = await world.create_account(credits=100)
    async with line(world) as stream:
        sending = asyncio.create_task(_send_many(world, stream, account, UNANSWERED_MAX + 2_000))
        ids = range(1, UNANSWERED_MAX + 2_001)
        answers = await stream.answered(ids)
        await sending
    assert all(answer.balance.account == account for answer in answers)


async def _send_many(world: World, stream: Line, account: str, operations: int) -> None:
    for first in range(0, operations, 1_000):
        count = min(1_000, operations - first)
        await stream.send(*(look(world, account) for _ in range(count)))


async def test_each_item_is_held_to_the_tenant_of_the_credential(service: ApiService) -> None:
    async with stubs(service.port, token=token_of(TENANT, Role.SPENDER)) as client:
        stream = Line(client.session())
        (other,) = await stream.ask(
            balance.BatchItem(balance=balance.BalanceRequest(tenant="other", account="a"))
        )
        await stream.call.done_writing()
    assert other.error.reason == reasons.REASON_TENANT_MISMATCH
