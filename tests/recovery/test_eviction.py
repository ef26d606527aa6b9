"""F21: a hot store that may delete balances is not used, and one that did is not believed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from holdfast_server.domain.reply import Outcome
from holdfast_server.engine.evictions import POLICY
from holdfast_server.recovery import eviction
from holdfast_server.recovery.verdict import Verdict
from holdfast_server.telemetry.names import Alert
from tests.recovery.stage import Stage, Worker
from tests.recovery.test_recovery import check_ledger, is_fenced

pytestmark = pytest.mark.faults


@contextmanager
def evicting(stage: Stage) -> Iterator[redis.Redis]:
    """In this block the store may delete what it likes."""
    with stage.client() as client:
        client.config_set("maxmemory-policy", "allkeys-random")
        yield client
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", POLICY)


def make_room(client: redis.Redis) -> None:
    """Lets the store delete keys until only few are left."""
    client.config_set("maxmemory", 1)
    with pytest.raises(redis.OutOfMemoryError):
        client.set("more", "1")
    assert client.info("stats")["evicted_keys"]


async def spent(stage: Stage) -> Worker:
    """A worker that burned 10 of 100 under the key "once", all of which the ledger has."""
    worker = stage.worker()
    await worker.fund("ada")
    await worker.burn("ada", 10, key="once")
    await stage.flush()
    return worker


async def check_spent_once(stage: Stage, worker: Worker) -> None:
    """Ninety are left, and another 91 are denied, whatever the store has forgotten."""
    await worker.keeper.refresh()
    assert await worker.available("ada") == 90
    assert (await worker.burn("ada", 91)).decision.outcome is Outcome.DENIED
    await stage.flush()
    await check_ledger(stage)


async def test_under_the_wrong_policy_nothing_is_decided(stage: Stage) -> None:
    """What was decided before reaches the ledger. With the right policy it goes on as it was."""
    worker = await spent(stage)
    late = await worker.burn("ada", 5)
    coordinator = stage.coordinator()
    with evicting(stage):
        assert not await coordinator.is_well()
        async with worker.voting():
            held = await coordinator.recover()
        assert {each.verdict for each in held} == {Verdict.HELD}
        assert all(POLICY in each.explanation for each in held)
        assert Alert.STORE_MAY_EVICT in stage.alarms.heard
        assert is_fenced(await worker.burn("ada"))
        partition = worker.keys.partition("t", "ada")
        assert (await stage.ledger.flushed())[partition][1] == late.applied.seq
        # Who waits for a person is not looked at all the time.
        assert await coordinator.is_well()

    done = await coordinator.recover()

    assert {each.verdict for each in done} == {Verdict.KEPT}
    await worker.keeper.refresh()
    assert await worker.available("ada") == 85


async def test_what_deleted_something_is_rebuilt_by_whoever_comes(stage: Stage) -> None:
    """The coordinator that fenced it is gone; the one that comes reads why in the ledger."""
    worker = await spent(stage)
    with evicting(stage) as client:
        await stage.recover()
        make_room(client)

    done = await stage.recover()

    assert {each.verdict for each in done.values()} == {Verdict.REBUILT}
    await check_spent_once(stage, worker)


async def test_a_restart_does_not_make_it_forget_that(stage: Stage) -> None:
    """A server that starts has deleted nothing yet; what it loads may lack what went before."""
    worker = await spent(stage)
    with evicting(stage):
        await stage.recover()
    stage.servers["a"].stop()
    stage.start()
    worker.connect(stage.store())

    done = await stage.recover()

    assert {each.verdict for each in done.values()} == {Verdict.REBUILT}
    await check_spent_once(stage, worker)


async def test_what_was_deleted_between_two_looks_is_noticed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody tried another policy for a moment."""
    worker = await spent(stage)
    coordinator = stage.coordinator()
    assert await coordinator.recover() == []
    assert await coordinator.is_well()
    with evicting(stage) as client:
        make_room(client)
    monkeypatch.setattr(eviction, "LOOK_SECONDS", 0.0)
    coordinator._evictions._due = 0.0

    assert not await coordinator.is_well()
    done = await coordinator.recover()

    assert {each.verdict for each in done} == {Verdict.REBUILT}
    assert await coordinator.is_well()
    await check_spent_once(stage, worker)
