"""The coordinator: brings fenced partitions back, each in one way that loses nothing in silence.

The steps, each of which may be the last of this process; whoever comes next begins with the first:

1. Fence: the ledger says so, then the hot store keeps everybody away.
2. Votes: every living process says what it had acknowledged (control/epochs.py).
3. Salvage: what the hot store has behind the ledger is recorded in the old epoch, and what other
   partitions have as well (others.py); what both have is compared, entry by entry.
4. Verdict: see `verdict.py`. What contradicts the ledger goes to quarantine.
5. The next epoch begins in the ledger, by compare-and-set. From here on no flusher and no process
   of the epoch before can do anything. What was acknowledged behind its end is reported as lost.
6. The hot store is armed for it, if it still has the history and the state that were looked at.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast_server import failpoint
from holdfast_server.control.epochs import report_losses
from holdfast_server.domain.epoch import Epoch
from holdfast_server.engine.deployment import claim_store
from holdfast_server.engine.evictions import ADVICE
from holdfast_server.engine.fences import Fences, Seen
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.outbox import Outbox
from holdfast_server.engine.store import Store
from holdfast_server.ledger.append import Appender, CursorsMoved, QuarantinedEntry
from holdfast_server.ledger.prepare import Fault
from holdfast_server.ledger.recovery import Standing, recovering
from holdfast_server.ledger.store import Ledger
from holdfast_server.recovery import eviction
from holdfast_server.recovery.case import DEPLOYMENT, Case, Recovered, evidence_of
from holdfast_server.recovery.eviction import Danger, EvictionWatch
from holdfast_server.recovery.others import record_others
from holdfast_server.recovery.salvage import Salvage
from holdfast_server.recovery.verdict import Verdict, judge
from holdfast_server.telemetry.names import Alert
from holdfast_server.telemetry.recorder import Recorder

#: Seconds for which processes may say what they had acknowledged. Who comes later says it later.
VOTE_SECONDS_MAX: Final = 2.0
#: Seconds after which a partition that waits for a person is looked at again.
HELD_SECONDS: Final = 30.0
#: Pause between two looks at whether all have.
VOTE_PAUSE_SECONDS: Final = 0.02

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stores:
    """What a coordinator works with."""

    ledger: Ledger
    store: Store
    keys: Keys
    postgres_url: str
    #: Whose hot store it is (engine/deployment.py).
    deployment: str


class Coordinator:
    """Recovers partitions. Any number may run: each partition has one at a time."""

    def __init__(self, stores: Stores, recorder: Recorder) -> None:
        self._stores, self._recorder = stores, recorder
        self._fences = Fences(stores.store, stores.keys)
        self._evictions = EvictionWatch(stores.store)
        #: When to look again at partitions that wait for a person.
        self._held: dict[int, float] = {}

    async def is_well(self) -> bool:
        """Whether every partition decides in the epoch that this process knows: a cheap look.

        Raises STORE_UNAVAILABLE.
        """
        if await self._evictions.finds_something():
            return False
        keys = self._stores.keys
        epochs = {each: keys.epoch(each) for each in range(keys.partitions)}
        seen = await self._fences.read(epochs)
        now = time.monotonic()
        return all(
            each.allows(epochs[each.partition]) or now < self._held.get(each.partition, 0.0)
            for each in seen.values()
        )

    async def recover(self, rebuild: Collection[int] = ()) -> list[Recovered]:
        """Recovers whatever is not well, and rebuilds what is asked for; the first is cheap where
        all is well. Raises STORE_UNAVAILABLE and LEDGER_UNAVAILABLE: then it is to be called again.
        """
        started = time.monotonic()
        danger = await self._evictions.look()
        unwell, _ = await self._unwell(rebuild, danger)
        if not unwell:
            self._recorder.fenced(0)
            return []
        self._recorder.fenced(len(unwell))
        url = self._stores.postgres_url
        async with recovering(url, [each.partition for each in unwell]) as mine:
            standings, seen = await self._unwell(rebuild, danger)
            standings = [each for each in standings if each.partition in mine]
            done = await self._recover(standings, seen, rebuild, danger) if standings else []
        if len(done) == len(unwell):
            self._evictions.done()
        for each in done:
            self._recorder.recovered(each.verdict, time.monotonic() - started)
        self._recorder.fenced(len(unwell) - sum(each.armed for each in done))
        return done

    async def _unwell(
        self, rebuild: Collection[int], danger: Danger
    ) -> tuple[list[Standing], Mapping[int, Seen]]:
        standings = await self._stores.ledger.standings()
        for each in standings:
            epoch = Epoch(each.epoch, each.start_seq, each.home)
            self._stores.keys.epochs.begin(each.partition, epoch)
        seen = await self._fences.read({each.partition: each.epoch for each in standings})
        return [
            each
            for each in standings
            if each.partition in seen
            and (
                each.partition in rebuild
                or each.fencing
                or danger
                or not seen[each.partition].allows(each.epoch)
            )
        ], seen

    async def _recover(
        self,
        standings: Sequence[Standing],
        seen: Mapping[int, Seen],
        rebuild: Collection[int],
        danger: Danger,
    ) -> list[Recovered]:
        fencing = await self._fence(standings, seen, danger)
        # What was decided between the first look and the fence counts.
        seen = await self._fences.read({each.partition: each.epoch for each in standings})
        await self._collect_votes(fencing)
        appender = Appender(self._stores.postgres_url)
        try:
            cases = await self._examine(appender, standings, seen, rebuild, danger)
            await self._quarantine(appender, cases)
        except CursorsMoved as moved:
            _log.warning("a flusher is at work; recovery begins again: %s", moved)
            return []
        finally:
            await appender.close()
        opened = await self._open(cases, fencing)
        return self._report(cases, await self._arm(opened, seen))

    async def _fence(
        self, standings: Sequence[Standing], seen: Mapping[int, Seen], danger: Danger
    ) -> int:
        """Number of the fencing that all of them are under."""
        unfenced = [
            each for each in standings if not each.fencing or (danger and each.why != eviction.WHY)
        ]
        fencing = max(each.fencing for each in standings)
        if unfenced:
            why = {_why(seen[each.partition], each, danger) for each in unfenced}
            partitions = [each.partition for each in unfenced]
            fencing = await self._stores.ledger.fence(partitions, ", ".join(sorted(why)))
            is_first = all(each.reason == DEPLOYMENT for each in unfenced)
            facts = {"partitions": len(partitions), "why": sorted(why)}
            level = logging.INFO if is_first else logging.ERROR
            _log.log(level, "partitions are fenced", extra={"facts": facts})
        failpoint.hit("coordinator.after_fence_ledger")
        await self._fences.close({each.partition: each.epoch for each in standings})
        failpoint.hit("coordinator.after_fence")
        return fencing

    async def _collect_votes(self, fencing: int) -> None:
        deadline = time.monotonic() + VOTE_SECONDS_MAX
        while silent := await self._stores.ledger.count_silent(fencing):
            if time.monotonic() > deadline:
                _log.warning("processes did not say what they had acknowledged: %d", silent)
                break
            await asyncio.sleep(VOTE_PAUSE_SECONDS)
        failpoint.hit("coordinator.after_votes")

    async def _examine(
        self,
        appender: Appender,
        standings: Sequence[Standing],
        seen: Mapping[int, Seen],
        rebuild: Collection[int],
        danger: Danger,
    ) -> list[Case]:
        outbox = Outbox(self._stores.store.client, self._stores.keys)
        salvage = Salvage(self._stores.ledger, outbox, appender)
        await record_others(salvage, self._fences, {each.partition for each in standings})
        salvaged = await salvage.run(
            [each.partition for each in standings if each.partition in seen]
        )
        failpoint.hit("coordinator.after_salvage")
        acknowledged = await self._stores.ledger.highest_acknowledged()
        cases = []
        for standing in (each for each in standings if each.partition in salvaged):
            found, hot = salvaged[standing.partition], seen[standing.partition]
            seq = acknowledged.get(standing.partition, 0)
            evidence = evidence_of(standing, hot, found, seq, danger)
            asked = standing.partition in rebuild and not danger.policy
            verdict = Verdict.REBUILT if asked else judge(evidence)
            cases.append(Case(standing, hot, found, evidence, verdict))
        failpoint.hit("coordinator.after_verdict")
        return cases

    async def _quarantine(self, appender: Appender, cases: Sequence[Case]) -> None:
        """Keeps what contradicts the ledger, as it was found."""
        for case in cases:
            for entry in case.salvaged.divergent:
                await appender.quarantine(
                    QuarantinedEntry(
                        partition=entry.partition,
                        epoch=entry.epoch,
                        seq=entry.seq,
                        raw=entry.raw,
                        fault=Fault.FORK.value,
                        explanation="acknowledged by a hot store that does not go on",
                    )
                )
            if case.salvaged.divergent:
                self._recorder.alert(Alert.QUARANTINE)
        failpoint.hit("coordinator.after_quarantine")

    async def _open(self, cases: Sequence[Case], fencing: int) -> list[Case]:
        """Begins the next epoch of every partition that may go on; answers those that did."""
        openings = [case.opening() for case in cases if case.verdict is not Verdict.HELD]
        opened, losses = await self._stores.ledger.open_epochs(openings, fencing)
        report_losses(losses, self._recorder)
        failpoint.hit("coordinator.after_open")
        return [case for case in cases if case.partition in opened]

    async def _arm(self, cases: Sequence[Case], seen: Mapping[int, Seen]) -> set[int]:
        is_cluster = self._stores.store.is_cluster
        if any(case.may_lack_claims(is_cluster=is_cluster) for case in cases):
            await self._fences.forget_claims(max(each.now_ms for each in seen.values()))
        await claim_store(self._stores.store, self._stores.deployment)
        failpoint.hit("coordinator.after_claims")
        times = await self._stores.ledger.last_event_times()
        armings = [case.arming(times[case.partition]) for case in cases]
        armed = await self._fences.arm(armings, seen)
        failpoint.hit("coordinator.after_arm")
        return armed

    def _report(self, cases: Sequence[Case], armed: Collection[int]) -> list[Recovered]:
        done = [case.recovered(armed=case.partition in armed) for case in cases]
        may_evict = any(case.evidence.may_evict for case in cases)
        if may_evict:
            _log.error("the hot store is not used: %s", ADVICE)
            self._recorder.alert(Alert.STORE_MAY_EVICT)
        for each in done:
            if each.verdict is Verdict.HELD:
                seconds = eviction.LOOK_SECONDS if may_evict else HELD_SECONDS
                self._held[each.partition] = time.monotonic() + seconds
                self._recorder.alert(Alert.FENCED)
            if each.verdict is not Verdict.KEPT:
                what = "a partition was recovered" if each.armed else "a partition stays fenced"
                facts = {"partition": each.partition, "verdict": each.verdict, "epoch": each.epoch}
                _log.error(what, extra={"facts": facts})
        if kept := sum(each.verdict is Verdict.KEPT for each in done):
            _log.info("nothing was lost", extra={"facts": {"partitions": kept}})
        return done


def _why(seen: Seen, standing: Standing, danger: Danger) -> str:
    return eviction.WHY if danger else seen.why(standing.epoch)
