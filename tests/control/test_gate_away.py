"""The gate while the hot store is away, or answers with an error."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from holdfast_server.control import bypass
from holdfast_server.control.gate import FAIL_OPEN_MESSAGE
from holdfast_server.domain.operation import (
    Commit,
    GetBalance,
    Line,
    Mode,
    Operation,
    Release,
)
from holdfast_server.domain.policy import (
    Policy,
    Scope,
    ScopeKind,
    StoreUnavailable,
    StoreUnavailableKind,
)
from holdfast_server.domain.reply import (
    BurnReply,
    Outcome,
)
from holdfast_server.errors import Reason
from holdfast_server.telemetry.names import Alert, Cause
from tests.control.support import (
    CALLER,
    GRANTED,
    LINES,
    MODES,
    OTHERS,
    PLACED,
    SPENDING,
    TENANT,
    TOKEN_BYPASSED,
    TOKEN_HELD,
    TOKEN_OFF,
    Engine,
    MakeStage,
    Rules,
    burn,
    granted,
    outcome_of,
    reserve,
    unavailable,
)

ALLOW = StoreUnavailable(StoreUnavailableKind.ALLOW)


async def test_what_passes_while_the_store_is_away_is_the_engines_error_by_default(
    stage_of: MakeStage,
) -> None:
    stage = stage_of(Engine(unavailable()))
    for operation in (reserve(), burn(), Commit("t", TOKEN_HELD, "c"), *OTHERS):
        assert await stage.one(operation) is stage.engine.error


async def test_allow_lets_pass_and_books_later(stage_of: MakeStage) -> None:
    rules = Rules([Policy(TENANT, store_unavailable=ALLOW)])
    stage = stage_of(Engine(unavailable()), rules)
    assert outcome_of(await stage.one(reserve())) is Outcome.BYPASSED
    assert outcome_of(await stage.one(burn())) is Outcome.BYPASSED
    assert outcome_of(await stage.one(Commit("t", TOKEN_HELD, "c"))) is Reason.STORE_UNAVAILABLE
    assert outcome_of(await stage.one(Commit("t", TOKEN_BYPASSED, "d"))) is Outcome.BYPASSED
    spooled = stage.spooled()
    assert [each.key for each in spooled] == ["burn-k", "d"]
    assert stage.reports.alerts == [Alert.FAIL_OPEN] * 2


async def test_that_work_passes_is_logged(
    stage_of: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    stage = stage_of(Engine(unavailable()), Rules([Policy(TENANT, store_unavailable=ALLOW)]))
    await stage.one(burn("1"))
    (told,) = [record for record in caplog.records if record.message == FAIL_OPEN_MESSAGE]
    assert vars(told)["facts"] == {"why": "STORE_UNAVAILABLE"}


async def test_one_line_that_is_denied_denies_all(stage_of: MakeStage) -> None:
    ai = Scope(ScopeKind.CREDIT_TYPE, "t", "ai")
    rules = Rules([Policy(ai, store_unavailable=ALLOW)])
    stage = stage_of(Engine(unavailable()), rules)
    assert await stage.one(burn()) is stage.engine.error
    only_ai = burn("o", lines=(Line("ai", 1),))
    assert outcome_of(await stage.one(only_ai)) is Outcome.BYPASSED


async def test_a_bound_counts_per_account_credit_type_and_minute(stage_of: MakeStage) -> None:
    bounded = StoreUnavailable(StoreUnavailableKind.ALLOW_BOUNDED, 250)
    rules = Rules([Policy(TENANT, store_unavailable=bounded)])
    stage = stage_of(Engine(unavailable()), rules)

    async def passes(key: str, account: str = "a") -> bool:
        answer = await stage.one(burn(key, account=account))
        return outcome_of(answer) is Outcome.BYPASSED

    assert [await passes(key) for key in ("1", "2", "3")] == [True, True, False]
    # What had passed passes again, and is not counted twice.
    assert await passes("1")
    assert await passes("4", account="b")
    stage.now_ms += 60_000
    assert await passes("5")
    assert len(stage.spooled()) == 4


async def test_no_more_accounts_are_counted_against_a_bound_than_there_is_room_for(
    stage_of: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bypass, "ALLOWANCES_MAX", 2)
    bounded = StoreUnavailable(StoreUnavailableKind.ALLOW_BOUNDED, 250)
    stage = stage_of(Engine(unavailable()), Rules([Policy(TENANT, store_unavailable=bounded)]))

    async def passes(*accounts: str) -> list[bool]:
        asked = [burn(next(keys), account=each, lines=LINES[:1]) for each in accounts]
        return [outcome_of(await stage.one(each)) is Outcome.BYPASSED for each in asked]

    keys = map(str, itertools.count())
    assert await passes("a", "b", "c", "a") == [True, True, False, True]
    stage.now_ms += 60_000
    assert await passes("c", "a", "b") == [True, True, False]


async def test_what_cannot_be_written_down_does_not_pass_by_policy(stage_of: MakeStage) -> None:
    rules = Rules([Policy(TENANT, store_unavailable=ALLOW)])
    stage = stage_of(Engine(unavailable()), rules, spool_records_max=1)
    assert outcome_of(await stage.one(burn("1"))) is Outcome.BYPASSED
    assert await stage.one(burn("2")) is stage.engine.error
    assert await stage.one(Commit("t", TOKEN_BYPASSED, "c")) is stage.engine.error


OWN_TROUBLE = (
    Reason.STORE_UNAVAILABLE,
    Reason.STORE_WRITE_BLOCKED,
    Reason.STORE_OUT_OF_MEMORY,
    Reason.FENCED,
    Reason.RESULT_UNKNOWN,
    Reason.OVERLOADED,
    Reason.LEDGER_UNAVAILABLE,
    Reason.LEDGER_BACKLOG,
    Reason.DEADLINE_EXCEEDED,
    Reason.INTERNAL,
)


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.SHADOW])
@pytest.mark.parametrize("reason", OWN_TROUBLE)
@pytest.mark.parametrize("operation", SPENDING)
async def test_shadow_and_off_never_refuse_for_our_own_trouble(
    stage_of: MakeStage, mode: Mode, reason: Reason, operation: Operation
) -> None:
    stage = stage_of(Engine(unavailable(reason)), Rules(MODES[mode]), spool_records_max=1)
    await stage.spool.append(CALLER, Release("t", TOKEN_HELD, "fills the spool"))
    assert outcome_of(await stage.one(operation)) is Outcome.BYPASSED
    assert stage.reports.passed == [(type(operation).__name__, Cause.SHADOW)]


@pytest.mark.parametrize("reason", [Reason.ACCOUNT_NOT_FOUND, Reason.IDEMPOTENCY_KEY_REUSED])
async def test_the_callers_own_mistakes_are_told_in_shadow_too(
    stage_of: MakeStage, reason: Reason
) -> None:
    stage = stage_of(Engine(unavailable(reason)), Rules(MODES[Mode.SHADOW]))
    assert outcome_of(await stage.one(burn())) is reason


async def test_a_burn_that_may_have_been_applied_is_repeated_as_itself(stage_of: MakeStage) -> None:
    rules = Rules([Policy(TENANT, store_unavailable=ALLOW)])
    stage = stage_of(Engine(unavailable(Reason.RESULT_UNKNOWN)), rules)
    await stage.one(burn())
    assert stage.spooled() == [burn()]


async def test_the_dials_of_a_child_are_those_of_its_tree(stage_of: MakeStage) -> None:
    """`org` is inside a dial of 10 percent and `org.user` is not."""
    dialled = Policy(TENANT, enforce_percent=10)
    known = stage_of(Engine(unavailable()), Rules([dialled], {"org.user": "org"}))
    unknown = stage_of(Engine(unavailable()), Rules([dialled]))
    assert outcome_of(await known.one(reserve())) is Reason.STORE_UNAVAILABLE
    assert outcome_of(await unknown.one(reserve())) is Outcome.BYPASSED


async def test_a_denial_is_an_answer_that_the_gate_does_not_touch(stage_of: MakeStage) -> None:
    stage = stage_of(rules=Rules([Policy(TENANT, store_unavailable=ALLOW)]))
    denied = BurnReply(replace(GRANTED, outcome=Outcome.DENIED), PLACED)
    stage.engine.answers["k"] = denied
    assert await stage.one(burn()) is denied


async def test_answers_keep_the_order_of_a_mixed_list(stage_of: MakeStage) -> None:
    stage = stage_of()
    operations: list[Operation] = [
        burn("1"),
        Commit("t", TOKEN_OFF, "2"),
        Commit("t", TOKEN_BYPASSED, "3"),
        reserve("4"),
        Release("t", TOKEN_BYPASSED, "5"),
        GetBalance("t", "a"),
    ]
    answers = await stage.gate.submit(CALLER, operations)
    assert [type(answer) for answer in answers] == [type(granted(each)) for each in operations]
