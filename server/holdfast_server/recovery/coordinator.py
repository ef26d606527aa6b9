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
from holdfast_server.engine.fences import Arming, Fences, Seen
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.outbox import Outbox
from holdfast_server.engine.store import Store
from holdfast_server.ledger.append import Appender, CursorsMoved, QuarantinedEntry
from holdfast_server.ledger.prepare import Fault
from holdfast_server.ledger.recovery import Opening, Standing, recovering
from holdfast_server.ledger.store import Ledger
from holdfast_server.recovery import eviction
from holdfast_server.recovery.eviction import Danger, EvictionWatch
from holdfast_server.recovery.others import record_others
from holdfast_server.recovery.salvage import Salvage, Salvaged
from holdfast_server.recovery.verdict import Evidence, Verdict, judge
from holdfast_server.telemetry.names import Alert
from holdfast_server.telemetry.recorder import Recorder

#: How the first epoch of a partition begins, which nobody has armed.
DEPLOYMENT: Final = "deployment"
#: Seconds for which processes may say what they had acknowledged. Who comes later says it later.
VOTE_SECONDS_MAX: Final = 2.0
#: Seconds after which a partition that waits for a person is looked at again.
HELD_SECONDS: Final = 30.0
#: Pause between two looks at whether all have.
VOTE_PAUSE_SECONDS: Final = 0.02

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was done with one partition, and what was found."""

    partition: int
    verdict: Verdict
    #: The epoch that it is in now, and whether it decides again.
    epoch: int
    armed: bool
    why: str
    ledger_seq: int
    hot_seq: int
    acknowledged_seq: int
    quarantined: int
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Stores:
    """What a coordinator works with."""

    ledger: Ledger
    store: Store
    keys: Keys
    postgres_url: str
    #: Whose hot store it is (engine/deployment.py).
    deployment: str


@dataclass(frozen=True, slots=True)
class _Case:
    """One partition while it is being recovered."""

    standing: Standing
    seen: Seen
    salvaged: Salvaged
    evidence: Evidence
    verdict: Verdict

    @property
    def partition(self) -> int:
        return self.standing.partition

    @property
    def is_first(self) -> bool:
        """Whether it begins with nothing behind it."""
        return self.standing.reason == DEPLOYMENT and self.verdict is Verdict.KEPT

    def next_epoch(self) -> Epoch:
        """Higher than what either store has heard of."""
        number = max(self.standing.epoch, self.seen.epoch) + 1
        home = number if self.verdict is Verdict.REBUILT else self.standing.home
        return Epoch(number, self.salvaged.cursor.seq, home)


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
    ) -> list[_Case]:
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
            evidence = _evidence(standing, hot, found, seq, danger)
            asked = standing.partition in rebuild and not danger.policy
            verdict = Verdict.REBUILT if asked else judge(evidence)
            cases.append(_Case(standing, hot, found, evidence, verdict))
        failpoint.hit("coordinator.after_verdict")
        return cases

    async def _quarantine(self, appender: Appender, cases: Sequence[_Case]) -> None:
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

    async def _open(self, cases: Sequence[_Case], fencing: int) -> list[_Case]:
        """Begins the next epoch of every partition that may go on; answers those that did."""
        openings = [_opening(case) for case in cases if case.verdict is not Verdict.HELD]
        opened, losses = await self._stores.ledger.open_epochs(openings, fencing)
        report_losses(losses, self._recorder)
        failpoint.hit("coordinator.after_open")
        return [case for case in cases if case.partition in opened]

    async def _arm(self, cases: Sequence[_Case], seen: Mapping[int, Seen]) -> set[int]:
        if any(self._may_lack_claims(case) for case in cases):
            await self._fences.forget_claims(max(each.now_ms for each in seen.values()))
        await claim_store(self._stores.store, self._stores.deployment)
        failpoint.hit("coordinator.after_claims")
        times = await self._stores.ledger.last_event_times()
        armings = [
            Arming(
                case.partition,
                case.next_epoch(),
                case.is_first,
                times[case.partition] if case.verdict is Verdict.REBUILT else None,
            )
            for case in cases
        ]
        armed = await self._fences.arm(armings, seen)
        failpoint.hit("coordinator.after_arm")
        return armed

    def _may_lack_claims(self, case: _Case) -> bool:
        """On one server, claims are lost with entries alone: both are written in one step."""
        is_apart = self._stores.store.is_cluster and not case.is_first
        return is_apart or case.verdict is not Verdict.KEPT

    def _report(self, cases: Sequence[_Case], armed: Collection[int]) -> list[Recovered]:
        done = [_recovered(case, case.partition in armed) for case in cases]
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


def _evidence(
    standing: Standing, seen: Seen, salvaged: Salvaged, acknowledged_seq: int, danger: Danger
) -> Evidence:
    ledger_seq = salvaged.cursor.seq
    return Evidence(
        ledger_seq=ledger_seq,
        hot_seq=seen.seq,
        hot_exists=seen.exists,
        acknowledged_seq=acknowledged_seq,
        contradicts=bool(salvaged.divergent) and ledger_seq >= seen.flushed,
        is_refused=bool(salvaged.refused),
        ledger_regressed=ledger_seq < seen.flushed,
        may_evict=bool(danger.policy),
        has_evicted=danger.spoils(standing, seen),
    )


def _opening(case: _Case) -> Opening:
    cursor, epoch = case.salvaged.cursor, case.next_epoch()
    return Opening(
        partition=case.partition,
        epoch=cursor.epoch,
        seq=cursor.seq,
        hash=cursor.hash,
        next_epoch=epoch.number,
        home=epoch.home,
        replid=case.seen.replid,
        reason=case.verdict.value,
    )


def _recovered(case: _Case, armed: bool) -> Recovered:
    return Recovered(
        partition=case.partition,
        verdict=case.verdict,
        epoch=case.next_epoch().number if armed else case.standing.epoch,
        armed=armed,
        why=case.seen.why(case.standing.epoch) if not case.standing.why else case.standing.why,
        ledger_seq=case.evidence.ledger_seq,
        hot_seq=case.evidence.hot_seq,
        acknowledged_seq=case.evidence.acknowledged_seq,
        quarantined=len(case.salvaged.divergent),
        explanation=_explanation(case),
    )


def _explanation(case: _Case) -> str:
    """Why it stays fenced, where a person has to do something about it."""
    if case.evidence.may_evict:
        return ADVICE
    regressed = "the ledger has lost entries that it had" if case.evidence.ledger_regressed else ""
    return case.salvaged.refused or regressed
