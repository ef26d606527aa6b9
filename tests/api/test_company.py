"""Calls that arrive while the process is busy travel together, and none waits for what is slow."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.message import Message

from holdfast.v1 import balance_service_pb2 as messages
from holdfast_server.api.allowance import Allowance
from holdfast_server.api.auth.principal import DEVELOPMENT, Principal, Role
from holdfast_server.api.call import Call
from holdfast_server.api.company import TOGETHER_MAX, Company, Traveller
from holdfast_server.api.methods import Method
from holdfast_server.domain.operation import Operation
from holdfast_server.domain.submit import Answer
from holdfast_server.engine.idle import IdleLoop
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.tracing import NO_TRACE, TraceContext
from tests.api.recording import HeldUp, Recording, empty_balance, running
from tests.support.idle import busy, run
from tests.support.stubs import stubs
from tests.support.waiting import WAIT_SECONDS
from tests.support.wire import refused

ANN = Principal("ann", "acme", frozenset(Role))
BOB = Principal("bob", "acme", frozenset(Role))
MORE = 3


@dataclass
class Service:
    """Answers a request for an account's balance by its name, and how it does that is its name."""

    groups: list[list[str]] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    places: dict[str, list[TraceContext]] = field(default_factory=lambda: defaultdict(list))
    charged: Counter[str] = field(default_factory=Counter)

    async def attempt(
        self, call: Call, asked: Sequence[tuple[str, Message, TraceContext]]
    ) -> list[Message | HoldfastError | None]:
        accounts = [account_of(request) for _, request, _ in asked]
        self.groups.append(accounts)
        for account, (_, _, place) in zip(accounts, asked, strict=True):
            self.places[account].append(place)
        for account in accounts:
            call.tenant("")
            if account == "cancelled":
                raise asyncio.CancelledError
            if account == "broken":
                raise ValueError
        return [self._attempted(account) for account in accounts]

    def _attempted(self, account: str) -> Message | HoldfastError | None:
        if account == "slow":
            return None
        if account == "missing":
            return HoldfastError(Reason.ACCOUNT_NOT_FOUND, "There is none.")
        return messages.BalanceResponse(account=account)

    async def handle(self, call: Call, request: messages.BalanceRequest) -> Message:
        call.tenant("")
        self.alone.append(request.account)
        self.places[request.account].append(call.span.place)
        return messages.BalanceResponse(account=request.account)

    def charge(self, tenant: str, operations: int) -> None:
        self.charged[tenant] += operations


@dataclass
class World:
    """Calls, as a dispatcher hands them over."""

    service: Service = field(default_factory=Service)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.company = Company(
            self.service.charge, lambda work: self.tasks.append(asyncio.create_task(work))
        )
        parse = messages.BalanceRequest.FromString
        self.method = Method(
            "Service", "Balance", frozenset(Role), parse, self.service.handle, False
        )

    def join(
        self, account: str, principal: Principal = ANN, place: TraceContext = NO_TRACE
    ) -> asyncio.Future[bytes]:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        request = messages.BalanceRequest(account=account)
        traveller = Traveller(self.method, request, place, answer)
        self.company.join(principal, self.service.attempt, traveller)
        return answer

    async def settled(self, *accounts: str) -> list[str | Reason]:
        """What becomes of calls about these accounts that come at one time."""
        answers = [self.join(account) for account in accounts]
        found = await asyncio.gather(*answers, return_exceptions=True)
        return [account_in(each) for each in found]


def account_of(request: Any) -> str:
    return str(request.account)


def account_in(answer: Any) -> str | Reason:
    if isinstance(answer, HoldfastError):
        return answer.reason
    assert isinstance(answer, bytes)
    return messages.BalanceResponse.FromString(answer).account


async def test_each_call_gets_its_own_answer() -> None:
    world = World()
    assert await world.settled("a", "missing", "b") == ["a", Reason.ACCOUNT_NOT_FOUND, "b"]
    assert world.service.groups == [["a", "missing", "b"]]


async def test_what_is_slow_goes_on_by_itself_and_is_charged_once() -> None:
    world = World()
    assert await world.settled("a", "slow", "b") == ["a", "slow", "b"]
    assert world.service.alone == ["slow"]
    assert world.service.charged == {"acme": 3}


async def test_together_go_calls_of_one_principal() -> None:
    world = World()
    answers = [world.join("a", ANN), world.join("b", BOB), world.join("c", ANN)]
    await asyncio.gather(*answers)
    assert world.service.groups == [["a", "c"], ["b"]]


