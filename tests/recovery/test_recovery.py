"""What becomes of partitions whose hot store restarted, was emptied, or was replaced."""

from __future__ import annotations

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.engine.keys import COLD_FLOOR_FIELD, FENCE_FIELD, FLUSHED_FIELD
from holdfast_server.engine.tree_store import Evicted, TreeStore
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.recovery import Loss
from holdfast_server.recovery import salvage
from holdfast_server.recovery.verdict import Verdict
from holdfast_server.telemetry.names import Alert
from tests.recovery.stage import Stage, Worker
from tests.support.ledger import PARTITIONS, query

STEPS = (
    "after_fence_ledger",
    "after_fence",
    "after_votes",
    "after_salvage",
    "after_verdict",
    "after_quarantine",
    "after_open",
    "after_claims",
    "after_arm",
)


def is_fenced(answer: object) -> bool:
    """Whether nothing was decided because the store may have lost something."""
    return isinstance(answer, HoldfastError) and answer.reason is Reason.FENCED


def lost(losses: list[Loss]) -> list[tuple[int, int, int, int]]:
    """Losses without the time when they were reported."""
    return [(each.partition, each.epoch, each.first_seq, each.last_seq) for each in losses]


async def check_ledger(stage: Stage) -> None:
    """The ledger is whole."""
    assert (await stage.ledger.verify()).violations == ()


async def test_the_first_start_arms_every_partition(stage: Stage) -> None:
    worker = stage.worker()

    await worker.fund("ada")

    assert await worker.available("ada") == 100
    standings = await stage.ledger.standings()
    assert {(each.epoch, each.home, each.reason, each.fencing) for each in standings} == {
        (2, 1, "kept", 0)
    }
    assert await stage.recover() == {}


async def test_a_store_that_nobody_armed_decides_nothing(stage: Stage) -> None:
    """F10: an empty store answers nobody; the reads of the coordinator do not arm it either."""
    stage.start("b")
    worker = stage.worker(on="b")

    assert is_fenced(await worker.burn("ada"))
    with stage.client("b") as client:
        assert client.keys("*") == []


async def test_a_restart_with_its_log_loses_nothing(stage: Stage) -> None:
    """F7: another history with the same data. What the ledger did not have yet, it has now."""
    worker = stage.worker()
    await worker.fund("ada")
    await stage.flush()
    before = await worker.burn("ada", key="once")
    stage.servers["a"].stop()
    stage.start("a")
    worker.connect(stage.store())

    assert is_fenced(await worker.burn("ada", key="twice"))
    async with worker.voting():
        done = await stage.recover()
    again = await worker.burn("ada", key="once")

    assert {each.verdict for each in done.values()} == {Verdict.KEPT}
    assert again.applied.replayed
    assert again.applied.transaction_id == before.applied.transaction_id
    assert await worker.available("ada") == 99
    assert await stage.ledger.losses() == []
    later = await worker.burn("ada")
    assert (later.applied.epoch, later.applied.seq) == (3, before.applied.seq + 1)
    await stage.flush()
    await check_ledger(stage)


