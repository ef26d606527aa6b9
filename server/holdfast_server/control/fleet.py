"""What a process says of itself to the ledger, so that the whole fleet can be seen in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from holdfast_server.control.kill import KillSwitch
from holdfast_server.control.looking import keep_looking
from holdfast_server.ledger.records import ProcessReport

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
        await keep_looking("report of the process", self._say, pause_seconds=REPORT_PAUSE_SECONDS)

    async def _say(self) -> None:
        await self._store.report_process(self.report())
