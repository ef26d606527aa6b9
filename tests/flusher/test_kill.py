"""I9: a flusher that is killed anywhere loses nothing and doubles nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.flusher import flush_process
from tests.flusher.stage import Stage
from tests.support.entries import Story, history_of, holds_and_commits
from tests.support.ledger import begin_epoch
from tests.support.waiting import WAIT_SECONDS, until

ROOT = Path(flush_process.__file__).parents[2]

FAILPOINTS = (
    "flusher.after_read",
    "flusher.after_cursor",
    "flusher.after_rows",
    "flusher.before_commit",
    "flusher.after_commit",
    "flusher.before_publish",
    "flusher.after_publish",
    "flusher.after_trim",
)


@asynccontextmanager
async def flush_process_running(stage: Stage, failpoints: str = "") -> AsyncIterator[Process]:
    """A flusher process that is ended with the block, if it has not died before."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.flusher.flush_process",
        stage.postgres_url,
        stage.valkey_url,
        cwd=ROOT,
        env=os.environ | {"HOLDFAST_ENV": "test", "HOLDFAST_FAILPOINTS": failpoints},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        await asyncio.wait_for(process.wait(), WAIT_SECONDS)


@pytest.mark.faults
@pytest.mark.parametrize("failpoint", FAILPOINTS)
async def test_killed_at_a_failpoint_and_started_again(stage: Stage, failpoint: str) -> None:
    """F38, F39: the cursor in Postgres tells the successor where to go on."""
    stories = [history_of(partition, 20) for partition in (0, 1)]
    entries = [entry for story in stories for entry in story]
    await stage.add(*entries)

    async with flush_process_running(stage, f"{failpoint}=kill:2") as process:
        await asyncio.wait_for(process.wait(), WAIT_SECONDS)
        assert process.returncode == -signal.SIGKILL
    if failpoint != "flusher.after_trim":
        assert (await stage.recorded()) != {0: len(stories[0]), 1: len(stories[1])}
    async with flush_process_running(stage) as process:
        await stage.until_recorded(p0=len(stories[0]), p1=len(stories[1]))
        await until(lambda: process.returncode is None)

    await stage.check(entries)
    assert await stage.watermarks() == {0: len(stories[0]), 1: len(stories[1])}
    assert stage.quarantine() == []


@pytest.mark.faults
async def test_a_flusher_that_was_stopped_for_long_does_no_harm(stage: Stage) -> None:
    """F40: stopped, fenced by a new epoch, continued: the old stream is not recorded."""
    story = Story()
    entries = holds_and_commits(story, ["ada"], 10)
    grant_id = entries[0].grants[0].grant_id
    await stage.add(*entries)
    async with flush_process_running(stage) as zombie:
        await stage.until_recorded(p0=len(entries))
        zombie.send_signal(signal.SIGSTOP)
        stale = replace(story, states=dict(story.states)).hold("ada", 99, "0e" * 16, grant_id)
        assert await begin_epoch(stage.ledger, 0, 1)
        story.epoch = 2
        later = story.hold("ada", 1, "0f" * 16, grant_id)
        await stage.add(stale, later)
        zombie.send_signal(signal.SIGCONT)
        await stage.until_recorded(p0=later.seq)

    await stage.check([*entries, later])
    (hold,) = await stage.ledger.hold_entries("tenant", later.hold)
    assert hold.entry.epoch == 2
    assert await stage.ledger.hold_entries("tenant", stale.hold) == []
