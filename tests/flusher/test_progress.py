"""What a flusher knows by heart, and when it must forget it."""

from __future__ import annotations

from holdfast_server.flusher.progress import Progress
from tests.support.entries import Story, holds_and_commits
from tests.support.ledger import packed


def test_what_others_wrote_meanwhile_is_no_gap() -> None:
    """A coordinator drains an outbox, or another flusher leads; then this one goes on."""
    entries = [packed(entry) for entry in holds_and_commits(Story(), ["ada"], 5)]
    progress = Progress()
    assert progress.continuity.first_flaw(entries[:3]) is None
    assert progress.continuity.first_flaw(entries[6:]) is not None

    progress.load({})

    assert progress.continuity.first_flaw(entries[6:]) is None


def test_what_is_read_again_after_a_failure_does_not_go_back() -> None:
    entries = [packed(entry) for entry in holds_and_commits(Story(), ["ada"], 5)]
    progress = Progress()
    assert progress.continuity.first_flaw(entries) is None
    assert progress.continuity.first_flaw(entries) is not None

    progress.retreat()

    assert progress.continuity.first_flaw(entries) is None
