"""Leases of both clients against a real service: what is spent is charged, no more and no less."""

from __future__ import annotations

import asyncio
import sys
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast import AsyncClient, Client, Denied, FailedPrecondition, GrantSource
from holdfast._lease import _disown_leases
from tests.support.server import RunningService
from tests.support.waiting import until


@pytest.fixture
async def client(holdfast_server: RunningService) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(holdfast_server.target) as one:
        await one.create_credit_type("credits")
        yield one


@pytest.fixture
async def acct(client: AsyncClient) -> str:
    """An account with 1,000 credits."""
    name = f"lease-{uuid.uuid4().hex[:12]}"
    await client.create_account(name)
    await client.grant(name, 1_000, source=GrantSource.PURCHASE)
    return name


async def figures(client: AsyncClient, acct: str) -> tuple[int, int, int]:
    """Available, held and burned."""
    buckets = (await client.balance(acct)).credits[0].buckets
    return buckets.available, buckets.held, buckets.burned


async def test_what_was_spent_is_charged_and_the_rest_given_back(
    client: AsyncClient, acct: str
) -> None:
    async with client.lease(acct, 100) as lease:
        assert await figures(client, acct) == (900, 100, 0)
        assert all(lease.spend(3) for _ in range(10))
        assert not lease.spend(71)
        assert lease.left == 70
    assert await figures(client, acct) == (970, 0, 30)
    assert (lease.captured, lease.uncharged) == (30, 0)
    with pytest.raises(RuntimeError, match="inside its block"):
        lease.spend()


async def test_a_lease_is_topped_up_until_nothing_is_left(client: AsyncClient, acct: str) -> None:
    spent = 0
    async with client.lease(acct, 100, capture_interval_ms=20) as lease:

        async def is_spent() -> bool:
            nonlocal spent
            while lease.spend(7):
                spent += 7
            return 1_000 - spent < 7

        await until(is_spent)
        assert lease.decision is not None
    assert await figures(client, acct) == (1_000 - spent, 0, spent)


async def test_use_is_captured_while_the_lease_goes_on(client: AsyncClient, acct: str) -> None:
    async with client.lease(acct, 100, capture_interval_ms=20) as lease:
        assert lease.spend(40)

        async def is_captured() -> bool:
            # The service has captured before the lease hears of it.
            return await figures(client, acct) == (900, 60, 40) and lease.captured == 40

        await until(is_captured)
        assert lease.left == 60


async def test_a_lease_needs_something_to_hold(client: AsyncClient, acct: str) -> None:
    await client.burn(acct, 1_000)
    with pytest.raises(Denied) as denied:
        async with client.lease(acct, 100):
            pass
    assert denied.value.reason == "INSUFFICIENT_CREDITS"


async def test_a_hold_that_somebody_else_ends_is_replaced(client: AsyncClient, acct: str) -> None:
    async with client.lease(acct, 100, capture_interval_ms=20) as lease:
        (hold,) = [hold async for hold in client.list_holds(acct)]
        await client.release(hold.hold_id)
        assert lease.spend(30)

        async def is_replaced() -> bool:
            return lease.uncharged == 30 and lease.left == 100

        await until(is_replaced)
        assert lease.spend(10)
    assert await figures(client, acct) == (990, 0, 10)


async def test_a_client_ends_its_leases_before_it_disconnects(
    client: AsyncClient, acct: str, holdfast_server: RunningService
) -> None:
    async with AsyncClient(holdfast_server.target) as other:
        lease = await other.lease(acct, 100).__aenter__()
        assert lease.spend(5)
    assert await figures(client, acct) == (995, 0, 5)


async def release_all(client: AsyncClient, acct: str) -> None:
    """Somebody else ends the holds of leases, so that what they spent cannot be charged."""
    async for hold in client.list_holds(acct):
        await client.release(hold.hold_id)


async def test_a_client_closes_all_though_a_lease_fails(
    client: AsyncClient, holdfast_server: RunningService, acct: str
) -> None:
    other = AsyncClient(holdfast_server.target)
    leases = [await other.lease(acct, 100).__aenter__() for _ in range(2)]
    assert all(lease.spend(5) for lease in leases)
    await release_all(client, acct)
    with pytest.raises(FailedPrecondition, match="RELEASED"):
        await other.close()
    assert not other._leases
    with pytest.raises(FailedPrecondition, match="closed"):
        await other.balance(acct)


async def test_a_client_closes_all_though_a_lease_fails_in_threads(
    client: AsyncClient, holdfast_server: RunningService, acct: str
) -> None:
    other = Client(holdfast_server.target)
    leases = [await asyncio.to_thread(other.lease(acct, 100).__enter__) for _ in range(2)]
    assert all(lease.spend(5) for lease in leases)
    await release_all(client, acct)
    with pytest.raises(FailedPrecondition, match="RELEASED"):
        await asyncio.to_thread(other.close)
    assert not other._leases
    with pytest.raises(FailedPrecondition, match="closed"):
        await asyncio.to_thread(other.balance, acct)


@pytest.mark.parametrize("amount", [0, -1, 2.5, True])
async def test_only_whole_positive_amounts_are_spent(
    client: AsyncClient, acct: str, amount: Any
) -> None:
    async with client.lease(acct, 100) as lease:
        with pytest.raises(ValueError, match="at least 1"):
            lease.spend(amount)


