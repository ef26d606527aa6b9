"""What must hold of every history of attempts, whatever went wrong meanwhile. Pure.

Each checker answers a sentence for every violation. What the ledger and the hot store must say
about a history is the audit's (`workload.checks`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from holdfast_server.chaos.history import Attempt, Status, by_key

#: How an attempt ends when no process has answered it.
_SILENCE = frozenset({"", "DEADLINE_EXCEEDED", "SHUTTING_DOWN"})
#: What no fault excuses: everything but being away or overloaded. A settlement may come too late
#: for its hold only where another one came first, which `hold_ends` looks at.
_EXCUSED = frozenset(
    {
        "STORE_UNAVAILABLE",
        "STORE_WRITE_BLOCKED",
        "STORE_OUT_OF_MEMORY",
        "LEDGER_UNAVAILABLE",
        "LEDGER_BACKLOG",
        "RESULT_UNKNOWN",
        "DEADLINE_EXCEEDED",
        "OVERLOADED",
        "SHUTTING_DOWN",
        "FENCED",
        "",
    }
)


@dataclass(frozen=True, slots=True)
class Period:
    """From one moment to another, by the clock of the attempts."""

    begin_s: float
    end_s: float


def check(attempts: Sequence[Attempt]) -> list[str]:
    """Everything that does not hold of a history."""
    return [
        *idempotent(attempts),
        *ordered(attempts),
        *hold_ends(attempts),
        *shadow_allows(attempts),
        *excused(attempts),
    ]


def idempotent(attempts: Iterable[Attempt]) -> Iterator[str]:
    """The same key has one meaning, one place in the ledger and one answer.

    What passes without a decision is another thing: it may be decided when it is asked again.
    """
    for (op, key), tries in by_key(attempts).items():
        answers = [each for each in tries if each.decided]
        if len({each.fingerprint for each in answers}) > 1:
            yield f"{op} {key} was answered for different requests"
        if len({(each.outcome, each.transaction, each.answer) for each in answers}) > 1:
            yield f"{op} {key} was answered differently: {sorted({a.transaction for a in answers})}"
        if sum(not each.replayed for each in answers if each.seq) > 1:
            yield f"{op} {key} was applied more than once"


def ordered(attempts: Iterable[Attempt]) -> Iterator[str]:
    """What was answered before something else was first asked comes before it in its partition."""
    lanes = defaultdict[int, list[tuple[float, float, tuple[int, int], str]]](list)
    for (op, key), tries in by_key(attempts).items():
        answers = [each for each in tries if each.status is Status.OK and each.seq]
        if answers:
            invoked_s = min(each.t_invoke for each in tries)
            returned_s = min(each.t_return for each in answers)
            place = answers[0].epoch, answers[0].seq
            lanes[answers[0].partition].append((invoked_s, returned_s, place, f"{op} {key}"))
    for lane in lanes.values():
        yield from _disorder(lane)


def _disorder(lane: list[tuple[float, float, tuple[int, int], str]]) -> Iterator[str]:
    returned = sorted((returned_s, place, name) for _, returned_s, place, name in lane)
    times = [returned_s for returned_s, _, _ in returned]
    highest: list[tuple[tuple[int, int], str]] = []
    for _, place, name in returned:
        highest.append(max(highest[-1], (place, name)) if highest else (place, name))
    for invoked_s, _, place, name in lane:
        before = bisect_left(times, invoked_s)
        if before and highest[before - 1][0] >= place:
            later, other = highest[before - 1]
            yield f"{name} stands at {place}, before {other} at {later}, which was answered first"


def hold_ends(attempts: Iterable[Attempt]) -> Iterator[str]:
    """At most one settlement of a hold was accepted as its last."""
    ends = defaultdict[str, set[str]](set)
    for each in attempts:
        if each.final and each.hold and each.status is Status.OK:
            ends[each.hold].add(f"{each.op} {each.key}")
    for hold, names in ends.items():
        if len(names) > 1:
            yield f"hold {hold} was ended by {', '.join(sorted(names))}"


def shadow_allows(attempts: Iterable[Attempt]) -> Iterator[str]:
    """In shadow mode nothing is denied."""
    for each in attempts:
        if each.mode in ("SHADOW", "OFF") and each.outcome == "DENIED":
            yield f"{each.op} {each.key} was denied in mode {each.mode}"


def excused(attempts: Iterable[Attempt]) -> Iterator[str]:
    """Failures are those of a service that is away; never a fault of its own, or a refusal.

    Only a release may come too late: then its hold has given everything back by itself.
    """
    for each in attempts:
        too_late = (each.op, each.outcome) == ("Release", "HOLD_EXPIRED")
        if each.status is not Status.OK and each.outcome not in _EXCUSED and not too_late:
            yield f"{each.op} {each.key} failed with {each.outcome}"


def kill_works(attempts: Iterable[Attempt], on: Period, effect_s: float) -> Iterator[str]:
    """`effect_s` after the kill switch was turned on, whoever answers lets everything pass."""
    for each in attempts:
        asked_for_credits = each.op in ("Reserve", "Burn") and each.outcome not in _SILENCE
        within = each.t_invoke >= on.begin_s + effect_s and each.t_return <= on.end_s
        if asked_for_credits and within and each.outcome != "BYPASSED":
            yield f"{each.op} {each.key} met {each.outcome} under the kill switch"


def finished(attempts: Iterable[Attempt], healed_s: float, bound_s: float) -> Iterator[str]:
    """So long after everything was healed, every attempt has ended with an answer."""
    for each in attempts:
        if each.t_return > healed_s + bound_s:
            late_s = each.t_return - healed_s
            yield f"{each.op} {each.key} ended {late_s:.1f} s after everything was healed"
        elif each.t_invoke > healed_s + bound_s and each.status is not Status.OK:
            yield f"{each.op} {each.key} failed although everything was healed"
