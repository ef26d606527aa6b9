"""What a process knows of epochs, kept as the ledger has it; and its word when it is asked for.

Every process asks a few times a second whether anything has changed, and at once when the hot
store answers that it is fenced. When partitions are fenced, it tells the ledger the highest
sequence numbers that it has acknowledged: what lies behind the end of an epoch is then known to be
lost, even where nobody has its content. A process that has more to say later says it then.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from holdfast_server import failpoint
from holdfast_server.control.epoch_copy import EPOCHS_KEPT, read_copy, write_copy
from holdfast_server.control.looking import keep_looking
from holdfast_server.domain.epoch import Acknowledged, Epochs
from holdfast_server.errors import HoldfastError
from holdfast_server.ledger.recovery import Lifeline, Loss
from holdfast_server.ledger.store import Ledger
from holdfast_server.telemetry.names import Alert
from holdfast_server.telemetry.recorder import Recorder

#: Pause between two questions.
POLL_SECONDS: Final = 0.25

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class EpochKeeper:
    """Keeps `epochs` true, and says what this process has acknowledged."""

    ledger: Ledger
    epochs: Epochs
    acknowledged: Acknowledged
    process: str
    role: str
    recorder: Recorder
    #: Where a copy is kept for starts while the ledger is away.
    state_dir: Path
    _known: Lifeline = field(default=Lifeline(-1, 0), init=False)
    _asking: asyncio.Task[bool] | None = field(default=None, init=False)

    async def start(self) -> None:
        """Asks for the first time; a ledger that is away is replaced by this host's last copy."""
        await self.refresh()
        if self._known.epochs < 0:
            self.epochs.learn(read_copy(self.state_dir))

    async def run(self) -> None:
        """Asks for ever; end it by cancelling. A ledger that is away is no trouble."""
        await keep_looking("epochs", self.refresh, pause_seconds=POLL_SECONDS)

    async def refresh(self) -> bool:
        """Asks now, once for all who want to know; whether the ledger answered. What is known stays
        while it is away.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._refresh())
        return await asyncio.shield(self._asking)

    async def _refresh(self) -> bool:
        try:
            found = await self.ledger.lifeline()
            if found.epochs != self._known.epochs:
                self.epochs.learn(await self.ledger.epochs())
                write_copy(self.state_dir, self.epochs.newest(EPOCHS_KEPT))
            if found.fencing > self._known.fencing or self._late():
                await self._vote(found.fencing)
            self._known = found
        except HoldfastError as error:
            _log.info("epochs cannot be asked for: %s", error)
            return False
        return True

    async def _vote(self, fencing: int) -> None:
        failpoint.hit("epochs.before_vote")
        said = {each: dict(marks) for each, marks in self.acknowledged.marks.items()}
        losses = await self.ledger.vote(self.process, self.role, fencing, Acknowledged(said))
        report_losses(losses, self.recorder)
        self._forget(said)

    def _late(self) -> bool:
        """Whether an answer was given in an epoch that had ended before."""
        return any(
            self.epochs.end(partition, epoch) is not None
            for partition, marks in self.acknowledged.marks.items()
            for epoch in marks
        )

    def _forget(self, said: dict[int, dict[int, int]]) -> None:
        """Of epochs that have ended, what was said needs no repetition."""
        for partition, marks in said.items():
            for epoch, seq in marks.items():
                kept = self.acknowledged.marks[partition]
                if self.epochs.end(partition, epoch) is not None and kept.get(epoch) == seq:
                    del kept[epoch]


def report_losses(losses: list[Loss], recorder: Recorder) -> None:
    """Lets people hear of losses that nobody had reported before."""
    for loss in losses:
        recorder.alert(Alert.LOSS_REPORT)
        _log.error(
            "acknowledged entries are lost",
            extra={
                "facts": {
                    "partition": loss.partition,
                    "epoch": loss.epoch,
                    "first_seq": loss.first_seq,
                    "last_seq": loss.last_seq,
                }
            },
        )
