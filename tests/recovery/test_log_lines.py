"""What the log says of a recovery, for whoever reads nothing else of it."""

from __future__ import annotations

import logging

import pytest

from holdfast_server.recovery import coordinator
from tests.recovery.stage import Stage
from tests.support.ledger import PARTITIONS


def lines(caplog: pytest.LogCaptureFixture) -> set[str]:
    """What the coordinator said, each line once."""
    return {each.getMessage() for each in caplog.records if each.name == coordinator.__name__}


async def test_nothing_is_said_to_be_kept_where_all_was_rebuilt(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, coordinator.__name__)

    await stage.recover(rebuild=range(PARTITIONS))

    assert "a partition was recovered" in lines(caplog)
    assert "nothing was lost" not in lines(caplog)


async def test_a_partition_that_is_held_is_not_said_to_be_recovered(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, coordinator.__name__)
    await stage.lose_an_entry(stage.worker())
    caplog.clear()

    await stage.recover()

    assert lines(caplog) >= {"a partition stays fenced", "nothing was lost"}
    assert "a partition was recovered" not in lines(caplog)
