"""One partition while it is being recovered: what was found, and what follows from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from holdfast_server.domain.epoch import Epoch
from holdfast_server.engine.evictions import ADVICE
from holdfast_server.engine.fences import Arming, Seen
from holdfast_server.ledger.recovery import Opening, Standing
from holdfast_server.recovery.eviction import Danger
from holdfast_server.recovery.salvage import Salvaged
from holdfast_server.recovery.verdict import Evidence, Verdict

#: How the first epoch of a partition begins, which nobody has armed.
DEPLOYMENT: Final = "deployment"


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
class Case:
    """One partition, its evidence and its verdict."""

    standing: Standing
    seen: Seen
    salvaged: Salvaged
    evidence: Evidence
    verdict: Verdict

    @property
    def partition(self) -> int:
        """Its number."""
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

    def may_lack_claims(self, *, is_cluster: bool) -> bool:
        """On one server, claims are lost with entries alone: both are written in one step."""
        is_apart = is_cluster and not self.is_first
        return is_apart or self.verdict is not Verdict.KEPT

    def opening(self) -> Opening:
        """How its next epoch begins in the ledger."""
        cursor, epoch = self.salvaged.cursor, self.next_epoch()
        return Opening(
            partition=self.partition,
            epoch=cursor.epoch,
            seq=cursor.seq,
            hash=cursor.hash,
            next_epoch=epoch.number,
            home=epoch.home,
            replid=self.seen.replid,
            reason=self.verdict.value,
        )

    def arming(self, last_event_ms: int) -> Arming:
        """How the hot store is armed for it."""
        last_ms = last_event_ms if self.verdict is Verdict.REBUILT else None
        return Arming(self.partition, self.next_epoch(), self.is_first, last_ms)

    def recovered(self, *, armed: bool) -> Recovered:
        """What became of it."""
        return Recovered(
            partition=self.partition,
            verdict=self.verdict,
            epoch=self.next_epoch().number if armed else self.standing.epoch,
            armed=armed,
            why=self.standing.why or self.seen.why(self.standing.epoch),
            ledger_seq=self.evidence.ledger_seq,
            hot_seq=self.evidence.hot_seq,
            acknowledged_seq=self.evidence.acknowledged_seq,
            quarantined=len(self.salvaged.divergent),
            explanation=self._explanation(),
        )

    def _explanation(self) -> str:
        """Why it stays fenced, where a person has to do something about it."""
        if self.evidence.may_evict:
            return ADVICE
        has_regressed = self.evidence.ledger_regressed
        regressed = "the ledger has lost entries that it had" if has_regressed else ""
        return self.salvaged.refused or regressed


def evidence_of(
    standing: Standing, seen: Seen, salvaged: Salvaged, acknowledged_seq: int, danger: Danger
) -> Evidence:
    """What is known of a partition by which it is judged."""
    ledger_seq = salvaged.cursor.seq
    return Evidence(
        ledger_seq=ledger_seq,
        hot_seq=seen.seq,
        hot_exists=seen.exists,
        acknowledged_seq=acknowledged_seq,
        contradicts=bool(salvaged.divergent),
        is_refused=bool(salvaged.refused),
        ledger_regressed=ledger_seq < seen.flushed,
        may_evict=bool(danger.policy),
        has_evicted=danger.spoils(standing, seen),
    )
