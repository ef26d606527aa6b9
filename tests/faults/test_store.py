"""The hot store refuses, hangs, runs full or has a wrong clock; what it answered stays true."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from holdfast_server import embedded
from holdfast_server.chaos.proxy import Proxy
from holdfast_server.domain import operation as op
from holdfast_server.domain.bounds import BATCH_ITEMS_MAX
from holdfast_server.engine import store
from holdfast_server.engine.backlog import entries_waiting
from holdfast_server.engine.scripts import Clock
from holdfast_server.engine.store_clock import wall_ms
from holdfast_server.errors import HoldfastError, Reason
from tests.faults.faketime import LIBRARY, needs_faketime
from tests.support.arming import arm
from tests.support.pair import Real, build
from tests.support.waiting import until
from tests.support.wrapped import FULL_DISK, wrapped

pytestmark = pytest.mark.faults

HOUR_S = 3_600
#: Answers of one test come within so many milliseconds of real time.
MOMENT_MS = 30_000


def reserve(key: str, amount: int = 1, ttl_ms: int = 60_000) -> op.Reserve:
    return op.Reserve("t", "a", (op.Line("ai", amount),), ttl_ms, key)


async def fund(real: Real, amount: int = 100_000) -> None:
    terms = op.GrantTerms("ai", amount, op.GrantSource.PURCHASE)
    created, given = await real.decide(
        [op.CreateAccount("t", "a", op.AccountTerms(), "1"), op.Grant("t", "a", terms, "2")]
    )
    assert created.applied.seq
    assert given.applied.seq


async def held(real: Real) -> int:
    (balance,) = await real.decide([op.GetBalance("t", "a")])
    return int(balance.credits[0].buckets.held)


@pytest.fixture
async def real(valkey_url: str) -> AsyncIterator[Real]:
    """An engine and an account with credits."""
    built = build(valkey_url, partitions=1)
    await fund(built)
    yield built
    await built.store.close()


@contextmanager
def own_valkey(monkeypatch: pytest.MonkeyPatch, before: str) -> Iterator[embedded.Server]:
    """A Valkey of this test's own, started by a shell that first does what `before` says."""
    with (
        TemporaryDirectory(prefix="holdfast-faults-") as name,
        wrapped(monkeypatch, before),
        embedded.start_valkey(Path(name)) as server,
    ):
        yield server


async def test_a_script_that_never_ends(valkey_url: str, real: Real) -> None:
    """F23: others are told that nothing was decided, and go on when it was killed."""
    client = real.store.client
    await client.config_set("busy-reply-threshold", 50)
    async with Redis.from_url(valkey_url, retry=Retry(NoBackoff(), 0)) as other:
        endless = asyncio.ensure_future(other.eval("while true do end", 0))
        try:
            (refused,) = await _refused_at_last(real)
            await client.script_kill()
            with pytest.raises(redis.ResponseError):
                await endless
        finally:
            await client.config_set("busy-reply-threshold", 5_000)
    (granted,) = await real.decide([reserve("after")])
    assert refused.reason is Reason.STORE_UNAVAILABLE
    assert granted.applied.seq


async def _refused_at_last(real: Real) -> list[Any]:
    """The script may begin a moment after it was sent."""
    answers: list[Any] = []

    async def is_refused() -> bool:
        answers[:] = await real.decide([reserve("meanwhile")])
        return isinstance(answers[0], HoldfastError)

    await until(is_refused)
    return answers


async def test_a_store_is_demoted_and_promoted_under_load(real: Real, valkey_url: str) -> None:
    """F17, F18: each caller is told what nobody decided, and the same key decides it later."""
    client, keys = real.store.client, [f"key-{number}" for number in range(200)]

    async def turn() -> None:
        for _ in range(5):
            await client.replicaof("127.0.0.1", 1)
            await client.replicaof("NO", "ONE")

    first, _ = await asyncio.gather(
        asyncio.gather(*(real.decide([reserve(key)]) for key in keys)), turn()
    )
    reasons = {one.reason for (one,) in first if isinstance(one, HoldfastError)}
    assert reasons <= {Reason.STORE_WRITE_BLOCKED, Reason.RESULT_UNKNOWN, Reason.FENCED}
    # Each promotion begins another history.
    arm(valkey_url, real.keys)
    again = await real.decide([reserve(key) for key in keys])
    assert all(one.applied.seq for one in again)
    assert await held(real) == len(keys)


