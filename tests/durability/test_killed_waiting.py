"""F3: a process that dies between a decision and what it waits for leaves no word behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast_server.domain.operation import Durability
from tests.durability.conftest import frozen
from tests.durability.test_durable import BRIEF_S, PATIENT_S, stage
from tests.durability.wait_process import BURN
from tests.support.cluster import Followed
from tests.support.waiting import WAIT_SECONDS

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]


async def burn_and_die(redis_url: str, postgres_url: str) -> int:
    """The exit status of a process that is killed when it has decided."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.durability.wait_process", redis_url, postgres_url),
        cwd=ROOT,
        env={**os.environ, "HOLDFAST_ENV": "test", "HOLDFAST_FAILPOINTS": "app.before_wait=kill"},
    )
    return await asyncio.wait_for(process.wait(), WAIT_SECONDS)


async def test_the_retry_waits_in_its_place(
    followed_store: Followed, migrated_postgres_url: str
) -> None:
    """It writes nothing itself. While the replica has nothing, nobody is told that it has."""
    async with stage(followed_store.url, migrated_postgres_url, wait_s=BRIEF_S) as one:
        with frozen(followed_store):
            status = await burn_and_die(followed_store.url, migrated_postgres_url)
            assert status == -signal.SIGKILL
            assert await one.used() == 1
            again = await one.do(BURN)
            assert again.applied.replayed
            assert again.applied.durability is Durability.MEMORY
        patient = replace(one, durable=replace(one.durable, wait_s=PATIENT_S))
        found = await patient.do(BURN)
        assert found.applied.transaction_id == again.applied.transaction_id
        assert found.applied.durability is Durability.REPLICATED
        assert await one.used() == 1
