"""Each checker can say no: a history in which one thing is wrong, and the same without it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace

import pytest

from holdfast_server.chaos import checkers
from holdfast_server.chaos.history import Attempt, Attempts, Status, history_of

BURN = Attempt("Burn", "k1", "f1", "a/0", 1.0, 2.0, Status.OK, "GRANTED", "3-1-7", 3, 7, 1)
AGAIN = replace(BURN, process="b/1", t_invoke=3.0, t_return=4.0, replayed=True)
NEXT = replace(BURN, key="k2", t_invoke=5.0, t_return=6.0, transaction="3-1-8", seq=8)
UNKNOWN = replace(
    BURN, status=Status.INFO, outcome="", transaction="", seq=0, t_invoke=0.0, t_return=0.5
)
COMMIT = replace(
    NEXT, op="Commit", key="c1", hold="h", final=True, t_invoke=6.5, t_return=7.0, seq=9
)
RELEASE = replace(COMMIT, op="Release", key="r1", seq=10, transaction="3-1-10", t_invoke=8.0)
SHADOW = replace(
    BURN, key="s1", mode="SHADOW", outcome="GRANTED_SHADOW", transaction="4-1-1", partition=4
)
FAILED = replace(UNKNOWN, key="k3", status=Status.FAIL, outcome="STORE_UNAVAILABLE")
PASSED = replace(BURN, outcome="BYPASSED", t_invoke=16.0, t_return=17.0)
KILLED = checkers.Period(10.0, 20.0)
SOUND = [UNKNOWN, BURN, AGAIN, NEXT, COMMIT, SHADOW, FAILED]

Checker = Callable[[Sequence[Attempt]], Iterable[str]]


def under_kill(attempts: Sequence[Attempt]) -> Iterable[str]:
    return checkers.kill_works(attempts, KILLED, 5.0)


def in_time(attempts: Sequence[Attempt]) -> Iterable[str]:
    return checkers.finished(attempts, 10.0, 5.0)


@pytest.mark.parametrize(
    ("checker", "wrong", "sound"),
    [
        (checkers.idempotent, [BURN, replace(AGAIN, fingerprint="f2")], [BURN, AGAIN]),
        (checkers.idempotent, [BURN, replace(AGAIN, answer="other")], [BURN, AGAIN]),
        (checkers.idempotent, [BURN, replace(AGAIN, outcome="DENIED")], [BURN, AGAIN]),
        (checkers.idempotent, [BURN, replace(AGAIN, transaction="3-1-9", seq=9)], [BURN, AGAIN]),
        (checkers.idempotent, [BURN, replace(AGAIN, replayed=False)], [BURN, AGAIN]),
        (checkers.ordered, [BURN, replace(NEXT, seq=6)], [BURN, NEXT]),
        (
            checkers.ordered,
            [BURN, replace(NEXT, seq=7)],
            [BURN, replace(NEXT, t_invoke=1.5, seq=6)],
        ),
        (checkers.ordered, [replace(BURN, epoch=2), NEXT], [BURN, replace(NEXT, epoch=2, seq=6)]),
        (checkers.hold_ends, [COMMIT, RELEASE], [COMMIT, COMMIT]),
        (checkers.hold_ends, [COMMIT, RELEASE], [replace(COMMIT, final=False), RELEASE]),
        (checkers.shadow_allows, [replace(SHADOW, outcome="DENIED")], [SHADOW]),
        (checkers.excused, [replace(FAILED, outcome="INTERNAL")], [FAILED, UNKNOWN]),
        (checkers.excused, [replace(FAILED, outcome="HOLD_NOT_FOUND")], [FAILED]),
        (
            checkers.excused,
            [replace(FAILED, outcome="HOLD_EXPIRED")],
            [replace(FAILED, op="Release", outcome="HOLD_EXPIRED")],
        ),
        (under_kill, [replace(PASSED, outcome="DENIED")], [PASSED]),
        (under_kill, [replace(PASSED, status=Status.FAIL, outcome="STORE_UNAVAILABLE")], [BURN]),
        (in_time, [replace(BURN, t_return=15.1)], [replace(BURN, t_return=14.9)]),
        (in_time, [replace(FAILED, t_invoke=15.1, t_return=15.0)], [FAILED]),
    ],
)
def test_a_checker_tells_right_from_wrong(
    checker: Checker, wrong: list[Attempt], sound: list[Attempt]
) -> None:
    assert len(list(checker(wrong))) == 1
    assert list(checker(sound)) == []


def test_a_sound_history_passes_every_checker() -> None:
    assert checkers.check(SOUND) == []


def test_an_answer_that_never_came_is_first_asked_when_it_was_first_sent() -> None:
    """The first attempt may be what was applied, long before the answer to the second."""
    late = replace(NEXT, seq=6, t_invoke=9.0, t_return=10.0)
    earlier = replace(UNKNOWN, key=late.key, t_invoke=1.5)
    assert list(checkers.ordered([BURN, late])) != []
    assert list(checkers.ordered([BURN, earlier, late])) == []


def test_what_passes_without_a_decision_is_no_answer() -> None:
    """It may be decided later, and what was in doubt may have been applied."""
    passed = replace(BURN, outcome="BYPASSED", transaction="", seq=0)
    assert checkers.check([passed, NEXT, replace(NEXT, key=passed.key, seq=9, t_return=9.0)]) == []
    assert history_of([passed], []).unanswered == {passed.key}
    assert history_of([passed, BURN], []).acknowledged == [BURN.placed()]


def test_the_audit_hears_what_was_acknowledged_and_what_nobody_knows() -> None:
    nobody_knows = replace(UNKNOWN, key="k9")
    history = history_of([*SOUND, nobody_knows], ["a promise"])
    assert [one.key for one in history.acknowledged] == ["k1", "k2", "c1", "s1"]
    assert history.unanswered == {"k9"}
    assert history.broken_promises == ["a promise"]


def test_each_attempt_is_written_down_on_a_line_of_its_own() -> None:
    text = io.StringIO()
    attempts = Attempts(text)
    for each in SOUND:
        attempts.add(each)
    written = list(map(json.loads, text.getvalue().splitlines()))
    assert written == [asdict(each) for each in attempts.made] == [asdict(each) for each in SOUND]
