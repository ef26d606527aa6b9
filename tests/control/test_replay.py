"""Booking what was let through: once, in order, whatever fails between, and nothing lost unseen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from holdfast_server.background import background
from holdfast_server.control import spool_files
from holdfast_server.control.replay import (
    BATCH_OPERATIONS_MAX,
    Replayer,
    derived_key,
    mark_after,
    unenforced_burn,
)
from holdfast_server.control.spool import DEAD_FOLDER, Spool
from holdfast_server.control.spool_files import Mark, frame, read_segment, segments_of
from holdfast_server.control.spool_record import Spooled
from holdfast_server.domain.bounds import IDEMPOTENCY_KEY_BYTES_MAX
from holdfast_server.domain.operation import (
    Caller,
    Commit,
    CommitLine,
    Mode,
    Operation,
    Overage,
    Release,
)
from holdfast_server.domain.reply import (
    Applied,
    BurnReply,
    CommitReply,
    Decision,
    HoldState,
    Outcome,
)
from holdfast_server.domain.submit import Answer
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.names import Alert, Replayed
from tests.control.support import (
    CALLER,
    GRANTED,
    PLACED,
    SIGNER,
    TOKEN_BYPASSED,
    TOKEN_HELD,
    Engine,
    MakeStage,
    burn,
    unavailable,
    until,
)

DENIED = Decision(Outcome.DENIED, Mode.ENFORCE, Reason.INSUFFICIENT_CREDITS)


def commit(key: str, hold: str = TOKEN_HELD) -> Commit:
    return Commit("t", hold, key)


def keys(operations: Sequence[Operation]) -> list[str]:
    return [getattr(operation, "key", "") for operation in operations]


async def test_what_passed_under_kill_is_booked_afterwards(stage_of: MakeStage) -> None:
    stage = stage_of()
    stage.turn_on()
    await stage.one(burn("1"))
    assert not await stage.replayer.drain()
    await stage.one(commit("2"))
    await stage.one(commit("3", TOKEN_BYPASSED))
    assert not await stage.replayer.drain()
    assert stage.engine.asked == []
    assert len(segments_of(stage.spool._folder)) == 1
    stage.turn_off()
    assert await stage.replayer.drain()
    assert keys(stage.engine.asked) == ["burn-1", "2", "3"]
    assert stage.engine.callers == [CALLER] * 3
    assert stage.reports.results == [Replayed.BOOKED] * 3
    assert stage.spool.records == 0
    assert await stage.replayer.drain()
    assert len(stage.engine.asked) == 3


@pytest.mark.parametrize(
    "reason", [Reason.STORE_UNAVAILABLE, Reason.OVERLOADED, Reason.DEADLINE_EXCEEDED]
)
async def test_what_fails_for_now_stays_and_is_tried_again(
    stage_of: MakeStage, reason: Reason
) -> None:
    stage = stage_of()
    for number in range(3):
        await stage.spool.append(CALLER, commit(str(number)))
    stage.engine.error = unavailable(reason)
    assert not await stage.replayer.drain()
    assert stage.spool.records == 3
    stage.engine.error = None
    stage.engine.asked.clear()
    assert await stage.replayer.drain()
    assert keys(stage.engine.asked) == ["0", "1", "2"]
    assert stage.reports.results == [Replayed.BOOKED] * 3


async def test_records_of_one_hold_wait_for_each_other(stage_of: MakeStage) -> None:
    """The second capture of a hold must not be booked before the first one."""
    stage = stage_of()
    stage.engine.answers["first"] = unavailable()
    for key in ("first", "second"):
        await stage.spool.append(CALLER, commit(key))
    assert not await stage.replayer.drain()
    assert keys(stage.engine.asked) == ["first"]
    stage.engine.answers.clear()
    assert await stage.replayer.drain()
    assert keys(stage.engine.asked) == ["first", "first", "second"]


async def test_what_is_done_of_one_segment_says_nothing_of_another(
    stage_of: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adopted segment stops halfway, and then an older one is closed and comes first."""
    stage = stage_of()
    gone = Spool(stage.folder / "spool", 10**6, 10**4, stage.reports)
    for key in ("adopted-1", "adopted-2"):
        await gone.append(CALLER, commit(key))
    await stage.spool.append(CALLER, commit("own-1"))
    await gone.close()
    stage.engine.answers["adopted-2"] = unavailable()
    assert not await stage.replayer.drain()
    monkeypatch.setattr(spool_files, "SEGMENT_BYTES_MAX", 1)
    await stage.spool.append(CALLER, commit("own-2"))
    stage.engine.answers.clear()
    assert await stage.replayer.drain()
    own = ["own-1", "own-2"]
    assert keys(stage.engine.asked) == ["adopted-1", "adopted-2", *own, "adopted-2"]


