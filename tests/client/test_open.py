"""A client that fails open lets work pass when nobody can be reached, and counts it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest

from holdfast import (
    AsyncClient,
    Client,
    Denied,
    InvalidRequest,
    Outcome,
    Unavailable,
    Unreachable,
    operations,
)
from holdfast._core import TransportName
from holdfast._retry import Deadlines
from holdfast.v1 import types_pb2
from holdfast.v1.reason_pb2 import REASON_INSUFFICIENT_CREDITS
from tests.client.faulty import Fault, FaultyServer

SHORT_MS = 200
#: To reach a server that is there, also on a busy machine.
ENOUGH_MS = 1_000


@pytest.fixture
async def open_client(nobody: str) -> AsyncIterator[AsyncClient]:
    """An asyncio client that fails open, and reaches nobody."""
    async with AsyncClient(
        nobody, unreachable="open", attempt_timeout_ms=SHORT_MS, timeout_ms=SHORT_MS
    ) as client:
        yield client


@pytest.fixture
def open_threaded(nobody: str) -> Iterator[Client]:
    """A threaded client that fails open, and reaches nobody."""
    with Client(
        nobody, unreachable="open", attempt_timeout_ms=SHORT_MS, timeout_ms=SHORT_MS
    ) as client:
        yield client


async def test_a_reserve_is_bypassed_and_its_commit_counted(open_client: AsyncClient) -> None:
    result = await open_client.reserve("acct", 10)
    assert (result.decision.outcome, result.hold_id) == (Outcome.BYPASSED, "")
    assert result.decision.allowed
    assert open_client.bypassed == 0
    committed = await open_client.commit(result.hold_id, 7)
    assert committed.decision.outcome is Outcome.BYPASSED
    assert open_client.bypassed == 1
    await open_client.release("")
    await open_client.extend("", 1_000)
    assert open_client.bypassed == 1


async def test_a_block_runs_and_is_counted(open_client: AsyncClient) -> None:
    async with open_client.hold("acct", 10) as hold:
        assert hold.amount == 10
        hold.commit(7)
    assert open_client.bypassed == 1


def test_a_block_runs_and_is_counted_by_threads(open_threaded: Client) -> None:
    with open_threaded.hold("acct", 10) as hold:
        assert hold.decision.outcome is Outcome.BYPASSED
        hold.capture(2)
    assert open_threaded.bypassed == 2
    assert open_threaded.burn("acct", 1).decision.outcome is Outcome.BYPASSED
    assert open_threaded.bypassed == 3


async def test_nothing_else_passes(open_client: AsyncClient) -> None:
    with pytest.raises(Unreachable):
        await open_client.commit("a-real-hold", 7)
    with pytest.raises(Unreachable):
        await open_client.balance("acct")
    with pytest.raises(Unreachable):
        await open_client.refund("0-1-1")


async def test_a_batch_keeps_its_order(faulty: FaultyServer) -> None:
    async with AsyncClient(faulty.address, unreachable="open") as client:
        wanted = [operations.commit("", 1), operations.reserve("a", 1), operations.release("")]
        first, second, third = await client.batch(wanted)
    assert first.decision.outcome is Outcome.BYPASSED
    assert second.hold_id == "hold"
    assert third.decision.outcome is Outcome.BYPASSED
    assert len(faulty.seen[0].request.items) == 1


async def test_a_server_s_refusal_to_decide_is_not_passed_over(faulty: FaultyServer) -> None:
    """Whether work passes while the store is away is the server's policy, not the client's."""
    faulty.faults.extend([Fault(reason="STORE_UNAVAILABLE")] * 100)
    async with AsyncClient(faulty.address, unreachable="open", timeout_ms=ENOUGH_MS) as client:
        with pytest.raises(Unavailable):
            await client.reserve("acct", 10)


async def test_a_verification_does_not_wait_ten_minutes_for_nobody(nobody: str) -> None:
    async with AsyncClient(nobody, timeout_ms=SHORT_MS) as client:
        with pytest.raises(Unreachable):
            await client.verify()
    with Client(nobody, timeout_ms=SHORT_MS) as threaded, pytest.raises(Unreachable):
        await asyncio.to_thread(threaded.verify)


async def test_a_denial_is_not_passed_over(faulty: FaultyServer) -> None:
    denied = types_pb2.OUTCOME_DENIED
    faulty.decision = types_pb2.Decision(outcome=denied, reason=REASON_INSUFFICIENT_CREDITS)
    async with AsyncClient(faulty.address, unreachable="open") as client:
        with pytest.raises(Denied):
            async with client.hold("acct", 10):
                pytest.fail("the block must not run")


async def test_a_settlement_that_reaches_nobody_is_counted_not_raised(faulty: FaultyServer) -> None:
    async with AsyncClient(faulty.address, unreachable="open") as client:
        async with client.hold("acct", 10) as hold:
            faulty.faults.extend([Fault()] * 100)
            # The settlement alone is short of time: the hold has to be a real one.
            client._core._deadlines = Deadlines(SHORT_MS, SHORT_MS)
        assert hold.receipt is None
        assert client.bypassed == 1


async def test_a_settlement_that_is_refused_is_raised(faulty: FaultyServer) -> None:
    refused = Fault(grpc.StatusCode.PERMISSION_DENIED, reason="ROLE_REQUIRED")
    async with AsyncClient(faulty.address, unreachable="open") as client:
        with pytest.raises(Exception, match="ROLE_REQUIRED"):
            async with client.hold("acct", 10):
                faulty.faults.append(refused)


def test_a_closed_client_sends_an_empty_hold_to_be_refused(faulty: FaultyServer) -> None:
    """The empty hold of a denial must not look settled."""
    with Client(faulty.address) as client:
        client.commit("", 7)
    assert faulty.methods() == ["Commit"]


@pytest.mark.parametrize("transport", ["session", "unary"])
@pytest.mark.parametrize("token", ["of a file\n", "\u00fcber"])
async def test_a_token_that_cannot_be_sent_is_not_passed_over(
    faulty: FaultyServer, transport: TransportName, token: str
) -> None:
    """It would be refused before it leaves, which must not look like a server that is away."""
    async with AsyncClient(
        faulty.address, token=lambda: token, unreachable="open", transport=transport
    ) as client:
        with pytest.raises(InvalidRequest, match="token") as caught:
            await client.reserve("acct", 10)
    assert not caught.value.result_unknown
    assert faulty.methods() == []
