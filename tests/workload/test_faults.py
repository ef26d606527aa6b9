"""A run goes on, and everything holds, while processes of the service are killed."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from holdfast_server import embedded
from holdfast_server.workload.run import Options, run
from holdfast_server.workload.trace import generate_trace
from tests.support.server import RunningService, environment, serving

REQUESTS = 1_500
#: The processes die one after the other, while requests are under way. A worker is back before the
#: next one dies: grants that live for a few seconds are given meanwhile.
BETWEEN_DEATHS_S = 2.5


async def _kill_one_after_another(service: RunningService) -> None:
    for process_id in service.processes.values():
        await asyncio.sleep(BETWEEN_DEATHS_S)
        os.kill(process_id, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.faults
async def test_everything_holds_though_every_process_dies_once(tmp_path: Path) -> None:
    with embedded.start(tmp_path, redis_url=None, postgres_url=None) as stores:
        variables = environment(stores.redis_url, stores.postgres_url, tmp_path / "state")
        with serving(variables) as service:
            deaths = asyncio.create_task(_kill_one_after_another(service))
            report = await run(
                service.target,
                "",
                service.postgres_url,
                service.redis_url,
                generate_trace(REQUESTS, 5),
                Options(seed=5),
                Console(quiet=True),
            )
            await deaths
    assert report.violations == ()
    assert report.ok
