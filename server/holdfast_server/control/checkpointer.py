"""Makes a checkpoint every minute and brings it to a second place, outside of the database.

Of any number of flushers one makes the next checkpoint: the one whose number the ledger accepts. It
is kept there until it is delivered, so that after a crash the very same is sent again, and no other
has its number. Where a fail-over of the ledger loses it, every flusher that has made or seen it
gives it back. Before anything is signed, the ledger must still have what was signed before.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast_server.control.outgoing import AddressForbidden, RequestFailed
from holdfast_server.control.places import Place
from holdfast_server.control.signing import KeyFileError, SigningKey
from holdfast_server.domain.checkpoint import FIRST_PREVIOUS, Checkpoint, Tip, parse
from holdfast_server.errors import HoldfastError
from holdfast_server.ledger.checkpoints import CheckpointHead
from holdfast_server.ledger.store import Ledger
from holdfast_server.telemetry.names import Alert, Delivery
from holdfast_server.telemetry.recorder import Recorder

#: How often one checkpoint is sent before it waits for the next minute, and the first pause.
ATTEMPTS_MAX: Final = 3
RETRY_SECONDS: Final = 1.0
#: Time for the last checkpoint of a process that ends.
FINISH_SECONDS_MAX: Final = 10.0

_log = logging.getLogger(__name__)


class LedgerChanged(Exception):
    """The ledger is not what was signed before: nothing more is signed."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Who signs what, and where it goes."""

    place: Place
    key_file: Path
    deployment: str
    interval_ms: int


class Checkpointer:
    """Makes checkpoints. It never raises: what fails is logged, counted, and tried again."""

    def __init__(self, ledger: Ledger, evidence: Evidence, recorder: Recorder) -> None:
        self._ledger, self._evidence, self._recorder = ledger, evidence, recorder
        #: Where the partitions ended when this process last made a checkpoint.
        self._known: dict[int, Tip] = {}
        #: The newest checkpoint that this process has made or seen.
        self._newest = CheckpointHead(0, FIRST_PREVIOUS, 0, "")

    async def run(self) -> None:
        """Works until cancelled."""
        self._recorder.checkpointed()
        while True:
            await asyncio.sleep(self._evidence.interval_ms / 1000)
            await self.look()

    async def finish(self) -> None:
        """Makes the last one of this process."""
        try:
            async with asyncio.timeout(FINISH_SECONDS_MAX):
                await self.look(again=True)
        except TimeoutError:
            _log.warning("the last checkpoint was not delivered in time; the next start sends it")

    async def look(self, *, again: bool = False) -> None:
        """Delivers what waits, and makes the next one unless somebody has just done so.

        `again`: even then.
        """
        try:
            await self._look(again=again)
        except LedgerChanged as error:
            _log.error("no checkpoint: %s", error)
            self._recorder.alert(Alert.CHAIN_BROKEN)
        except (HoldfastError, RequestFailed, AddressForbidden, KeyFileError) as error:
            _log.error("no checkpoint: %s", error)
            self._fail()
        except Exception:
            # Whoever vouches must not end in silence, whatever somebody wrote into the ledger.
            _log.exception("no checkpoint")
            self._fail()

    def _fail(self) -> None:
        self._recorder.delivered(Delivery.FAILED)
        self._recorder.alert(Alert.CHECKPOINT_FAILED)

    async def _look(self, *, again: bool) -> None:
        head = await self._head()
        if head.pending:
            await self._deliver(parse(head.pending))
        elif not again and head.age_ms < self._evidence.interval_ms:
            return
        if made := await self._make(head):
            await self._deliver(made)
        self._recorder.checkpointed()

    async def _head(self) -> CheckpointHead:
        """The newest checkpoint, which a ledger that lost commits is given back: a place may have
        it, and another one under its number would be a fork for ever.
        """
        head, newest = await self._ledger.checkpoint_head(), self._newest
        if head.number < newest.number:
            _log.warning("the ledger has lost checkpoint %d: it is given back", newest.number)
            await self._ledger.keep_checkpoint(newest.number, newest.hash, newest.pending)
            head = dataclasses.replace(newest, age_ms=head.age_ms)
        self._newest = head
        return head

    async def _make(self, head: CheckpointHead) -> Checkpoint | None:
        """The next checkpoint; None where nothing has moved or another process is making it."""
        tips = await self._ledger.tips()
        await self._check(tips)
        moved = tips if self._evidence.place.keeps_newest_only else self._moved(tips)
        if not self._moved(tips):
            return None
        key = SigningKey.read(self._evidence.key_file)
        checkpoint = Checkpoint(
            number=head.number + 1,
            deployment=self._evidence.deployment,
            made_ms=time.time_ns() // 1_000_000,
            previous=head.hash,
            key_id=key.key_id,
            tips=tuple(moved.values()),
        ).signed(key.sign)
        kept = await self._ledger.keep_checkpoint(
            checkpoint.number, checkpoint.hash, checkpoint.line
        )
        if not kept:
            return None
        self._known = dict(tips)
        self._newest = CheckpointHead(checkpoint.number, checkpoint.hash, 0, checkpoint.line)
        return checkpoint

    def _moved(self, tips: Mapping[int, Tip]) -> dict[int, Tip]:
        return {p: tip for p, tip in tips.items() if tip.seq and tip != self._known.get(p)}

    async def _check(self, tips: Mapping[int, Tip]) -> None:
        """The ledger must have what was signed before, and the entries that it ends with."""
        wanted = {tip for tip in (*self._known.values(), *tips.values()) if tip.seq}
        gone = sorted(wanted - await self._ledger.entries_at(wanted))
        for tip in gone:
            facts = {"partition": tip.partition, "seq": tip.seq, "hash": tip.hash.hex()}
            _log.error("an entry is not what was signed", extra={"facts": facts})
        if gone:
            raise LedgerChanged(f"the ledger has changed in {len(gone)} partitions")

    async def _deliver(self, checkpoint: Checkpoint) -> None:
        for attempt in range(ATTEMPTS_MAX):
            try:
                await self._evidence.place.deliver(checkpoint)
                break
            except RequestFailed as error:
                if attempt + 1 == ATTEMPTS_MAX:
                    raise
                _log.warning("checkpoint %d: %s", checkpoint.number, error)
                await asyncio.sleep(RETRY_SECONDS * 2**attempt)
        self._newest = dataclasses.replace(self._newest, pending="")
        await self._ledger.checkpoint_delivered(checkpoint.number)
        self._recorder.delivered(Delivery.DELIVERED)