class Token:
    """Where a token comes from, which may be away."""

    is_away = False
    asked = 0

    def __call__(self) -> str:
        self.asked += 1
        if self.is_away:
            raise OSError("the issuer of tokens is away")
        return ""


async def test_a_lease_outlives_what_a_token_function_raises(
    holdfast_server: RunningService, client: AsyncClient, acct: str
) -> None:
    token = Token()
    async with (
        AsyncClient(holdfast_server.target, token=token, transport="unary") as other,
        other.lease(acct, 100, capture_interval_ms=20) as lease,
    ):
        token.is_away, asked = True, token.asked
        assert lease.spend(10)
        await until(lambda: token.asked > asked)
        token.is_away = False
        assert lease.spend(10)
    assert await figures(client, acct) == (980, 0, 20)


async def test_a_lease_of_threads_outlives_what_a_token_function_raises(
    holdfast_server: RunningService, client: AsyncClient, acct: str
) -> None:
    token = Token()
    other = Client(holdfast_server.target, token=token, transport="unary")
    lease = await asyncio.to_thread(other.lease(acct, 100, capture_interval_ms=20).__enter__)
    token.is_away, asked = True, token.asked
    assert lease.spend(10)
    await until(lambda: token.asked > asked)
    token.is_away = False
    assert lease.spend(10)
    await asyncio.to_thread(other.close)
    assert await figures(client, acct) == (980, 0, 20)


async def test_the_exception_of_a_block_goes_first(client: AsyncClient, acct: str) -> None:
    lease = client.lease(acct, 100)

    async def work() -> None:
        async with lease:
            assert lease.spend(10)
            await release_all(client, acct)
            raise KeyError

    with pytest.raises(KeyError):
        await work()
    assert lease.uncharged == 10


async def test_a_lease_whose_end_was_cut_short_is_waited_for(
    holdfast_server: RunningService, client: AsyncClient, acct: str
) -> None:
    async with AsyncClient(holdfast_server.target) as other:
        lease = await other.lease(acct, 100).__aenter__()
        assert lease.spend(40)
        closing = asyncio.create_task(lease.close())
        await asyncio.sleep(0)
        closing.cancel()
    assert (lease.captured, lease.uncharged) == (40, 0)
    assert await figures(client, acct) == (960, 0, 40)


async def test_a_service_that_cancels_all_of_its_tasks_is_charged(
    holdfast_server: RunningService, client: AsyncClient, acct: str
) -> None:
    """That of the lease is among them."""

    async def service() -> None:
        async with AsyncClient(holdfast_server.target) as other, other.lease(acct, 100) as lease:
            assert lease.spend(40)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    await asyncio.to_thread(asyncio.run, service())
    assert await figures(client, acct) == (960, 0, 40)


async def test_a_lease_has_one_block(client: AsyncClient, acct: str) -> None:
    lease = client.lease(f"{acct}-none", 100)
    await client.create_account(f"{acct}-none")
    with pytest.raises(Denied):
        await lease.__aenter__()
    with pytest.raises(RuntimeError, match="one block"):
        await lease.__aenter__()


async def test_threads_share_a_lease(
    client: AsyncClient, acct: str, holdfast_server: RunningService
) -> None:
    def spend_all() -> int:
        with Client(holdfast_server.target) as threaded, threaded.lease(acct, 100) as lease:

            def work() -> int:
                return sum(lease.spend() for _ in range(40))

            return sum(asyncio.run(both(work)))

    async def both(work: object) -> list[int]:
        return await asyncio.gather(*[asyncio.to_thread(work) for _ in range(4)])  # type: ignore[arg-type]

    spent = await asyncio.to_thread(spend_all)
    assert spent >= 100
    assert await figures(client, acct) == (1_000 - spent, 0, spent)


async def test_a_lease_is_of_no_use_in_the_child_of_a_fork(client: AsyncClient, acct: str) -> None:
    """What runs there after a fork, run here: a fork beside gRPC's threads may crash the child."""
    async with client.lease(acct, 100) as lease:
        assert lease.spend(5)
        _disown_leases()
        with pytest.raises(RuntimeError, match="after a fork"):
            lease.spend()
        assert lease.left == 0


DIES_WITH_A_LEASE = """
import sys, time
from holdfast import Client

with Client(sys.argv[1]) as client, client.lease(
    sys.argv[2], 100, ttl_ms=1_500, capture_interval_ms=20
) as lease:
    lease.spend(40)
    while lease.captured < 40:
        time.sleep(0.005)
    lease.spend(3)
    print("spent", flush=True)
    time.sleep(60)
"""


async def test_a_process_that_dies_is_charged_what_it_captured(
    client: AsyncClient, acct: str, holdfast_server: RunningService
) -> None:
    """What it spent after its last capture is the customer's, and its credits come back."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DIES_WITH_A_LEASE, holdfast_server.target, acct, stdout=PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"spent\n"
    process.kill()
    await process.wait()

    async def is_back() -> bool:
        return (await figures(client, acct))[1] == 0

    await until(is_back)
    available, _, burned = await figures(client, acct)
    assert available + burned == 1_000
    assert burned in {40, 43}
