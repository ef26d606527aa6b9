"""The gate around the real engine: kill switch, every operation, every state of a hold.

What passes is in the books afterwards: once, as unenforced or in its hold, and nothing is missing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from holdfast_server.control.gate import Gate
from holdfast_server.control.kill import KillSwitch
from holdfast_server.control.passage import Passage
from holdfast_server.control.replay import Replayer
from holdfast_server.control.spool import Spool
from holdfast_server.domain.operation import (
    AccountTerms,
    Burn,
    Caller,
    Commit,
    CommitLine,
    CreateAccount,
    Extend,
    GetBalance,
    Grant,
    GrantSource,
    GrantTerms,
    Line,
    Operation,
    Overage,
    Release,
    Reserve,
)
from holdfast_server.domain.reply import BalanceReply, Buckets, Outcome, ReserveReply
from holdfast_server.domain.submit import Answer, Asked
from holdfast_server.engine.request import NeedsLedger
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.names import Replayed
from tests.control.support import Reports, Rules, outcome_of
from tests.support.asking import ask
from tests.support.pair import CALLER, SIGNER, Real, build

TTL_MS = 60_000


@dataclass
class Deciding:
    """The engine as a submitter, over a ledger that knows nothing."""

    real: Real

    async def submit(self, caller: Caller, operations: Sequence[Operation]) -> list[Answer]:
        decided = await self.real.decide(operations)
        missing = HoldfastError(Reason.HOLD_NOT_FOUND, "The ledger does not know it.")
        return [missing if isinstance(each, NeedsLedger) else each for each in decided]

    async def attempt(self, asked: Sequence[Asked]) -> list[Answer | None]:
        return [answer for each in asked for answer in await self.submit(each[0], [each[1]])]


class World:
    """A gate, a real engine, and an account with 1,000 credits."""

    def __init__(self, folder: Path, real: Real) -> None:
        self.asked = 0
        self.folder, self.real, self.reports = folder, real, Reports()
        self.kill = KillSwitch(False, folder / "KILL", folder, self.reports)
        self.spool = Spool(folder / "spool", 10**6, 10**4, self.reports)
        rules, inner = Rules(), Deciding(real)
        passage = Passage(rules, rules, SIGNER, self.spool, self.reports, lambda: real.clock.now_ms)
        self.gate = Gate(inner, self.kill, passage)
        self.replayer = Replayer(self.spool, inner, self.kill, SIGNER, self.reports)

    async def one(self, operation: Operation) -> Answer:
        self.asked += 1
        return await ask(self.gate, CALLER, operation, attempted=bool(self.asked % 2))

    async def hold(self, key: str = "hold") -> str:
        answer = await self.one(Reserve("t", "org", (Line("ai", 100),), TTL_MS, key))
        assert isinstance(answer, ReserveReply)
        return answer.hold

    async def buckets(self) -> Buckets:
        """The figures of the account; they are conserved."""
        balance = await self.one(GetBalance("t", "org"))
        assert isinstance(balance, BalanceReply)
        (credit,) = balance.credits
        assert credit.buckets.balanced()
        return credit.buckets

    def turn(self, on: bool) -> None:
        path = self.folder / "KILL"
        path.touch() if on else path.unlink()
        self.kill.look()

    async def settle_everything(self) -> None:
        """Off with the switch, and everything that passed into the books."""
        self.turn(on=False)
        assert await self.replayer.drain()


@pytest_asyncio.fixture
async def world(tmp_path: Path, valkey_url: str) -> AsyncIterator[World]:
    real = build(valkey_url)
    found = World(tmp_path, real)
    terms = GrantTerms("ai", 1_000, GrantSource.PURCHASE)
    for operation in (
        CreateAccount("t", "org", AccountTerms(), "create"),
        Grant("t", "org", terms, "grant"),
    ):
        assert not isinstance(await found.one(operation), HoldfastError)
    yield found
    await found.spool.close()
    await real.store.close()


Prepare = Callable[[World], Coroutine[Any, Any, str]]


async def opened(world: World) -> str:
    return await world.hold()


async def captured(world: World) -> str:
    hold = await world.hold()
    await world.one(Commit("t", hold, "capture", (CommitLine("ai", 30),), final=False))
    return hold


async def committed(world: World) -> str:
    hold = await world.hold()
    await world.one(Commit("t", hold, "commit"))
    return hold


async def released(world: World) -> str:
    hold = await world.hold()
    await world.one(Release("t", hold, "release"))
    return hold


async def expired(world: World) -> str:
    hold = await world.hold()
    world.real.clock.now_ms += TTL_MS + 1
    return hold


async def bypassed(world: World) -> str:
    world.turn(on=True)
    hold = await world.hold()
    world.turn(on=False)
    return hold


STATES: tuple[Prepare, ...] = (opened, captured, committed, released, expired, bypassed)
SETTLEMENTS: tuple[Callable[[str], Commit | Release | Extend], ...] = (
    lambda hold: Commit("t", hold, "last"),
    lambda hold: Commit("t", hold, "last", (CommitLine("ai", 0),)),
    lambda hold: Commit("t", hold, "last", (CommitLine("ai", 5_000),)),
    lambda hold: Commit("t", hold, "last", (CommitLine("ai", 500),), overage=Overage.REJECT),
    lambda hold: Commit("t", hold, "last", (CommitLine("ai", 7),), final=False, ttl_ms=TTL_MS),
    lambda hold: Release("t", hold, "last"),
    lambda hold: Extend("t", hold, TTL_MS, "last"),
)


@pytest.mark.parametrize("prepare", STATES)
@pytest.mark.parametrize("number", range(len(SETTLEMENTS)))
async def test_whatever_the_state_of_a_hold_its_settlement_passes_and_is_booked_or_kept(
    world: World, prepare: Prepare, number: int
) -> None:
    hold = await prepare(world)
    settlement = SETTLEMENTS[number](hold)
    world.turn(on=True)
    assert outcome_of(await world.one(settlement)) is Outcome.BYPASSED
    spooled = world.spool.records
    await world.settle_everything()
    assert len(world.reports.results) == spooled
    assert Replayed.LOST not in world.reports.results
    # What is booked now is what the ledger is told when the same request comes directly.
    before = await world.buckets()
    again = await world.one(settlement)
    assert await world.buckets() == before
    if Replayed.DEAD in world.reports.results:
        assert isinstance(again, HoldfastError)


@pytest.mark.parametrize(
    ("prepare", "number", "burned", "unenforced"),
    [
        (opened, 0, 100, 0),
        (opened, 1, 0, 0),
        (opened, 3, 500, 0),
        (captured, 0, 100, 0),
        (committed, 0, 100, 0),
        (expired, 0, 100, 0),
        (bypassed, 0, 100, 100),
        (bypassed, 2, 5_000, 5_000),
        (bypassed, 5, 0, 0),
    ],
)
async def test_the_books_say_what_was_used(
    world: World, prepare: Prepare, number: int, burned: int, unenforced: int
) -> None:
    hold = await prepare(world)
    world.turn(on=True)
    await world.one(SETTLEMENTS[number](hold))
    await world.settle_everything()
    buckets = await world.buckets()
    assert (buckets.burned, buckets.unenforced) == (burned, unenforced)
    assert buckets.held == 0


async def test_work_that_passed_under_kill_is_unenforced_and_never_owed(world: World) -> None:
    world.turn(on=True)
    for number in range(20):
        burn = Burn("t", "org", (Line("ai", 100),), f"burn-{number}")
        assert outcome_of(await world.one(burn)) is Outcome.BYPASSED
    hold = await world.hold()
    await world.one(Commit("t", hold, "commit", (CommitLine("ai", 50),)))
    assert (await world.buckets()).burned == 0
    await world.settle_everything()
    buckets = await world.buckets()
    assert (buckets.burned, buckets.unenforced, buckets.debt) == (2_050, 2_050, 0)
    assert buckets.available == 1_000
    assert world.reports.results == [Replayed.BOOKED] * 21


async def test_a_spool_that_is_read_twice_is_booked_once(world: World) -> None:
    """As after a crash between booking a segment and removing it."""
    world.turn(on=True)
    await world.one(Burn("t", "org", (Line("ai", 100),), "burn"))
    hold = await world.hold()
    await world.one(Commit("t", hold, "commit"))
    (segment,) = await world.spool.sealed()
    content = segment.read_bytes()
    await world.settle_everything()
    segment.write_bytes(content)
    assert await world.replayer.drain()
    assert (await world.buckets()).unenforced == 200


async def test_what_needs_no_gate_goes_through_to_the_engine_under_kill(world: World) -> None:
    world.turn(on=True)
    more = Grant("t", "org", GrantTerms("ai", 5, GrantSource.SUPPORT), "more")
    create = CreateAccount("t", "new", AccountTerms(), "new")
    for operation in (more, create):
        assert not isinstance(await world.one(operation), HoldfastError)
    assert (await world.buckets()).granted == 1_005


async def test_use_that_passed_is_booked_though_its_hold_ended_otherwise(world: World) -> None:
    """The release arrives before the spool is drained: the use is not lost, and not owed."""
    hold = await world.hold()
    world.turn(on=True)
    await world.one(Commit("t", hold, "captured", (CommitLine("ai", 80),), final=False))
    world.turn(on=False)
    await world.one(Release("t", hold, "released"))
    assert await world.replayer.drain()
    figures = await world.buckets()
    assert (figures.unenforced, figures.burned, figures.held) == (80, 80, 0)


@pytest.mark.parametrize(
    ("lines", "final", "used"),
    [
        ((), True, {"ai": 100, "video": 70}),
        ((CommitLine("ai", 80),), True, {"ai": 80, "video": 70}),
        ((CommitLine("ai", 80), CommitLine("video", 0)), True, {"ai": 80, "video": 0}),
        ((CommitLine("ai", 80), CommitLine("video")), False, {"ai": 80, "video": 70}),
        ((CommitLine("ai"),), False, {"ai": 100, "video": 0}),
        ((CommitLine("ai"), CommitLine("gold")), True, {"ai": 100, "video": 70}),
    ],
)
async def test_what_a_commit_does_not_say_was_held_though_its_hold_ended_otherwise(
    world: World, lines: tuple[CommitLine, ...], final: bool, used: dict[str, int]
) -> None:
    await world.one(Grant("t", "org", GrantTerms("video", 500, GrantSource.PURCHASE), "more"))
    asked = (Line("ai", 100), Line("video", 70))
    answer = await world.one(Reserve("t", "org", asked, TTL_MS, "both"))
    assert isinstance(answer, ReserveReply)
    world.turn(on=True)
    await world.one(Commit("t", answer.hold, "commit", lines, final))
    world.turn(on=False)
    await world.one(Release("t", answer.hold, "released"))
    assert await world.replayer.drain()
    balance = await world.one(GetBalance("t", "org"))
    assert isinstance(balance, BalanceReply)
    booked = {each.credit_type: each.buckets for each in balance.credits}
    assert {name: figures.unenforced for name, figures in booked.items()} == used
    assert {name: figures.burned for name, figures in booked.items()} == used
