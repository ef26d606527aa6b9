"""A lost answer is asked for again with the same key, by both clients."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc
import pytest

from holdfast import (
    AsyncClient,
    Client,
    HoldfastError,
    NotFound,
    ReserveResult,
    Unreachable,
    operations,
)
from holdfast._retry import Deadlines
from tests.client.faulty import LOST_ANSWER, SLOW_S, Fault, FaultyServer, serve
from tests.support.waiting import until


async def test_a_lost_answer_is_asked_for_again(client: AsyncClient, faulty: FaultyServer) -> None:
    faulty.faults.append(LOST_ANSWER)
    result = await client.burn("acct", 7)
    assert [one.key for one in faulty.seen] == [faulty.seen[0].key] * 2
    assert len(faulty.applied) == 1
    assert result.applied.replayed


def test_a_lost_answer_is_asked_for_again_by_threads(
    threaded: Client, faulty: FaultyServer
) -> None:
    faulty.faults.extend([LOST_ANSWER, Fault(reason="STORE_UNAVAILABLE"), LOST_ANSWER])
    result = threaded.burn("acct", 7)
    assert len({one.key for one in faulty.seen}) == 1
    assert faulty.methods() == ["Burn"] * 4
    assert len(faulty.applied) == 1
    assert result.applied.replayed


#: What becomes of a call that is on its way to a server at the moment in which that stops.
DROPPED = Fault(grpc.StatusCode.CANCELLED, applied=True)


async def test_a_call_that_the_server_drops_is_sent_again(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    faulty.faults.append(DROPPED)
    assert (await client.burn("acct", 7)).applied.replayed
    assert len({one.key for one in faulty.seen}) == 1


def test_a_call_that_the_server_drops_is_sent_again_by_threads(
    threaded: Client, faulty: FaultyServer
) -> None:
    faulty.faults.append(DROPPED)
    assert threaded.burn("acct", 7).applied.replayed
    assert len({one.key for one in faulty.seen}) == 1


async def test_an_attempt_that_is_too_slow_is_repeated(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    faulty.faults.append(Fault(slow=True))
    result = await client.reserve("acct", 7)
    assert result.applied.replayed
    assert len({one.key for one in faulty.seen}) == 1
    assert faulty.methods() == ["Reserve"] * 2


async def test_a_busy_server_is_asked_again_when_it_says_so(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    faulty.faults.append(
        Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, reason="OVERLOADED", retry_after_ms=20)
    )
    await client.reserve("acct", 7)
    assert faulty.methods() == ["Reserve"] * 2


async def test_all_attempts_together_have_a_deadline(faulty: FaultyServer) -> None:
    faulty.faults.extend([Fault(slow=True)] * 20)
    async with AsyncClient(faulty.address, attempt_timeout_ms=50, timeout_ms=250) as client:
        with pytest.raises(Unreachable) as raised:
            await client.reserve("acct", 7)
    assert raised.value.result_unknown
    assert 2 <= len(faulty.seen) <= 5


async def test_two_calls_have_two_keys(client: AsyncClient, faulty: FaultyServer) -> None:
    await client.reserve("acct", 7)
    await client.reserve("acct", 7)
    assert faulty.seen[0].key != faulty.seen[1].key


async def test_a_batch_answers_each_by_its_own_result_or_error(client: AsyncClient) -> None:
    reserve, commit = operations.reserve("acct", 7), operations.commit("gone")
    answers = await client.batch([reserve, commit])
    assert isinstance(answers[0], ReserveResult)
    assert isinstance(answers[1], NotFound)
    assert (answers[1].reason, answers[1].metadata) == ("HOLD_NOT_FOUND", {"field": "hold_id"})


async def test_an_operation_that_is_sent_again_by_hand_keeps_its_key(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    burn = operations.burn("acct", 7)
    await client.batch([burn])
    await client.batch([burn])
    keys = [one.request.items[0].burn.idempotency_key for one in faulty.seen]
    assert keys[0] == keys[1]


async def test_lists_turn_their_pages(client: AsyncClient, faulty: FaultyServer) -> None:
    holds = [hold.hold_id async for hold in client.list_holds("acct")]
    assert holds == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
    assert faulty.methods() == ["ListHolds"] * 3


def test_lists_turn_their_pages_for_threads(threaded: Client) -> None:
    assert len(list(threaded.list_holds("acct"))) == 6


def test_an_answer_of_another_kind_is_an_error(threaded: Client, faulty: FaultyServer) -> None:
    faulty.decision.outcome = 0  # type: ignore[assignment]
    with pytest.raises(HoldfastError, match="outcome 0"):
        threaded.reserve("acct", 7)


class LateServer(FaultyServer):
    """Says only after a while that it knows no sessions."""

    def __init__(self) -> None:
        super().__init__()
        self.was_asked, self.may_answer = threading.Event(), threading.Event()

    def Session(self, request_iterator: Any, context: Any) -> Any:
        self.was_asked.set()
        self.may_answer.wait(SLOW_S)
        super().Session(request_iterator, context)


@pytest.mark.parametrize("kind", [AsyncClient, Client])
async def test_a_call_that_has_to_go_singly_keeps_its_deadlines(kind: Any) -> None:
    with serve(LateServer()) as server:
        client = kind(server.address, timeout_ms=5_000)
        asked = asyncio.ensure_future(
            client.reserve("acct", 7)
            if kind is AsyncClient
            else asyncio.to_thread(client.reserve, "acct", 7)
        )
        await until(server.was_asked.is_set)
        client._core._deadlines = Deadlines(60_000, 60_000)
        server.may_answer.set()
        await asked
        assert server.seen[0].time_remaining_s < 5
        await (client.close() if kind is AsyncClient else asyncio.to_thread(client.close))
