"""A segment that is drained again when only the ledger remembers what it held: booked once."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from holdfast_server.control.kill import KillSwitch
from holdfast_server.control.replay import Replayer
from holdfast_server.control.spool import Spool
from holdfast_server.control.spool_record import Spooled
from holdfast_server.domain.operation import Burn, Commit, CommitLine, Fit, Line, Overage
from tests.control.support import Reports
from tests.support.both import Both, both_stores
from tests.support.pair import CALLER, GENERATION_MS, SIGNER


@pytest_asyncio.fixture
async def both(valkey_url: str, migrated_postgres_url: str) -> AsyncIterator[Both]:
    async with both_stores(valkey_url, migrated_postgres_url) as found:
        await found.account("org")
        await found.grant("org", 100)
        yield found


async def passed(folder: Path, operation: Spooled) -> None:
    """A process lets something through, and ends."""
    spool = Spool(folder / "spool", 10**6, 10**4, Reports())
    assert await spool.append(CALLER, operation)
    await spool.close()


async def drained(both: Both, folder: Path) -> None:
    """A process books what is there, and ends before it can remove the segment."""
    reports = Reports()
    kill = KillSwitch(False, folder / "KILL", folder, reports)
    spool = Spool(folder / "spool", 10**6, 10**4, reports)
    await spool.adopt()
    (segment,) = await spool.sealed()
    os.link(segment, folder / segment.name)
    assert await Replayer(spool, both.operations, kill, SIGNER, reports).drain()
    await spool.close()
    os.mkdir(folder / "spool" / "left")
    os.rename(folder / segment.name, folder / "spool" / "left" / segment.name)


async def forgotten(both: Both) -> None:
    """Two windows go by, in which the account is topped up."""
    for _ in range(3):
        both.real.clock.now_ms += GENERATION_MS + 1
        await both.grant("org", 1_000)
    await both.flushed()


@pytest.mark.parametrize("method", [Burn, Commit])
async def test_what_was_denied_is_booked_once_though_the_denial_is_forgotten(
    both: Both, tmp_path: Path, method: type
) -> None:
    work: Spooled = Burn("t", "org", (Line("ai", 500),), "work")
    if method is Commit:
        hold = (await both.reserve("org", 100)).hold
        work = Commit("t", hold, "work", (CommitLine("ai", 500),), overage=Overage.REJECT)
    await passed(tmp_path, work)
    await drained(both, tmp_path)
    booked = await both.buckets("org")
    assert booked.burned == 500
    await forgotten(both)
    await drained(both, tmp_path)
    again = await both.buckets("org")
    assert (again.burned, again.unenforced) == (booked.burned, booked.unenforced)


async def test_what_a_burn_leaves_that_takes_what_there_is_was_done_all_the_same(
    both: Both, tmp_path: Path
) -> None:
    """I24: its caller was told that all of it passed."""
    await passed(tmp_path, Burn("t", "org", (Line("ai", 130),), "work", fit=Fit.UP_TO))
    await drained(both, tmp_path)
    booked = await both.buckets("org")
    assert (booked.burned, booked.unenforced) == (130, 30)
    await forgotten(both)
    await drained(both, tmp_path)
    again = await both.buckets("org")
    assert (again.burned, again.unenforced) == (booked.burned, booked.unenforced)
