"""What goes on is believed; what jumps, goes back or does not add up is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_server.domain.bounds import AMOUNT_MAX
from holdfast_server.domain.entry import Entry
from holdfast_server.domain.reply import Buckets
from holdfast_server.flusher import continuity
from holdfast_server.flusher.continuity import Continuity
from tests.support.entries import Story
from tests.support.ledger import packed

STORY = Story()
GRANT, HOLD, COMMIT = STORY.grant("ada", 9), STORY.hold("ada", 5), STORY.commit("ada", 5)


def flaw(known: Continuity, entry: Entry) -> str:
    found = known.first_flaw([packed(entry)])
    return found[1] if found else ""


def test_a_story_goes_on() -> None:
    known = Continuity()
    told = [GRANT, HOLD, COMMIT, STORY.grant("bob", 1, "0c" * 16)]

    assert [flaw(known, entry) for entry in told] == [""] * len(told)


def test_it_begins_anywhere() -> None:
    known = Continuity()

    assert flaw(known, HOLD) == ""
    assert flaw(known, COMMIT) == ""


def test_what_does_not_go_on_stays_wrong() -> None:
    known = Continuity()
    flaw(known, GRANT)
    after = Buckets(granted=9, available=3, held=6)

    for _ in range(2):
        assert "do not give" in flaw(known, replace(HOLD, after=after))
        assert "follows 1" in flaw(known, COMMIT)
    assert flaw(known, HOLD) == ""


def test_what_goes_back_is_wrong() -> None:
    known = Continuity()
    for entry in (GRANT, HOLD, COMMIT):
        flaw(known, entry)

    assert "version 2 follows 3" in flaw(known, HOLD)


eight_buckets = st.lists(st.integers(0, AMOUNT_MAX), min_size=8, max_size=8)


@given(
    before=eight_buckets,
    after=eight_buckets,
    errors=st.lists(st.sampled_from((0, 0, 0, 1, -1, AMOUNT_MAX)), min_size=8, max_size=8),
)
def test_buckets_go_on_where_each_of_the_eight_does(
    before: list[int], after: list[int], errors: list[int]
) -> None:
    known = Continuity()
    change = [b - a + error for a, b, error in zip(before, after, errors, strict=True)]
    flaw(known, replace(GRANT, after=Buckets(*before)))

    found = flaw(known, replace(HOLD, delta=Buckets(*change), after=Buckets(*after)))

    assert bool(found) == any(errors)
    if found:
        assert f"buckets {tuple(before)} and change {tuple(change)} do not give" in found


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuity, "CREDITS_MAX", 2)
    known = Continuity()
    for name in ("ada", "bob", "cleo"):
        flaw(known, replace(GRANT, account=name))

    assert flaw(known, replace(COMMIT, account="ada")) == ""
    assert "follows" in flaw(known, replace(COMMIT, account="cleo"))
