"""What a process says of itself to the ledger, so that the whole fleet can be seen in one place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from holdfast_server.control.kill import KillSwitch
from holdfast_server.errors import HoldfastError
from holdfast_server.ledger.records import ProcessReport

_log = logging.getLogger(__name__)

#: Pause between two reports of a process.
REPORT_PAUSE_SECONDS = 5.0


class ProcessStore(Protocol):
    """Where processes report: the ledger."""

    async def report_process(self, report: ProcessReport) -> None:
        """Says that a process lives. Raises LEDGER_UNAVAILABLE."""
        ...


class Heartbeat:
    """Reports one process to the ledger, with what it has applied."""

    def __init__(
        self,
        store: ProcessStore,
        process: ProcessReport,
        kill: KillSwitch,
        config_version: Callable[[], int],
    ) -> None:
        """`process` holds what never changes; the rest is asked before each report."""
        self._store = store
        self._process = process
        self._kill = kill
        self._config_version = config_version

    def report(self) -> ProcessReport:
        """What the process says of itself now."""
        state = self._kill.state()
        return replace(
            self._process,
            config_version=self._config_version(),
            killed=state.on,
            killed_by=state.causes[0] if state.on else "",
        )

    async def run(self) -> None:
        """Reports for ever; end it by cancelling. A ledger that is away is no trouble."""
        while True:
            try:
                await self._store.report_process(self.report())
            except HoldfastError as error:
                _log.info("the process could not be reported: %s", error)
            await asyncio.sleep(REPORT_PAUSE_SECONDS)