async def test_others_do_not_wait_and_are_not_sent_again(stage_of: MakeStage) -> None:
    stage = stage_of()
    stage.engine.answers["burn-1"] = unavailable()
    for key, account in (("1", "a"), ("2", "b")):
        await stage.spool.append(CALLER, unenforced_burn(burn(key, account=account)))
    assert not await stage.replayer.drain()
    stage.engine.answers.clear()
    assert await stage.replayer.drain()
    assert keys(stage.engine.asked) == ["burn-1", "burn-2", "burn-1"]


@pytest.mark.parametrize(
    "reason", [Reason.HOLD_NOT_FOUND, Reason.ACCOUNT_NOT_FOUND, Reason.INTERNAL]
)
async def test_what_can_never_be_booked_is_kept_aside(stage_of: MakeStage, reason: Reason) -> None:
    stage = stage_of()
    stage.engine.answers["1"] = HoldfastError(reason, "no")
    await stage.spool.append(CALLER, commit("1"))
    await stage.spool.append(CALLER, commit("2", TOKEN_BYPASSED))
    assert await stage.replayer.drain()
    assert keys(stage.engine.asked) == ["1", "2"]
    assert sorted(stage.reports.results) == [Replayed.BOOKED, Replayed.DEAD]
    assert Alert.SPOOL_DEAD in stage.reports.alerts
    (segment,) = (stage.folder / "spool" / DEAD_FOLDER).rglob("*.log")
    assert b'"key":"1"' in read_segment(segment).records[0]


async def test_what_cannot_be_kept_aside_stays(stage_of: MakeStage) -> None:
    stage = stage_of()
    stage.engine.answers["1"] = HoldfastError(Reason.HOLD_NOT_FOUND, "no")
    await stage.spool.append(CALLER, commit("1"))
    (stage.folder / "spool" / DEAD_FOLDER).write_text("a file where the folder should be")
    assert not await stage.replayer.drain()
    assert stage.spool.records == 1
    (stage.folder / "spool" / DEAD_FOLDER).unlink()
    assert await stage.replayer.drain()


async def test_what_this_version_cannot_read_is_kept_aside(stage_of: MakeStage) -> None:
    stage = stage_of()
    await stage.spool.append(CALLER, commit("1"))
    (path,) = await stage.spool.sealed()
    path.write_bytes(path.read_bytes() + frame(b'{"layout":99}'))
    assert await stage.replayer.drain()
    assert keys(stage.engine.asked) == ["1"]
    assert stage.reports.results == [Replayed.DEAD, Replayed.BOOKED]


async def test_a_damaged_segment_is_booked_as_far_as_it_goes_and_kept_whole(
    stage_of: MakeStage,
) -> None:
    stage = stage_of()
    await stage.spool.append(CALLER, commit("1"))
    await stage.spool.append(CALLER, commit("2", TOKEN_BYPASSED))
    (path,) = await stage.spool.sealed()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert await stage.replayer.drain()
    assert keys(stage.engine.asked) == ["1"]
    assert Alert.SPOOL_DAMAGED in stage.reports.alerts
    (kept,) = (stage.folder / "spool" / DEAD_FOLDER).glob("*.damaged")
    assert kept.read_bytes() == content