async def test_each_call_keeps_its_place_in_its_trace() -> None:
    world = World()
    places = {name: TraceContext(f"trace of {name}", "span") for name in ("a", "slow")}
    await asyncio.gather(*(world.join(name, place=place) for name, place in places.items()))
    assert world.service.groups == [["a", "slow"]]
    assert world.service.places == {"a": [places["a"]], "slow": [places["slow"]] * 2}


async def test_a_failure_of_ours_is_told_to_all_of_them(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    assert await world.settled("a", "broken") == [Reason.INTERNAL] * 2
    assert "ValueError" in caplog.text
    assert await world.settled("a") == ["a"]


async def test_when_work_is_cancelled_inside_nobody_waits_for_ever() -> None:
    world = World()
    assert await world.settled("a", "cancelled") == [Reason.RESULT_UNKNOWN] * 2
    assert world.tasks[0].cancelled()
    assert await world.settled("a") == ["a"]


async def test_calls_whose_callers_have_gone_do_not_keep_others_from_their_answers() -> None:
    world = World()
    gone, other = world.join("a"), world.join("b")
    gone.cancel()
    assert account_in(await other) == "b"
    assert world.service.groups == [["a", "b"]]


async def test_calls_under_way_are_counted_besides_the_tasks() -> None:
    world = World()
    answers = [world.join("a"), world.join("slow"), world.join("b"), world.join("c", BOB)]
    assert (len(world.tasks), world.company.others) == (2, 2)
    await asyncio.gather(*answers, *world.tasks)
    assert world.company.others == 0


@pytest.mark.usefixtures("waits_for_ever")
def test_a_busy_process_goes_with_so_many_and_an_idle_one_with_what_there_is() -> None:
    async def test(loop: IdleLoop) -> None:
        world = World()
        with busy(loop):
            answers = []
            for number in range(TOGETHER_MAX + MORE):
                answers.append(world.join(str(number)))
                await asyncio.sleep(0)
            await asyncio.gather(*answers[:TOGETHER_MAX])
            assert [len(group) for group in world.service.groups] == [TOGETHER_MAX]
        await asyncio.gather(*answers)
        assert [len(group) for group in world.service.groups] == [TOGETHER_MAX, MORE]

    run(test)


async def test_a_call_that_is_slow_does_not_keep_others_waiting() -> None:
    """Over the wire: it is answered later, and the ones beside it at once."""
    work = HeldUp()

    async def behave(operation: Operation) -> Answer:
        return await (work if is_slow(operation) else empty_balance)(operation)

    def is_slow(operation: Operation) -> bool:
        return getattr(operation, "account", "") == "slow"

    recording = Recording(behave, is_slow=is_slow)
    async with running(recording) as served, stubs(served.port) as client:
        ask = client.balance.Balance
        slow = asyncio.ensure_future(ask(messages.BalanceRequest(account="slow")))
        await asyncio.wait_for(work.is_begun.wait(), WAIT_SECONDS)
        await asyncio.gather(*(ask(messages.BalanceRequest(account="a")) for _ in range(MORE)))
        assert not slow.done()
        work.is_released.set()
        await slow
    assert {caller.subject for caller, _ in recording.seen} == {DEVELOPMENT.subject}


async def test_each_call_is_charged_once_whichever_way_it_goes() -> None:
    allowance = Allowance(10, lambda: 0)
    recording = Recording(is_slow=lambda operation: operation.tenant == "slow")
    async with running(recording, allowance=allowance) as served, stubs(served.port) as client:
        for tenant in ("slow", "fast"):
            request = messages.BalanceRequest(tenant=tenant, account="a")
            for _ in range(20):
                await client.balance.Balance(request)
            await refused(client.balance.Balance(request), Reason.RATE_LIMITED)


async def test_a_call_in_a_trace_goes_by_itself_and_keeps_its_trace() -> None:
    recording = Recording()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with running(recording) as served, stubs(served.port) as client:
        metadata = (("traceparent", f"00-{trace}-00f067aa0ba902b7-01"),)
        request = messages.BalanceRequest(account="a")
        await asyncio.gather(
            client.balance.Balance(request, metadata=metadata), client.balance.Balance(request)
        )
    assert {caller.trace_id for caller, _ in recording.seen} == {trace, ""}