async def test_an_answer_that_comes_after_its_time(
    valkey_url: str, real: Real, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F26: nobody knows, so nothing is done in its place; the same key finds what was done."""
    monkeypatch.setitem(store._CONNECTION, "socket_timeout", 0.2)
    monkeypatch.setattr(store, "ANSWER_TIMEOUT_S", 0.2)
    async with Proxy(urlsplit(valkey_url).port or 0) as proxy:
        through = build(proxy.url(valkey_url), partitions=1, armed_at=valkey_url)
        assert (await through.decide([reserve("warm")]))[0].applied.seq
        proxy.half_open("replies")
        (unknown,) = await through.decide([reserve("late", 7)])
        proxy.heal()
        (found,) = await through.decide([reserve("late", 7)])
        await through.store.close()
    assert unknown.reason is Reason.RESULT_UNKNOWN
    assert found.applied.replayed
    assert await held(real) == 8


async def test_one_of_two_workers_is_cut_off(valkey_url: str, real: Real) -> None:
    """F47: who reaches the store is not disturbed by who does not."""
    async with Proxy(urlsplit(valkey_url).port or 0) as proxy:
        cut_off = build(proxy.url(valkey_url), partitions=1, armed_at=valkey_url)
        proxy.cut()
        (refused,) = await cut_off.decide([reserve("cut")])
        (granted,) = await real.decide([reserve("fine")])
        proxy.heal()
        (healed,) = await cut_off.decide([reserve("cut")])
        await cut_off.store.close()
    assert refused.reason in {Reason.STORE_UNAVAILABLE, Reason.RESULT_UNKNOWN}
    assert granted.applied.seq
    assert healed.applied.seq


async def test_a_batch_of_the_largest_size(real: Real) -> None:
    """F51: decided in one call, each operation by itself."""
    answers = await real.decide([reserve(f"k{number}") for number in range(BATCH_ITEMS_MAX)])
    assert len({answer.applied.seq for answer in answers}) == BATCH_ITEMS_MAX
    assert await held(real) == BATCH_ITEMS_MAX


async def test_the_disk_of_the_store_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """F27: writes are refused, what was answered can still be read, and so be brought to safety."""
    with own_valkey(monkeypatch, FULL_DISK) as server:
        real = build(server.url, partitions=1, clock=Clock.STORE)
        await fund(real)
        answered: list[int] = []

        async def is_full() -> bool:
            number = len(answered)
            (answer,) = await real.decide([reserve(f"key-{number}")])
            if isinstance(answer, HoldfastError):
                assert answer.reason is Reason.STORE_WRITE_BLOCKED
                return True
            answered.append(answer.applied.seq)
            return False

        await until(is_full)
        kept = [entry.seq for entry in await real.entries()]
        await real.store.close()
    assert answered
    assert set(answered) <= set(kept)


@needs_faketime
@pytest.mark.parametrize("hours", [-1, 1])
async def test_the_clock_of_the_store_jumps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hours: int
) -> None:
    """F44: time never falls in a partition, and nothing ends by a clock that jumped ahead."""
    with clock_of_its_own(monkeypatch, tmp_path) as (server, set_clock):
        real = build(server.url, partitions=1, clock=Clock.STORE)
        await fund(real)
        (before,) = await real.decide([reserve("before")])
        await entries_waiting(real.store, real.keys)
        await jump(real, set_clock, hours)
        (after,) = await real.decide([reserve("after")])
        assert await held(real) == 2
        # What a look sees then is not believed either.
        await entries_waiting(real.store, real.keys)
        assert real.store.clock.is_suspect == (hours > 0)
        assert await held(real) == 2
        await jump(real, set_clock, 0)
        (later,) = await real.decide([reserve("later")])
        times = [entry.event_ms for entry in await real.entries()]
        await real.store.close()
    assert times == sorted(times)
    ends = [each.expires_at_ms for each in (before, after, later)]
    assert ends == sorted(ends)
    assert ends[-1] - ends[0] < MOMENT_MS


@needs_faketime
async def test_who_starts_while_the_clock_is_ahead_asks_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """F44: of three clocks the two that agree count, from the very first call on."""
    async with holding(monkeypatch, tmp_path) as (real, set_clock):
        real.store.clock.hear(wall_ms())
        await jump(real, set_clock, 1)
        assert await held(real) == 1
        await entries_waiting(real.store, real.keys)
        assert real.store.clock.is_suspect
        assert await held(real) == 1


@needs_faketime
async def test_a_clock_that_is_believed_ends_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The naive way: who never looked at a clock before takes any time from the store."""
    async with holding(monkeypatch, tmp_path) as (real, set_clock):
        await jump(real, set_clock, 1)
        assert await held(real) == 0


@asynccontextmanager
async def holding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[tuple[Real, Callable[[int], object]]]:
    """An engine that holds something and never looked at a clock, and what sets its store's."""
    with clock_of_its_own(monkeypatch, tmp_path) as (server, set_clock):
        real = build(server.url, partitions=1, clock=Clock.STORE)
        await fund(real)
        await real.decide([reserve("before")])
        yield real, set_clock
        await real.store.close()


@contextmanager
def clock_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[embedded.Server, Callable[[int], object]]]:
    """A Valkey, and what sets its clock ahead by so many hours."""
    shift = tmp_path / "shift"

    def set_clock(hours: int) -> None:
        shift.write_text(f"{hours * HOUR_S:+}")

    set_clock(0)
    preload = "\n".join(
        f"export {name}={shlex.quote(value)}"
        for name, value in {
            "LD_PRELOAD": LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": str(shift),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }.items()
    )
    with own_valkey(monkeypatch, preload) as server:
        yield server, set_clock


async def jump(real: Real, set_clock: Callable[[int], object], hours: int) -> None:
    """Sets the clock of the store, and waits until it shows that."""
    set_clock(hours)

    async def has_jumped() -> bool:
        seconds, _ = await real.store.client.time()
        return bool(abs(seconds - time.time() - hours * HOUR_S) * 1_000 < MOMENT_MS)

    await until(has_jumped)