async def test_what_the_engine_denies_was_done_all_the_same(stage_of: MakeStage) -> None:
    stage = stage_of()
    rejecting = replace(commit("2"), lines=(CommitLine("ai", 500),), overage=Overage.REJECT)
    stage.engine.answers = {
        "1": BurnReply(DENIED, PLACED),
        "2": CommitReply(DENIED, PLACED, HoldState.OPEN),
    }
    await stage.spool.append(CALLER, burn("1"))
    await stage.spool.append(CALLER, rejecting)
    assert await stage.replayer.drain()
    assert stage.engine.asked == [
        burn("1"),
        rejecting,
        unenforced_burn(burn("1")),
        replace(rejecting, overage=Overage.CAP, key="capped-2"),
    ]
    assert stage.reports.results == [Replayed.BOOKED] * 2


async def test_what_is_not_evaluated_any_more_was_done_all_the_same(stage_of: MakeStage) -> None:
    """I24: the scope of a Burn that passed has been switched off before it could be booked."""
    stage = stage_of()
    stage.engine.answers["1"] = BurnReply(Decision(Outcome.BYPASSED, Mode.OFF), Applied())
    await stage.spool.append(CALLER, burn("1"))
    assert await stage.replayer.drain()
    assert stage.engine.asked == [burn("1"), unenforced_burn(burn("1"))]
    assert stage.reports.results == [Replayed.BOOKED]


USED = replace(commit("1"), lines=(CommitLine("ai", 500),))
REJECTING = replace(USED, overage=Overage.REJECT)
ENDED = HoldfastError(Reason.HOLD_ALREADY_SETTLED, "released")


@pytest.mark.parametrize(
    ("passed", "answer", "instead"),
    [
        (burn("1"), BurnReply(DENIED, PLACED), "burn-1"),
        (REJECTING, CommitReply(DENIED, PLACED, HoldState.OPEN), "capped-1"),
        (USED, ENDED, "commit-1"),
    ],
)
async def test_nothing_else_is_sent_once_something_was_booked_instead(
    stage_of: MakeStage, passed: Spooled, answer: Answer, instead: str
) -> None:
    """The process ends without knowing whether that was booked, and the next one begins anew."""
    stage = stage_of()
    gone = Spool(stage.folder / "spool", 10**6, 10**4, stage.reports)
    await gone.append(CALLER, passed)
    stage.engine.answers = {"1": answer, instead: unavailable(Reason.RESULT_UNKNOWN)}
    first = Replayer(gone, stage.engine, stage.kill, SIGNER, stage.reports)
    assert not await first.drain()
    await gone.close()
    stage.engine.answers.clear()
    assert await stage.replayer.drain()
    assert keys(stage.engine.asked) == ["1", instead, instead]


async def test_a_record_is_marked_before_anything_is_booked_instead(stage_of: MakeStage) -> None:
    stage = stage_of()
    await stage.spool.append(CALLER, burn("1"))
    stage.engine.answers["1"] = BurnReply(DENIED, PLACED)
    (path,) = segments_of(stage.spool._folder)
    seen: list[Mark] = []
    stage.engine.watch = lambda _: seen.extend(kept.mark for kept in read_segment(path).kept)
    assert await stage.replayer.drain()
    assert seen == [Mark.AS_IT_IS, Mark.DENIED]


async def test_what_was_denied_is_booked_though_its_hold_has_ended_since(
    stage_of: MakeStage,
) -> None:
    stage = stage_of()
    await stage.spool.append(CALLER, REJECTING)
    denied = CommitReply(DENIED, PLACED, HoldState.OPEN)
    stage.engine.answers = {"1": denied, "capped-1": unavailable()}
    assert not await stage.replayer.drain()
    stage.engine.answers["capped-1"] = ENDED
    assert await stage.replayer.drain()
    assert keys(stage.engine.asked) == ["1", "capped-1", "capped-1", "commit-1"]
    assert stage.reports.results == [Replayed.BOOKED]


