"""Stages that are taken down after the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.control.support import Engine, MakeStage, Rules, Stage


@pytest_asyncio.fixture(params=[False, True], ids=["alone", "together"])
async def stage_of(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[MakeStage]:
    """Makes stages, each in a folder of its own. Operations come to them on either way."""
    async with AsyncExitStack() as stack:
        stages: list[Stage] = []

        def make(
            engine: Engine | None = None,
            rules: Rules | None = None,
            *,
            spool_records_max: int = 1_000,
        ) -> Stage:
            folder = tmp_path / str(len(stages))
            folder.mkdir()
            stage = Stage(
                folder,
                engine or Engine(),
                rules or Rules(),
                spool_records_max=spool_records_max,
                attempted=request.param,
            )
            stages.append(stage)
            stack.push_async_callback(stage.spool.close)
            return stage

        yield make
