"""A hold around a block: settled whatever happens, extended meanwhile, by both clients."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from holdfast import (
    AsyncClient,
    Client,
    Denied,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    Outcome,
    Unreachable,
)
from holdfast._hold import RETRY_SECONDS_MIN
from holdfast.v1 import types_pb2
from holdfast.v1.reason_pb2 import REASON_INSUFFICIENT_CREDITS, REASON_LIMIT_EXCEEDED
from tests.client.faulty import LOST_ANSWER, SLOW_S, Fault, FaultyServer


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SLOW_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class WorkFailed(Exception):
    """What a block raises."""


def _committed(faulty: FaultyServer) -> list[dict[str, int]]:
    commits = [one.request for one in faulty.seen if one.method == "Commit"]
    return [{line.credit_type: line.amount for line in commit.lines} for commit in commits]


async def test_the_recorded_amount_is_committed(client: AsyncClient, faulty: FaultyServer) -> None:
    async with client.hold("acct", 1200, feature="chat") as hold:
        assert hold.hold_id == "hold"
        assert hold.amount == 1200
        assert hold.decision.outcome is Outcome.GRANTED
        hold.commit(500)
        hold.commit(980)
        assert faulty.methods() == ["Reserve"]
    assert faulty.methods() == ["Reserve", "Commit"]
    assert _committed(faulty) == [{"credits": 980}]
    assert hold.receipt is not None
    assert hold.receipt.lines[0].burned == 980


def test_the_recorded_amount_is_committed_by_threads(
    threaded: Client, faulty: FaultyServer
) -> None:
    with threaded.hold("acct", {"ai": 5, "video": 1}) as hold:
        assert dict(hold.amounts) == {"ai": 5, "video": 1}
        hold.commit({"ai": 4, "video": 1})
    assert _committed(faulty) == [{"ai": 4, "video": 1}]
    assert hold.receipt is not None


async def test_a_block_without_commit_burns_what_is_held(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    async with client.hold("acct", 10):
        pass
    assert _committed(faulty) == [{}]
    assert faulty.seen[-1].request.final


def test_a_block_without_commit_burns_what_is_held_by_threads(
    threaded: Client, faulty: FaultyServer
) -> None:
    with threaded.hold("acct", 10):
        pass
    assert _committed(faulty) == [{}]


async def test_a_block_that_raises_releases(client: AsyncClient, faulty: FaultyServer) -> None:
    with pytest.raises(WorkFailed):
        async with client.hold("acct", 10):
            raise WorkFailed
    assert faulty.methods() == ["Reserve", "Release"]


def test_a_block_that_raises_releases_by_threads(threaded: Client, faulty: FaultyServer) -> None:
    with pytest.raises(WorkFailed), threaded.hold("acct", 10):
        raise WorkFailed
    assert faulty.methods() == ["Reserve", "Release"]


@pytest.mark.parametrize("amount", [980.0, "980", {"credits": 980.0}, True])
async def test_what_is_no_amount_is_refused_where_it_is_recorded(
    client: AsyncClient, faulty: FaultyServer, amount: Any
) -> None:
    """Not at the end of the block, where nothing would be settled any more."""
    with pytest.raises(InvalidRequest, match="whole number"):
        async with client.hold("acct", 1200) as hold:
            hold.commit(amount)
    assert faulty.methods() == ["Reserve", "Release"]


def test_holds_that_have_ended_are_forgotten_while_another_goes_on(threaded: Client) -> None:
    with threaded.hold("acct", 10):
        for _ in range(300):
            with threaded.hold("acct", 10):
                pass
        assert len(threaded._extender._due) < 150


async def test_what_was_recorded_before_a_failure_is_committed(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    async def work() -> None:
        async with client.hold("acct", 10) as hold:
            hold.commit(3)
            raise WorkFailed

    with pytest.raises(WorkFailed):
        await work()
    assert _committed(faulty) == [{"credits": 3}]


async def test_a_release_that_fails_does_not_hide_the_block_s_exception(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    async def work() -> None:
        async with client.hold("acct", 10):
            faulty.faults.append(Fault(grpc.StatusCode.FAILED_PRECONDITION, reason="HOLD_EXPIRED"))
            raise WorkFailed

    with pytest.raises(WorkFailed):
        await work()


def test_a_release_that_fails_does_not_hide_the_block_s_exception_from_threads(
    threaded: Client, faulty: FaultyServer
) -> None:
    def work() -> None:
        with threaded.hold("acct", 10):
            faulty.faults.append(Fault(grpc.StatusCode.FAILED_PRECONDITION, reason="HOLD_EXPIRED"))
            raise WorkFailed

    with pytest.raises(WorkFailed):
        work()


async def test_a_commit_that_fails_is_raised(client: AsyncClient, faulty: FaultyServer) -> None:
    with pytest.raises(FailedPrecondition):
        async with client.hold("acct", 10):
            faulty.faults.append(Fault(grpc.StatusCode.FAILED_PRECONDITION, reason="HOLD_EXPIRED"))


async def test_a_cancelled_block_releases(client: AsyncClient, faulty: FaultyServer) -> None:
    working = asyncio.Event()

    async def work() -> None:
        async with client.hold("acct", 10):
            working.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await working.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert faulty.methods() == ["Reserve", "Release"]


async def test_a_second_cancellation_does_not_stop_the_settlement(faulty: FaultyServer) -> None:
    working = asyncio.Event()

    async def work(client: AsyncClient) -> None:
        async with client.hold("acct", 10):
            faulty.faults.append(Fault(slow=True))
            working.set()
            await asyncio.Event().wait()

    async with AsyncClient(faulty.address, attempt_timeout_ms=150) as client:
        task = asyncio.create_task(work(client))
        await working.wait()
        task.cancel()
        await _until(lambda: "Release" in faulty.methods())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    # Closing the client has waited for the second attempt, which was answered.
    assert faulty.methods() == ["Reserve", "Release", "Release"]
    assert len(faulty.applied) == 2


async def test_a_denial_is_raised_with_what_is_missing(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    shortfall = types_pb2.Shortfall(credit_type="credits", available=4, shortfall=6)
    faulty.decision = types_pb2.Decision(
        outcome=types_pb2.OUTCOME_DENIED,
        reason=REASON_INSUFFICIENT_CREDITS,
        message="6 missing",
        shortfalls=[shortfall],
    )
    with pytest.raises(Denied) as raised:
        async with client.hold("acct", 10):
            pytest.fail("the block must not run")
    assert raised.value.reason == "INSUFFICIENT_CREDITS"
    assert (raised.value.shortfalls[0].available, raised.value.shortfalls[0].shortfall) == (4, 6)
    assert faulty.methods() == ["Reserve"]


def test_a_denial_is_raised_to_threads(threaded: Client, faulty: FaultyServer) -> None:
    faulty.decision = types_pb2.Decision(
        outcome=types_pb2.OUTCOME_DENIED,
        reason=REASON_LIMIT_EXCEEDED,
        retry_after_ms=250,
    )
    with pytest.raises(Denied) as raised, threaded.hold("acct", 10):
        pytest.fail("the block must not run")
    assert (raised.value.reason, raised.value.retry_after_ms) == ("LIMIT_EXCEEDED", 250)


async def test_a_shadow_grant_says_why_it_would_be_denied(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    shadow = types_pb2.OUTCOME_GRANTED_SHADOW
    faulty.decision = types_pb2.Decision(outcome=shadow, reason=REASON_INSUFFICIENT_CREDITS)
    async with client.hold("acct", 10) as hold:
        assert hold.decision.outcome is Outcome.GRANTED_SHADOW
        assert hold.decision.reason == "INSUFFICIENT_CREDITS"


async def test_a_partial_grant_says_how_much_may_be_done(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    faulty.decision = types_pb2.Decision(outcome=types_pb2.OUTCOME_GRANTED_PARTIAL)
    async with client.hold("acct", 10, minimum=4) as hold:
        assert hold.amount == 4


async def test_a_capture_is_sent_at_once(client: AsyncClient, faulty: FaultyServer) -> None:
    async with client.hold("acct", 10, ttl_ms=5_000) as hold:
        await hold.capture(3)
        capture = faulty.seen[-1].request
        assert (capture.final, capture.ttl_ms) == (False, 5_000)
        hold.commit(6)
    assert _committed(faulty) == [{"credits": 3}, {"credits": 6}]


def test_a_released_hold_is_not_settled_again(threaded: Client, faulty: FaultyServer) -> None:
    with threaded.hold("acct", 10) as hold:
        hold.capture(3)
        assert hold.release("enough").decision.allowed
    assert faulty.methods() == ["Reserve", "Commit", "Release"]
    assert faulty.seen[-1].request.reason == "enough"
    assert hold.receipt is None


async def test_a_hold_is_extended_while_its_block_runs(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    async with client.hold("acct", 10, ttl_ms=60):
        await _until(lambda: faulty.methods().count("Extend") >= 3)
    extensions = faulty.wait_for("Extend")
    assert {one.request.ttl_ms for one in extensions} == {60}
    assert len({one.key for one in extensions}) == len(extensions)
    assert faulty.methods()[-1] == "Commit" or faulty.methods()[-2] == "Commit"


def test_holds_are_extended_by_threads(threaded: Client, faulty: FaultyServer) -> None:
    with threaded.hold("one", 10, ttl_ms=60), threaded.hold("two", 10, ttl_ms=80):
        faulty.wait_for("Extend", times=4)
    assert faulty.methods().count("Commit") == 2


async def test_an_extension_that_fails_is_tried_again(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    async with client.hold("acct", 10, ttl_ms=60) as hold:
        faulty.faults.append(Fault(grpc.StatusCode.INTERNAL, reason="INTERNAL"))
        await _until(lambda: faulty.methods().count("Extend") >= 2)
        assert not hold.lost


async def test_a_hold_that_has_ended_is_not_extended_further(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    async with client.hold("acct", 10, ttl_ms=40) as hold:
        faulty.faults.append(Fault(grpc.StatusCode.FAILED_PRECONDITION, reason="HOLD_EXPIRED"))
        await _until(lambda: hold.lost)
        hold.commit(7)
    assert faulty.methods().count("Extend") == 1
    assert _committed(faulty) == [{"credits": 7}]


async def test_a_bypassed_hold_is_not_extended(client: AsyncClient, faulty: FaultyServer) -> None:
    faulty.decision = types_pb2.Decision(outcome=types_pb2.OUTCOME_BYPASSED)
    async with client.hold("acct", 10, ttl_ms=20) as hold:
        await asyncio.sleep(0)
        assert hold._extend_after_s(time.monotonic()) is None
        assert hold.amount == 10
    assert _committed(faulty) == [{}]


def test_one_extension_may_fail_and_the_next_comes_in_time(threaded: Client) -> None:
    """Times count from before the first send, whenever the answer came."""
    hold = threaded.hold("acct", 10, ttl_ms=60_000)
    hold._begin(threaded.reserve("acct", 10), sent_s=100.0)
    assert hold._extend_after_s(110.0) == 20.0
    hold._extension_failed(ConnectionError(), 142.0)
    assert hold._extend_after_s(142.0) == 4.5
    hold._extension_failed(ConnectionError(), 159.9)
    assert hold._extend_after_s(159.9) == pytest.approx(RETRY_SECONDS_MIN)
    hold._lives(160.0)
    assert hold._extend_after_s(160.0) == 30.0


async def test_an_extension_survives_what_a_token_function_raises(faulty: FaultyServer) -> None:
    asked = itertools.count()

    def token() -> str:
        # The reserve is the first to ask for it, the first extension the second.
        if next(asked) == 1:
            raise OSError("the issuer of tokens is away")
        return "secret"

    async with (
        AsyncClient(faulty.address, token=token, transport="unary") as client,
        client.hold("acct", 10, ttl_ms=60) as hold,
    ):
        await _until(lambda: faulty.methods().count("Extend") >= 1)
        assert not hold.lost


async def test_a_release_without_an_answer_is_sent_again_at_the_end(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    async with client.hold("acct", 10) as hold:
        faulty.faults += [Fault(grpc.StatusCode.INTERNAL, reason="INTERNAL")]
        with pytest.raises(InternalError):
            await hold.release("no longer wanted")
    assert faulty.methods() == ["Reserve", "Release", "Release"]
    keys = [one.key for one in faulty.seen[1:]]
    assert keys[0] == keys[1]


async def test_a_capture_is_sent_again_under_its_key(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    async with client.hold("acct", 10) as hold:
        for _ in range(2):
            await hold.capture(3, key="captured once")
    assert [one.key for one in faulty.seen if one.method == "Commit"][:2] == ["captured once"] * 2


async def test_a_lost_settlement_is_sent_again(client: AsyncClient, faulty: FaultyServer) -> None:
    async with client.hold("acct", 10) as hold:
        faulty.faults.append(LOST_ANSWER)
        hold.commit(7)
    assert faulty.methods() == ["Reserve", "Commit", "Commit"]
    assert hold.receipt is not None
    assert hold.receipt.applied.replayed


def test_a_hold_says_nothing_before_its_block(threaded: Client) -> None:
    with pytest.raises(RuntimeError):
        threaded.hold("acct", 10).decision  # noqa: B018


async def test_nobody_there_is_raised_by_default(nobody: str) -> None:
    async with AsyncClient(nobody, attempt_timeout_ms=100, timeout_ms=200) as client:
        with pytest.raises(Unreachable):
            async with client.hold("acct", 10):
                pytest.fail("the block must not run")
        assert client.bypassed == 0


async def test_an_interrupt_while_the_extending_thread_starts_leaves_the_client_of_use(
    faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, interrupts = threading.Thread.start, [KeyboardInterrupt]

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "holdfast-extender" and interrupts:
            raise interrupts.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with Client(faulty.address) as client:
        with pytest.raises(KeyboardInterrupt), client.hold("a", 5):
            raise AssertionError
        with client.hold("a", 5, ttl_ms=1):
            await _until(lambda: any(one.method == "Extend" for one in faulty.seen))