async def test_an_account_that_stays_fenced_holds_up_nobody_else(
    stage_of: MakeStage,
) -> None:
    stage = stage_of()
    stage.engine.answers["f1"] = HoldfastError(Reason.FENCED, "until somebody acts")
    for key in ("f1", "f2"):
        await stage.spool.append(CALLER, burn(key, account="fenced"))
    await stage.spool.append(CALLER, burn("a", account="a"))
    assert not await stage.replayer.drain()
    await stage.spool.append(CALLER, burn("b", account="b"))
    assert not await stage.replayer.drain()
    assert keys(stage.engine.asked) == ["f1", "a", "f1", "b"]
    assert stage.spool.records == 3
    stage.engine.answers.clear()
    assert await stage.replayer.drain()
    assert keys(stage.engine.asked)[4:] == ["f1", "f2"]
    assert stage.spool.records == 0


async def test_a_segment_that_takes_the_name_of_one_that_is_gone_is_drained(
    stage_of: MakeStage,
) -> None:
    stage = stage_of()
    await stage.spool.append(CALLER, burn("1"))
    remove = stage.spool.remove

    async def removed(path: Path) -> None:
        await remove(path)
        if len(stage.engine.asked) == 1:
            await stage.spool.append(CALLER, burn("2"))

    with patch.object(stage.spool, "remove", removed):
        assert await stage.replayer.drain()
    assert (keys(stage.engine.asked), stage.spool.records) == (["1", "2"], 0)


async def test_callers_are_kept_apart(stage_of: MakeStage) -> None:
    stage = stage_of()
    callers = [Caller("a"), Caller("a"), Caller("b"), Caller("a")]
    for number, caller in enumerate(callers):
        await stage.spool.append(caller, burn(str(number), account=str(number)))
    assert await stage.replayer.drain()
    assert stage.engine.callers == callers


async def test_batches_are_bounded(stage_of: MakeStage) -> None:
    sizes: list[int] = []
    stage = stage_of(Engine(watch=lambda operations: sizes.append(len(operations))))
    for number in range(250):
        await stage.spool.append(CALLER, burn(str(number), account=str(number)))
    assert await stage.replayer.drain()
    assert max(sizes) == BATCH_OPERATIONS_MAX
    assert sum(sizes) == 250


async def test_the_kill_switch_stops_it_between_two_batches(stage_of: MakeStage) -> None:
    stage = stage_of()
    stage.engine.watch = lambda operations: stage.turn_on() if keys(operations) == ["1"] else None
    for number in range(3):
        await stage.spool.append(CALLER, commit(str(number)))
    assert not await stage.replayer.drain()
    assert keys(stage.engine.asked) == ["0", "1"]
    stage.engine.watch = lambda _: None
    stage.turn_off()
    assert await stage.replayer.drain()
    assert keys(stage.engine.asked) == ["0", "1", "2"]


async def test_it_runs_by_itself_and_outlives_every_failure(stage_of: MakeStage) -> None:
    stage = stage_of()
    failures = iter([RuntimeError("a bug")])

    def fail_once(_: Sequence[Operation]) -> None:
        for failure in failures:
            raise failure

    stage.engine.watch = fail_once
    await stage.spool.append(CALLER, commit("1"))
    async with background(stage.replayer.run()):
        await until(lambda: stage.reports.results == [Replayed.BOOKED])


def test_what_is_booked_instead_has_a_key_of_its_own_that_fits() -> None:
    long = burn("k" * IDEMPOTENCY_KEY_BYTES_MAX)
    booked = unenforced_burn(long)
    assert len(booked.key) <= IDEMPOTENCY_KEY_BYTES_MAX
    assert booked.key == unenforced_burn(long).key
    assert derived_key("burn", "k") != derived_key("capped", "k")
    assert mark_after(burn(), BurnReply(GRANTED, PLACED)) is Mark.AS_IT_IS
    assert mark_after(Release("t", TOKEN_HELD, "r"), unavailable()) is Mark.AS_IT_IS
    assert mark_after(burn(), BurnReply(DENIED, PLACED)) is Mark.DENIED
