"""Messages that are too large, too many, or no messages: rows A41 to A45 of the abuse matrix."""

from __future__ import annotations

import gzip

import grpc
import pytest

from holdfast.v1 import balance_service_pb2 as balance
from holdfast.v1 import types_pb2 as types
from holdfast_server.errors import Reason
from tests.api.world import World, uuid7
from tests.support.wire import refused


def line(amount: int) -> types.Line:
    return types.Line(credit_type="ai", amount=amount)


async def test_a41_a_message_above_the_limit(world: World) -> None:
    account = await world.create_account(credits=100)
    request = world.release("h", reason="x" * 1_100_000)
    async with world.unchanged(account):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.client.balance.Release(request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def batch(*items: balance.BatchItem) -> balance.BatchRequest:
    return balance.BatchRequest(items=items)


async def test_a42_a_batch_of_ten_thousand(world: World) -> None:
    account = await world.create_account(credits=100)
    item = balance.BatchItem(burn=balance.BurnRequest(tenant=world.tenant, account=account))
    call = world.client.balance.Batch(batch(*[item] * 10_000))
    refusal = await world.refuses(call, Reason.BATCH_TOO_LARGE, account)
    assert refusal.metadata == {"maximum": "1000", "items": "10000"}


async def test_a42_an_empty_batch(world: World) -> None:
    refusal = await refused(world.client.balance.Batch(batch()), Reason.BATCH_EMPTY)
    assert refusal.metadata == {"field": "items"}


async def test_a43_a_batch_with_one_key_twice(world: World) -> None:
    account = await world.create_account(credits=100)
    burns = [balance.BatchItem(burn=world.burn(account, 1)) for _ in range(3)]
    call = world.client.balance.Batch(batch(*burns, burns[1]))
    refusal = await world.refuses(call, Reason.BATCH_DUPLICATE, account)
    assert refusal.metadata == {"index": "3"}


async def test_a43_a_batch_of_several_tenants(world: World) -> None:
    account = await world.create_account(credits=100)
    call = world.client.balance.Batch(
        batch(
            balance.BatchItem(burn=world.burn(account, 1)),
            balance.BatchItem(burn=world.burn(account, 1, tenant="other")),
        )
    )
    refusal = await world.refuses(call, Reason.BATCH_MIXED_SCOPE, account)
    assert refusal.metadata == {"index": "1"}


async def test_a43_each_item_of_a_batch_has_its_own_outcome(world: World) -> None:
    account, poor = await world.create_account(credits=100), await world.create_account(credits=1)
    hold = await world.hold(account, 10)
    key = uuid7()
    answer = await world.client.balance.Batch(
        batch(
            balance.BatchItem(burn=world.burn(account, -1)),
            balance.BatchItem(burn=world.burn(account, 5, idempotency_key=key)),
            balance.BatchItem(reserve=world.reserve(account, 5, idempotency_key=key)),
            balance.BatchItem(burn=world.burn(poor, 2)),
            balance.BatchItem(commit=world.commit(hold)),
            balance.BatchItem(commit=world.commit(hold)),
            balance.BatchItem(),
            balance.BatchItem(balance=balance.BalanceRequest(tenant=world.tenant, account=account)),
        )
    )
    kinds = [result.WhichOneof("result") for result in answer.results]
    assert kinds == ["error", "burn", "reserve", "burn", "commit", "error", "error", "balance"]
    errors = [result.error for result in answer.results if result.WhichOneof("result") == "error"]
    assert [Reason(error.reason) for error in errors] == [
        Reason.AMOUNT_NOT_POSITIVE,
        Reason.HOLD_ALREADY_COMMITTED,
        Reason.FIELD_INVALID,
    ]
    assert errors[0].code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert errors[0].metadata == {"field": "lines[0].amount"}
    assert answer.results[3].burn.decision.reason == Reason.INSUFFICIENT_CREDITS.value
    # Decided in the order given: the balance is that after all of them.
    buckets = answer.results[7].balance.credits[0].buckets
    assert (buckets.burned, buckets.held, buckets.available) == (15, 5, 80)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\xff" * 100, id="garbage"),
        pytest.param(b"\x0a\xff\xff\xff\xff\x0f", id="length beyond the end"),
        pytest.param(b"\x7b" * 200 + b"\x7c" * 200, id="200 nested groups"),
        pytest.param(b"\x0a\x02\xc3\x28", id="no UTF-8"),
    ],
)
async def test_a44_bytes_that_are_no_message(world: World, payload: bytes) -> None:
    account = await world.create_account(credits=100)
    async with world.unchanged(account):
        for path in ("BalanceService/Reserve", "GrantService/Grant", "ControlService/SetPolicy"):
            await refused(world.client.raw(path, payload), Reason.MALFORMED_REQUEST)


async def test_a44_a_hundred_thousand_lines(world: World) -> None:
    account = await world.create_account(credits=100)
    request = world.reserve(account, lines=[line(1)] * 100_000)
    call = world.client.balance.Reserve(request)
    refusal = await world.refuses(call, Reason.LINES_INVALID, account)
    assert refusal.metadata == {"field": "lines", "maximum": "8"}


@pytest.mark.parametrize("lines", [[], [line(1), line(2)]], ids=["none", "one type twice"])
async def test_a44_wrong_lines(world: World, lines: list[types.Line]) -> None:
    account = await world.create_account(credits=100)
    call = world.client.balance.Reserve(world.reserve(account, lines=lines))
    await world.refuses(call, Reason.LINES_INVALID, account)


async def test_a44_unknown_fields_change_nothing(world: World) -> None:
    account = await world.create_account(credits=100)
    request = world.burn(account, 7)
    unknown = b"\xfa\x7f\xc0\x9a\x0c" + b"x" * 200_000
    raw = await world.client.raw("BalanceService/Burn", request.SerializeToString() + unknown)
    first = balance.BurnResponse.FromString(raw)
    again = await world.client.balance.Burn(request)
    assert not first.applied.replayed
    assert again.applied.replayed
    assert (await world.buckets(account)).burned == 7


async def test_a45_a_message_that_explodes_when_unpacked(world: World) -> None:
    account = await world.create_account(credits=100)
    bomb = bytes(60_000_000)
    assert len(gzip.compress(bomb)) < 100_000
    async with world.unchanged(account):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.client.raw(
                "BalanceService/Reserve", bomb, compression=grpc.Compression.Gzip
            )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
