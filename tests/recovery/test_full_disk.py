"""Finding 5: a full disk and a restart take what was answered last.

Where the log is synced each second, the server executes a call that it cannot log, answers it all
the same, and refuses only the next one.
"""

from __future__ import annotations

import pytest
import redis

from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.recovery.verdict import Verdict
from tests.recovery.stage import Stage, Worker
from tests.recovery.test_recovery import check_ledger, is_fenced, lost
from tests.support.wrapped import BLOCKS_MAX, FULL_DISK, wrapped

pytestmark = pytest.mark.faults


def count_until_refused(client: redis.Redis) -> int:
    """The last number that a plain counter answered before the server refused."""
    client.set("padding", "x" * (BLOCKS_MAX - 1) * 512)
    answered = 0
    while True:
        try:
            answered = int(client.incr("counter"))
        except redis.ResponseError:
            return answered


async def burn_until_refused(worker: Worker) -> int:
    """The last sequence number that was answered before the store refused."""
    last = 0
    while True:
        answer = await worker.burn("ada")
        if isinstance(answer, HoldfastError):
            assert answer.reason is Reason.STORE_WRITE_BLOCKED
            return last
        last = answer.applied.seq


def test_a_counter_forgets_without_a_word(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive way: what was answered last is gone, and the next answer repeats its number."""
    with wrapped(monkeypatch, FULL_DISK):
        stage.start("naive")
    with stage.client("naive") as client:
        answered = count_until_refused(client)
    stage.servers["naive"].kill()
    stage.start("naive")
    with stage.client("naive") as client:
        assert int(client.incr("counter")) <= answered


@pytest.mark.parametrize("is_drained", [False, True])
async def test_what_was_answered_is_kept_or_reported(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, is_drained: bool
) -> None:
    """Nobody is answered before somebody has looked. What the flusher could still read is kept;
    what nobody has is reported by its number."""
    stage.servers["a"].stop()
    with wrapped(monkeypatch, FULL_DISK):
        stage.start()
    await stage.recover()
    worker = stage.worker()
    await worker.fund("ada", 10_000)
    partition = worker.keys.partition("t", "ada")
    epoch, last = worker.keys.epoch(partition), await burn_until_refused(worker)
    if is_drained:
        await stage.flush()
    stage.servers["a"].kill()
    stage.start()
    worker.connect(stage.store())

    assert is_fenced(await worker.burn("ada"))
    async with worker.voting():
        done = (await stage.recover())[partition]

    assert done.verdict is (Verdict.REBUILT if is_drained else Verdict.SUFFIX_LOST)
    reported = lost(await stage.ledger.losses())
    assert reported == ([] if is_drained else [(partition, epoch, last, last)])
    await stage.flush()
    await check_ledger(stage)