async def test_however_much_waits_all_of_it_is_salvaged(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one look takes in, most of it in the partitions that are looked at first."""
    monkeypatch.setattr(salvage, "STEP_ENTRIES", 10)
    worker = stage.worker()
    names = [f"account-{number}" for number in range(12)]
    for name in names:
        await worker.fund(name)
        for _ in range(5):
            await worker.burn(name)
    stage.servers["a"].stop()
    stage.start("a")
    worker.connect(stage.store())

    async with worker.voting():
        done = await stage.recover()

    assert {each.verdict for each in done.values()} == {Verdict.KEPT}
    assert await stage.ledger.losses() == []
    await worker.keeper.refresh()
    assert [await worker.available(name) for name in names] == [95] * len(names)
    assert {worker.keys.partition("t", name) for name in names} == set(range(PARTITIONS))
    await check_ledger(stage)


async def test_an_emptied_store_begins_anew_behind_the_ledger(stage: Stage) -> None:
    """F10, F11: no key is left. Sequence numbers go on where the ledger is, and balances too."""
    worker = stage.worker()
    await worker.fund("ada")
    await worker.burn("ada", 10, key="once")
    await stage.flush()
    with stage.client() as client:
        client.flushall()

    assert is_fenced(await worker.burn("ada"))
    async with worker.voting():
        done = await stage.recover()

    partition = worker.keys.partition("t", "ada")
    assert done[partition].verdict is Verdict.REBUILT
    assert {each.verdict for p, each in done.items() if p != partition} == {Verdict.KEPT}
    await worker.keeper.refresh()
    seq = (await stage.ledger.flushed())[partition][1]
    with stage.client() as client:
        name = worker.keys.state(partition, worker.keys.epoch(partition))
        found = client.hmget(name, [COLD_FLOOR_FIELD, FLUSHED_FIELD, FENCE_FIELD])
    assert found[:2] == [str(seq).encode()] * 2
    assert found[2].split()[0] == str(worker.keys.epoch(partition)).encode()
    assert await worker.available("ada") == 90
    assert (await worker.burn("ada", 5)).applied.seq == seq + 1
    await worker.fund("new")
    await stage.flush()
    await check_ledger(stage)


async def test_a_replica_that_has_everything_goes_on(stage: Stage) -> None:
    """F13."""
    worker = stage.worker()
    await worker.fund("ada")
    await stage.follow("a", "b")
    stage.promote("b")
    worker.connect(stage.store("b"))

    assert is_fenced(await worker.burn("ada"))
    async with worker.voting():
        done = await stage.recover("b")

    assert {each.verdict for each in done.values()} == {Verdict.KEPT}
    assert await worker.available("ada") == 100
    await stage.flush("b")
    await check_ledger(stage)


async def stale_replica(stage: Stage, worker: Worker) -> None:
    """A replica that lacks two entries which were acknowledged and are in the ledger."""
    await worker.fund("ada")
    await stage.follow("a", "b")
    stage.promote("b")
    for _ in range(2):
        assert (await worker.burn("ada", 10)).applied.seq
    await stage.flush()


async def test_a_stale_replica_reuses_no_sequence_number(stage: Stage) -> None:
    """F14: the ledger has more than the store, so the store begins anew."""
    worker = stage.worker()
    await stale_replica(stage, worker)
    partition = worker.keys.partition("t", "ada")
    worker.connect(stage.store("b"))

    assert is_fenced(await worker.burn("ada", 10))
    async with worker.voting():
        done = await stage.recover("b")

    assert done[partition].verdict is Verdict.REBUILT
    assert done[partition].hot_seq == done[partition].ledger_seq - 2
    assert await stage.ledger.losses() == []
    await check_ledger(stage)


async def test_without_fences_a_stale_replica_drops_what_was_acknowledged(stage: Stage) -> None:
    """The same, armed by hand as if nothing had happened: two burns have one number."""
    worker = stage.worker()
    await stale_replica(stage, worker)
    partition = worker.keys.partition("t", "ada")
    with stage.client("b") as client:
        replid = str(client.info("replication")["master_replid"])
        name = worker.keys.state(partition, worker.keys.epoch(partition))
        client.hset(name, FENCE_FIELD, f"{worker.keys.epoch(partition)} {replid} ARMED")
    worker.connect(stage.store("b"))

    answer = await worker.burn("ada", 10)

    recorded = query(
        stage.postgres_url,
        "SELECT idempotency_key FROM holdfast.entry WHERE partition = %s AND seq = %s",
        partition,
        answer.applied.seq,
    )
    assert answer.applied.seq
    assert [row["idempotency_key"] for row in recorded] != [f"w-{worker.calls}"]


async def test_a_suffix_that_nobody_has_is_reported_exactly(stage: Stage) -> None:
    """F8, F9: acknowledged, not in the ledger, and not in the store that goes on."""
    worker = stage.worker()
    await worker.fund("ada")
    await stage.follow("a", "b")
    stage.promote("b")
    burned = [await worker.burn("ada", 10) for _ in range(3)]
    partition = worker.keys.partition("t", "ada")
    worker.connect(stage.store("b"))

    async with worker.voting():
        done = await stage.recover("b")

    first, last = burned[0].applied, burned[-1].applied
    assert done[partition].verdict is Verdict.SUFFIX_LOST
    assert done[partition].acknowledged_seq == last.seq
    assert lost(await stage.ledger.losses()) == [(partition, first.epoch, first.seq, last.seq)]
    assert Alert.LOSS_REPORT in stage.alarms.heard
    assert await worker.available("ada") == 100
    again = await worker.burn("ada", 10)
    assert (again.applied.epoch, again.applied.seq) == (first.epoch + 1, first.seq)
    assert again.applied.transaction_id != first.transaction_id
    await stage.flush("b")
    await check_ledger(stage)


async def test_who_comes_too_late_to_vote_reports_the_loss_itself(stage: Stage) -> None:
    """A process that says nothing while partitions are recovered says it when it learns of it."""
    worker = stage.worker()
    await worker.fund("ada")
    await stage.follow("a", "b")
    stage.promote("b")
    burned = await worker.burn("ada", 10)
    partition = worker.keys.partition("t", "ada")

    done = await stage.recover("b")
    assert done[partition].verdict is Verdict.KEPT
    assert await stage.ledger.losses() == []
    await worker.keeper.refresh()

    seq = burned.applied.seq
    epoch = burned.applied.epoch
    assert lost(await stage.ledger.losses()) == [(partition, epoch, seq, seq)]
    assert worker.alarms.heard == [Alert.LOSS_REPORT]


async def test_there_and_back_again(stage: Stage) -> None:
    """F15, F16: the first server went on for a process that had not heard of the second."""
    worker, zombie = stage.worker("w"), stage.worker("z")
    await worker.fund("ada")
    await stage.follow("a", "b")
    await zombie.burn("ada", 1)
    stage.promote("b")
    worker.connect(stage.store("b"))
    await stage.recover("b")
    assert (await worker.burn("ada", 10)).applied.epoch == 4
    await stage.flush("b")
    late = await zombie.burn("ada", 30)
    assert late.applied.epoch == 3

    worker.connect(stage.store("a"))
    assert is_fenced(await worker.burn("ada"))
    done = await stage.recover("a")

    partition = worker.keys.partition("t", "ada")
    assert done[partition].verdict is Verdict.REBUILT
    assert done[partition].quarantined == 1
    quarantined = query(
        stage.postgres_url, "SELECT partition, epoch, fault FROM holdfast.quarantine"
    )
    assert [tuple(row.values()) for row in quarantined] == [(partition, 3, "fork")]
    assert Alert.QUARANTINE in stage.alarms.heard
    await zombie.keeper.refresh()
    place = late.applied
    assert lost(await stage.ledger.losses()) == [(partition, 3, place.seq, place.seq)]
    await check_ledger(stage)


async def test_a_store_that_may_not_answer_is_not_read_either(stage: Stage) -> None:
    """What an account was in a history that does not go on is nobody's business."""
    worker = stage.worker()
    await worker.fund("ada")
    await stage.follow("a", "b")
    await worker.keeper.refresh()
    assert (await worker.engine.get_account("t", "ada")).account == "ada"
    stage.promote("b")
    worker.connect(stage.store("b"))

    with pytest.raises(HoldfastError) as caught:
        await worker.engine.get_account("t", "ada")

    assert caught.value.reason is Reason.FENCED
    assert is_fenced(await worker.do(op.GetBalance("t", "ada")))


async def test_a_ledger_that_lost_what_it_had_keeps_the_partition_fenced(stage: Stage) -> None:
    """F35, F65: neither store can go on without a loss, so somebody has to look."""
    worker = stage.worker()
    partition = await stage.lose_an_entry(worker)

    done = await stage.recover()
    assert done[partition].verdict is Verdict.HELD
    assert not done[partition].armed
    assert Alert.FENCED in stage.alarms.heard
    assert [each.partition for each in await stage.ledger.standings() if each.fencing] == [
        partition
    ]

    done = await stage.recover(rebuild=[partition])
    assert done[partition].verdict is Verdict.REBUILT
    worker.connect(stage.store())
    assert await worker.available("ada") == 100


async def test_nothing_leaves_a_store_that_may_have_more_than_the_ledger(stage: Stage) -> None:
    """By what the store was told, the ledger has the tree; nobody knows yet what it has lost."""
    worker = stage.worker()
    partition = await stage.lose_an_entry(worker)
    await worker.keeper.refresh()
    done = await stage.recover()

    trees = TreeStore(stage.store(), worker.keys)
    left = await trees.evict(await trees.see([("t", "ada")]))

    assert done[partition].verdict is Verdict.HELD
    assert left == {("t", "ada"): Evicted.FENCED}


async def test_an_older_epoch_is_refused_and_the_newer_one_learned(stage: Stage) -> None:
    """I19: a process that knows the epoch before decides nothing; once it has asked, it does."""
    worker, deaf = stage.worker("w"), stage.worker("d")
    await worker.fund("ada")
    await deaf.keeper.refresh()
    partition = worker.keys.partition("t", "ada")
    await stage.recover(rebuild=[(partition + 1) % PARTITIONS, partition])
    assert deaf.keys.epoch(partition) == 2

    answer = await deaf.burn("ada")

    assert not is_fenced(answer)
    assert deaf.keys.epoch(partition) == 3


@pytest.mark.faults
@pytest.mark.parametrize("step", STEPS)
async def test_a_coordinator_that_dies_is_followed_by_another(stage: Stage, step: str) -> None:
    """F63: whatever was done before, the next one begins with the first step."""
    worker = stage.worker()
    await worker.fund("ada")
    await worker.burn("ada", 10)
    stage.servers["a"].stop()
    stage.start("a")

    assert stage.run_recovery(f"coordinator.{step}=kill") == -9
    worker.connect(stage.store())
    answer = await worker.burn("ada", 1)
    assert is_fenced(answer) or step == "after_arm"
    assert stage.run_recovery() == 0

    spent = 10 if is_fenced(answer) else 11
    assert await worker.available("ada") == 100 - spent
    assert [each for each in await stage.ledger.standings() if each.fencing] == []
    assert await stage.ledger.losses() == []
    await stage.flush()
    await check_ledger(stage)
