"""What is done with a partition, by what is left of it. Pure: no store."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What becomes of a partition."""

    #: Nothing is lost: what the hot store has goes on.
    KEPT = "kept"
    #: The newest acknowledged entries are nowhere any more. What the hot store has is a consistent
    #: state before them, and goes on; what is lost is reported.
    SUFFIX_LOST = "suffix_lost"
    #: The hot store has less than the ledger, or something else: the ledger is right. The partition
    #: begins anew, and its trees are brought back from the ledger when they are asked for.
    REBUILT = "rebuilt"
    #: It stays fenced until a person has looked at it: to go on either way would lose something.
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a partition once everything that could be saved is in the ledger."""

    #: How far the ledger is.
    ledger_seq: int
    #: How far the hot store's state is, and whether there is any.
    hot_seq: int
    hot_exists: bool
    #: The highest sequence number that a living process acknowledged in this epoch.
    acknowledged_seq: int
    #: The hot store's entries are not those that the ledger has.
    contradicts: bool = False
    #: An entry has no form that the ledger can record.
    is_refused: bool = False
    #: The ledger has said that it has entries, and has them no more, nor has the hot store.
    ledger_regressed: bool = False
    #: The hot store may delete what it likes, at any time.
    may_evict: bool = False
    #: It may have deleted something, and nobody can say what.
    has_evicted: bool = False


def judge(evidence: Evidence) -> Verdict:
    """What is done with a partition."""
    if evidence.is_refused or evidence.ledger_regressed or evidence.may_evict:
        return Verdict.HELD
    if evidence.has_evicted or (not evidence.hot_exists and evidence.ledger_seq):
        return Verdict.REBUILT
    # Above the ledger: its balances rest on entries that are gone, and nobody could explain them.
    if evidence.contradicts or evidence.hot_seq != evidence.ledger_seq:
        return Verdict.REBUILT
    if evidence.hot_seq < evidence.acknowledged_seq:
        return Verdict.SUFFIX_LOST
    return Verdict.KEPT
