"""The gate: kill switch and bypassed tokens, for every operation and kind of hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from holdfast_server.control import bypass
from holdfast_server.domain.operation import (
    BookUnenforced,
    Burn,
    Commit,
    CommitLine,
    ExpireDue,
    Extend,
    GetBalance,
    Line,
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
    ExtendReply,
    HoldState,
    Outcome,
    ReleaseReply,
    ReserveReply,
)
from holdfast_server.domain.token import HoldToken, TokenKind
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.names import Alert, Cause, Replayed
from tests.control.support import (
    CALLER,
    LINES,
    MODES,
    NOW_MS,
    OTHERS,
    PLACED,
    SIGNER,
    SPENDING,
    TOKEN_BYPASSED,
    TOKEN_HELD,
    TOKEN_OFF,
    Engine,
    MakeStage,
    Rules,
    burn,
    outcome_of,
    records_of,
    reserve,
    unavailable,
)

# A token of another tenant, one that was changed, and no token at all.
FOREIGN = SIGNER.issue("u", HoldToken(TokenKind.BYPASSED, "a", "a", b"b" * 16, "", LINES))
FORGED = TOKEN_BYPASSED[:-1] + ("A" if TOKEN_BYPASSED[-1] != "A" else "B")
STRANGE = (FOREIGN, FORGED, "", "x", "é", TOKEN_HELD * 9)

#: Every operation that names a hold.
ON_HOLDS: tuple[Callable[[str], Operation], ...] = (
    lambda hold: Commit("t", hold, "c1"),
    lambda hold: Commit("t", hold, "c2", (CommitLine("ai", 7), CommitLine("video"))),
    lambda hold: Commit("t", hold, "c3", (CommitLine("ai", 0), CommitLine("video", 0))),
    lambda hold: Commit("t", hold, "c4", (CommitLine("ai", 3),), final=False, ttl_ms=5_000),
    lambda hold: Commit("t", hold, "c5", final=False),
    lambda hold: Release("t", hold, "r1", "done"),
    lambda hold: Extend("t", hold, 5_000, "e1"),
)
HOLDS = (TOKEN_HELD, TOKEN_BYPASSED, TOKEN_OFF, *STRANGE)
EVERY_OPERATION = (*SPENDING, *OTHERS, *(make(hold) for make in ON_HOLDS for hold in HOLDS))

EVERY_ERROR = (None, *(reason for reason in Reason if reason is not Reason.UNSPECIFIED))


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("killed", [False, True])
async def test_every_combination_is_answered(stage_of: MakeStage, mode: Mode, killed: bool) -> None:
    """Kill switch, mode, operation, kind of hold and every way in which the engine can fail."""
    stage = stage_of(rules=Rules(MODES[mode]), spool_records_max=100_000)
    if killed:
        stage.turn_on()
    for error in EVERY_ERROR:
        stage.engine.error = unavailable(error) if error else None
        unique = [_with_key(each, str(error)) for each in EVERY_OPERATION]
        answers = await stage.gate.submit(CALLER, unique)
        assert len(answers) == len(unique)
        for operation, answer in zip(EVERY_OPERATION, answers, strict=True):
            assert answer is not None
            if killed and not isinstance(operation, tuple(map(type, OTHERS))):
                strange = getattr(operation, "hold", "") in STRANGE
                expected = Reason.HOLD_NOT_FOUND if "hold" in _fields(operation) else None
                assert outcome_of(answer) is (
                    expected if strange and expected else Outcome.BYPASSED
                ), operation


def _fields(operation: Operation) -> set[str]:
    return set(type(operation).__dataclass_fields__)


def _with_key(operation: Operation, suffix: str) -> Operation:
    if isinstance(operation, GetBalance | ExpireDue):
        return operation
    return replace(operation, key=f"{operation.key}{suffix}{id(operation)}")


async def test_under_kill_nothing_but_the_rest_asks_the_engine(stage_of: MakeStage) -> None:
    stage = stage_of(Engine(unavailable()))
    stage.turn_on()
    mixed = [OTHERS[0], reserve(), OTHERS[1], burn(), Commit("t", TOKEN_HELD, "c")]
    answers = await stage.gate.submit(CALLER, mixed)
    assert stage.engine.asked == [OTHERS[0], OTHERS[1]]
    assert [outcome_of(answer) for answer in answers] == [
        Reason.STORE_UNAVAILABLE,
        Outcome.BYPASSED,
        Reason.STORE_UNAVAILABLE,
        Outcome.BYPASSED,
        Outcome.BYPASSED,
    ]
    causes = {("Reserve", Cause.KILL), ("Burn", Cause.KILL), ("Commit", Cause.KILL)}
    assert set(stage.reports.passed) == causes


async def test_a_reserve_under_kill_gives_a_token_that_says_what_was_asked(
    stage_of: MakeStage,
) -> None:
    stage = stage_of()
    stage.turn_on()
    answer = await stage.one(reserve())
    assert isinstance(answer, ReserveReply)
    assert [(line.credit_type, line.held) for line in answer.lines] == [("ai", 100), ("video", 5)]
    assert answer.expires_at_ms == NOW_MS + 60_000
    assert answer.decision.mode is Mode.ENFORCE
    token = SIGNER.read("t", answer.hold)
    assert token is not None
    assert (token.kind, token.account, token.feature, token.lines) == (
        TokenKind.BYPASSED,
        "org.user",
        "chat",
        LINES,
    )
    assert stage.spooled() == []


async def test_a_burn_under_kill_is_spooled_before_it_is_answered(stage_of: MakeStage) -> None:
    stage = stage_of()
    stage.turn_on()
    answer = await stage.one(burn(labels={"run": "1"}))
    assert isinstance(answer, BurnReply)
    assert [(line.burned, line.unenforced) for line in answer.lines] == [(100, 100), (5, 5)]
    (record,) = records_of(stage.spool)
    assert record.caller == CALLER
    assert record.operation == BookUnenforced(
        "t", "org.user", LINES, "burn-k", "chat", {"run": "1"}
    )


async def test_settlements_of_real_holds_under_kill_are_spooled_as_they_are(
    stage_of: MakeStage,
) -> None:
    stage = stage_of()
    stage.turn_on()
    operations = [make(TOKEN_HELD) for make in ON_HOLDS]
    for operation in operations:
        await stage.one(operation)
    assert stage.spooled() == operations
    assert stage.engine.asked == []


@pytest.mark.parametrize(
    ("commit", "booked"),
    [
        (Commit("t", TOKEN_BYPASSED, "c"), [("ai", 100), ("video", 5)]),
        (Commit("t", TOKEN_BYPASSED, "c", (CommitLine("ai", 7),)), [("ai", 7), ("video", 5)]),
        (Commit("t", TOKEN_BYPASSED, "c", (CommitLine("ai", 700),)), [("ai", 700), ("video", 5)]),
        (Commit("t", TOKEN_BYPASSED, "c", (CommitLine("ai", 0),)), [("video", 5)]),
        (Commit("t", TOKEN_BYPASSED, "c", (CommitLine("ai"),), final=False), [("ai", 100)]),
        (Commit("t", TOKEN_BYPASSED, "c", final=False), []),
        (Commit("t", TOKEN_BYPASSED, "c", (CommitLine("ai", 0), CommitLine("video", 0))), []),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
async def test_a_commit_of_a_bypassed_token_is_booked_as_unenforced(
    stage_of: MakeStage, commit: Commit, booked: list[tuple[str, int]], killed: bool
) -> None:
    stage = stage_of()
    if killed:
        stage.turn_on()
    answer = await stage.one(commit)
    assert isinstance(answer, CommitReply)
    assert answer.decision.outcome is Outcome.BYPASSED
    assert answer.state is (HoldState.COMMITTED if commit.final else HoldState.OPEN)
    assert [(line.credit_type, line.burned) for line in answer.lines] == booked
    lines = tuple(itertools.starmap(Line, booked))
    expected = [BookUnenforced("t", "org.user", lines, "c", "chat")] if booked else []
    assert stage.spooled() == (expected if killed else [])
    assert stage.engine.asked == ([] if killed else expected)
    if booked and not killed:
        assert answer.applied == PLACED


@pytest.mark.parametrize("killed", [False, True])
async def test_a_commit_of_what_was_not_asked_for_is_refused(
    stage_of: MakeStage, killed: bool
) -> None:
    stage = stage_of()
    if killed:
        stage.turn_on()
    answer = await stage.one(Commit("t", TOKEN_BYPASSED, "c", (CommitLine("gold", 1),)))
    assert isinstance(answer, HoldfastError)
    assert (answer.reason, answer.metadata) == (Reason.LINE_UNKNOWN, {"credit_type": "gold"})
    assert stage.spooled() == []


ABOVE = Commit("t", TOKEN_BYPASSED, "c", (CommitLine("ai", 101),), overage=Overage.REJECT)


@pytest.mark.parametrize("error", [None, unavailable()])
async def test_a_commit_that_shall_not_be_above_what_was_asked_is_denied(
    stage_of: MakeStage, error: HoldfastError | None
) -> None:
    stage = stage_of(Engine(error))
    denied = Decision(Outcome.DENIED, Mode.ENFORCE, Reason.OVERAGE_REJECTED)
    assert await stage.one(ABOVE) == CommitReply(denied, Applied(), HoldState.OPEN)
    assert (stage.engine.asked, stage.spooled()) == ([], [])
    assert outcome_of(await stage.one(replace(ABOVE, lines=()))) is Outcome.BYPASSED


async def test_under_kill_it_passes_all_the_same_and_is_not_denied_afterwards(
    stage_of: MakeStage,
) -> None:
    stage = stage_of()
    stage.turn_on()
    assert outcome_of(await stage.one(ABOVE)) is Outcome.BYPASSED
    stage.turn_off()
    assert outcome_of(await stage.one(ABOVE)) is Outcome.BYPASSED
    assert len(stage.spooled()) == 1


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("make", ON_HOLDS)
async def test_a_token_of_mode_off_books_nothing(
    stage_of: MakeStage, killed: bool, make: Callable[[str], Operation]
) -> None:
    stage = stage_of()
    if killed:
        stage.turn_on()
    answer = await stage.one(make(TOKEN_OFF))
    assert outcome_of(answer) is Outcome.BYPASSED
    assert stage.engine.asked == []
    assert stage.spooled() == []


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.ENFORCE])
@pytest.mark.parametrize("killed", [False, True])
async def test_release_and_extend_of_a_bypassed_token_need_nobody(
    stage_of: MakeStage, killed: bool, mode: Mode
) -> None:
    stage = stage_of(rules=Rules(MODES[mode]))
    if killed:
        stage.turn_on()
    released = await stage.one(Release("t", TOKEN_BYPASSED, "r"))
    assert released == ReleaseReply(Decision(Outcome.BYPASSED, mode), Applied())
    extended = await stage.one(Extend("t", TOKEN_BYPASSED, 5_000, "e"))
    assert isinstance(extended, ExtendReply)
    assert extended.decision == Decision(Outcome.BYPASSED, mode)
    assert extended.expires_at_ms == NOW_MS + 5_000
    assert stage.engine.asked == []
    assert stage.spooled() == []


@pytest.mark.parametrize("hold", STRANGE)
async def test_a_token_that_is_not_ours_is_the_engines_to_refuse(
    stage_of: MakeStage, hold: str
) -> None:
    stage = stage_of()
    commit = Commit("t", hold, "c")
    await stage.one(commit)
    assert stage.engine.asked == [commit]


async def test_off_means_off_under_kill_too(stage_of: MakeStage) -> None:
    stage = stage_of(rules=Rules(MODES[Mode.OFF]))
    stage.turn_on()
    answer = await stage.one(reserve())
    assert isinstance(answer, ReserveReply)
    token = SIGNER.read("t", answer.hold)
    assert token is not None
    assert token.kind is TokenKind.OFF
    await stage.one(burn())
    assert stage.spooled() == []


@pytest.mark.parametrize("operation", [reserve(), burn(), Commit("t", TOKEN_HELD, "k")])
async def test_the_same_request_under_kill_gets_the_same_answer(
    stage_of: MakeStage, operation: Operation
) -> None:
    stage = stage_of()
    stage.turn_on()
    first = await stage.one(operation)
    stage.now_ms += 60_000
    second = await stage.one(operation)
    assert isinstance(first, ReserveReply | BurnReply | CommitReply)
    assert isinstance(second, ReserveReply | BurnReply | CommitReply)
    assert second.applied.replayed
    assert replace(second, applied=first.applied) == first
    assert len(stage.spooled()) == (0 if operation == reserve() else 1)


async def test_the_newest_answers_are_remembered(
    stage_of: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bypass, "ANSWERS_MAX", 2)
    stage = stage_of()
    stage.turn_on()
    for key in ("1", "2", "3", "2", "3", "1"):
        await stage.one(burn(key))
    assert [each.key for each in stage.spooled()] == ["burn-1", "burn-2", "burn-3", "burn-1"]


async def test_another_process_gives_the_same_token_for_the_same_request(
    stage_of: MakeStage,
) -> None:
    tokens = []
    for _ in range(2):
        stage = stage_of()
        stage.turn_on()
        answer = await stage.one(reserve())
        assert isinstance(answer, ReserveReply)
        tokens.append(answer.hold)
    assert tokens[0] == tokens[1]


async def test_what_passed_is_not_decided_again_when_the_switch_is_off(stage_of: MakeStage) -> None:
    stage = stage_of()
    stage.turn_on()
    await stage.one(burn())
    stage.turn_off()
    assert outcome_of(await stage.one(burn())) is Outcome.BYPASSED
    assert outcome_of(await stage.one(burn("another"))) is Outcome.GRANTED
    assert [each.key for each in stage.engine.asked if isinstance(each, Burn)] == ["another"]


async def test_a_full_spool_refuses_nothing_under_kill_but_counts_what_is_lost(
    stage_of: MakeStage,
) -> None:
    stage = stage_of(spool_records_max=1)
    stage.turn_on()
    answers = [await stage.one(burn(str(number))) for number in range(3)]
    assert {outcome_of(answer) for answer in answers} == {Outcome.BYPASSED}
    assert stage.reports.results == [Replayed.LOST] * 2
    assert Alert.SPOOL_FULL in stage.reports.alerts
