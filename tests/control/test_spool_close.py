"""A spool that is closed keeps what it had accepted, and confirms nothing that would be lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdfast_server.control.spool import Spool
from holdfast_server.telemetry.names import Replayed
from tests.control.support import CALLER, Reports, burn, records_of


async def test_a_closed_spool_finishes_what_it_has_and_takes_no_more(tmp_path: Path) -> None:
    """Its folder may be adopted from then on: what came later could be removed with it."""
    reports = Reports()
    closing = Spool(tmp_path, 10**6, 10**6, reports)
    before = asyncio.create_task(closing.append(CALLER, burn("before")))
    await asyncio.sleep(0)
    closed = asyncio.create_task(closing.close())
    await asyncio.sleep(0)
    assert not await closing.append(CALLER, burn("while"))
    await closed
    assert await before
    assert not await closing.append(CALLER, burn("after"))
    assert reports.results == [Replayed.LOST] * 2

    adopting = Spool(tmp_path, 10**6, 10**6, reports)
    await adopting.adopt()
    assert [record.operation.key for record in records_of(adopting)] == ["before"]
    await adopting.close()
