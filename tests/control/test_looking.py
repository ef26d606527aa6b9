"""What is looked at again and again, beside the work: no look that fails is the last one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast_server.app import flush, worker
from holdfast_server.app.backlog import Backlog
from holdfast_server.background import background
from holdfast_server.control import fleet, looking
from holdfast_server.control.fleet import Heartbeat
from holdfast_server.control.kill import KillSwitch
from holdfast_server.control.looking import keep_looking
from holdfast_server.ledger.records import ProcessReport
from holdfast_server.telemetry.recorder import Recorder
from tests.control.support import Reports
from tests.support.both import Both
from tests.support.pair import Real
from tests.support.waiting import until

LOOK_SECONDS = 0.01


@dataclass
class Heard(Recorder):
    """How much waits, as it was said last."""

    waiting: int = -1

    def outbox(self, entries: int, lag_seconds: float) -> None:
        self.waiting = entries


async def test_how_much_waits_is_known_again_after_a_fence_that_was_none(
    both: Both, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for each, pause in ((worker, "WATCH_SECONDS"), (flush, "WATCH_PAUSE_SECONDS")):
        monkeypatch.setattr(each, pause, LOOK_SECONDS)
    store, keys, heard = both.real.store, both.real.keys, Heard()
    settings = SimpleNamespace(outbox_entries_hard=0)
    process: Any = SimpleNamespace(metrics=heard, store=store, keys=keys, settings=settings)
    decider: Any = SimpleNamespace(batcher=SimpleNamespace(depth=0, is_backlogged=False))
    backlog = Backlog(heard, 1)
    backlog.reached(0, 1, 0)
    state = keys.state(0, 1)
    fence: Any = await store.read("HGET", state, "e")
    await store.client.hset(state, "e", "by hand")

    async with (
        background(worker._watch_queues(process, decider)),
        background(flush._watch(process, backlog)),
    ):
        await until(lambda: caplog.text.count("failed") >= 2)
        assert (decider.batcher.is_backlogged, heard.waiting) == (False, -1)
        await store.client.hset(state, "e", fence)
        await until(lambda: decider.batcher.is_backlogged and heard.waiting == 0)


async def test_a_store_that_is_away_and_comes_back_is_told_of_once(
    real: Real, caplog: pytest.LogCaptureFixture
) -> None:
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        await real.store.information("memory")

    async def for_a_while() -> None:
        enough = looks + 3
        await until(lambda: looks >= enough)

    async with background(keep_looking("memory", look, pause_seconds=LOOK_SECONDS)):
        await for_a_while()
        for _ in range(2):
            await real.store.client.execute_command("ACL", "SETUSER", "default", "-info")
            try:
                await for_a_while()
            finally:
                await real.store.client.execute_command("ACL", "SETUSER", "default", "+info")
            await for_a_while()

    told = [each.getMessage() for each in caplog.records if each.name == looking.__name__]
    assert told == ["memory: STORE_UNAVAILABLE", "memory: works again"] * 2


async def test_a_process_that_could_not_be_reported_is_reported_later(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "REPORT_PAUSE_SECONDS", LOOK_SECONDS)
    kill = KillSwitch(False, tmp_path / "KILL", tmp_path, Reports())
    steps = iter((0, 1))
    report = ProcessReport("host-1", "worker", "0.1.0", 1_000, 0)
    beat = Heartbeat(both.ledger, report, kill, lambda: 42 // next(steps))
    async with background(beat.run()):
        await until(both.ledger.list_processes)
