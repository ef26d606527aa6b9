"""The audit's own judgement: what holds passes, and every way of not holding is found."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from holdfast import (
    Applied,
    BalanceResult,
    Buckets,
    CreditBalance,
    Decision,
    NotFound,
    Outcome,
    ReserveResult,
    ResourceExhausted,
    Unreachable,
)
from holdfast_server.domain import entry as domain
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.reply import Buckets as DomainBuckets
from holdfast_server.domain.reply import HoldState
from holdfast_server.workload.checks import compare, ledger
from holdfast_server.workload.checks.chain import GENESIS, Row, chained
from holdfast_server.workload.checks.ledger import Cursor, Fold
from holdfast_server.workload.checks.store import Stored
from holdfast_server.workload.history import History
from holdfast_server.workload.report import percentile_ms

PLACE = ("acme", "user", "ai")
OURS = {"user"}
HOLD_ID = "00112233445566778899aabbccddeeff"

GRANTED = [100, 0, 0, 100, 0, 0, 0, 0]
PLACED = [0, 0, 0, -30, 30, 0, 0, 0]
SETTLED = [0, 0, 0, 10, -30, 20, 0, 0]


def _row(seq: int, kind: int, delta: list[int], after: list[int], **changes: Any) -> Row:
    row = Row(
        partition=3,
        epoch=1,
        seq=seq,
        first_seq=seq,
        kind=kind,
        version=seq,
        event_ms=1_700_000_000_000 + seq,
        mode=3,
        ends_hold=0,
        delta=delta,
        after=after,
        hash=b"",
        hold="",
        tenant="acme",
        account="user",
        credit_type="ai",
        actor="user",
        grant_ids=["ab" * 16, "cd" * 16],
        grant_changes=[1, 2, -3, 0, 0, 0, 0, 0, 0, 4],
        method="Burn",
        key=f"key{seq}",
        fingerprint=b"\x01\x02",
        feature="chät",
        labels={"z": "1", "a": "2"},
        caller="me",
        trace_id="",
        span_id="",
        reason="why",
        detail={"terms": {"limits": [1, True, "x"], "a": {}}, "empty": []},
        refund_of="",
    )
    return row._replace(**changes)


def _ledger() -> list[Row]:
    """Granted 100, held 30, committed 20."""
    return [
        _row(1, 2, GRANTED, [100, 0, 0, 100, 0, 0, 0, 0], method="Grant"),
        _row(2, 3, PLACED, [100, 0, 0, 70, 30, 0, 0, 0], method="Reserve", hold=HOLD_ID),
        _row(
            3, 4, SETTLED, [100, 0, 0, 80, 0, 20, 0, 0], method="Commit", hold=HOLD_ID, ends_hold=2
        ),
    ]


def _chain(rows: list[Row]) -> list[Row]:
    digest, chain = GENESIS, []
    for row in rows:
        digest = chained(digest, row)
        chain.append(row._replace(hash=digest))
    return chain


def _fold(
    rows: list[Row], monkeypatch: pytest.MonkeyPatch, *, cursor: Cursor | None = None
) -> Fold:
    monkeypatch.setattr(ledger, "_rows", lambda _: iter(rows))
    last = rows[-1]
    return ledger.fold_ledger("", {3: cursor or Cursor(last.epoch, last.seq, last.hash)})


def _acknowledged(*, amounts: tuple[int, int, int] = (100, 30, 20)) -> History:
    history = History()
    for seq, (method, amount) in enumerate(
        zip(("Grant", "Reserve", "Commit"), amounts, strict=True), 1
    ):
        applied = Applied(f"3-1-{seq}", 3, 1, seq)
        history.answered(
            method, f"key{seq}", ReserveResult(Decision(Outcome.GRANTED), applied=applied), amount
        )
    return history


@pytest.fixture
def fold(monkeypatch: pytest.MonkeyPatch) -> Fold:
    """A ledger in which everything holds."""
    return _fold(_chain(_ledger()), monkeypatch)


def test_the_chain_is_the_ledger_s() -> None:
    """Written twice from one definition: both must give the same hash for every kind of field."""
    row = _row(7, 4, SETTLED, [100, 0, 0, 80, 0, 20, 0, 0], hold=HOLD_ID, ends_hold=2, first_seq=6)
    entry = domain.Entry(
        partition=3,
        epoch=1,
        seq=7,
        kind=domain.EntryKind.COMMIT,
        tenant="acme",
        account="user",
        credit_type="ai",
        version=7,
        event_ms=row.event_ms,
        delta=DomainBuckets(*SETTLED),
        after=DomainBuckets(*row.after),
        grants=(
            domain.GrantPosting(row.grant_ids[0], *row.grant_changes[:5]),
            domain.GrantPosting(row.grant_ids[1], *row.grant_changes[5:]),
        ),
        first_seq=6,
        mode=Mode.ENFORCE,
        hold=HOLD_ID,
        actor="user",
        ends_hold=HoldState.COMMITTED,
        context=domain.Context(
            method="Burn",
            key="key7",
            fingerprint=b"\x01\x02",
            feature="chät",
            labels={"z": "1", "a": "2"},
            caller="me",
            reason="why",
            detail=row.detail,
        ),
        answer=b"whatever",
        refund_of="",
    )
    assert chained(GENESIS, row) == domain.chain_hash(GENESIS, entry)
    assert chained(b"\x01" * 32, row) == domain.chain_hash(b"\x01" * 32, entry)


def test_what_holds_passes(fold: Fold) -> None:
    assert (fold.chain, fold.conservation, fold.rows) == ([], [], 3)
    assert fold.sums == {PLACE: [100, 0, 0, 80, 0, 20, 0, 0]}
    assert list(compare.compare_holds(fold, {"user"})) == []
    accounted = compare.account_for(fold, _acknowledged(), {"user"})
    assert (accounted.lost, accounted.duplicates) == ((), ())


@pytest.mark.parametrize(
    "field", sorted(set(Row._fields) - {"hash", "partition", "first_seq", "seq"})
)
def test_a_change_of_any_field_breaks_the_chain(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _chain(_ledger())
    value = getattr(rows[1], field)
    other: dict[type, Any] = {
        int: lambda: value + 1,
        str: lambda: value + "ab",
        bytes: lambda: value + b"x",
        list: lambda: [*value, value[0]],
        dict: lambda: value | {"more": "x"},
    }
    changed = other[type(value)]()
    if field in {"delta", "after"}:
        changed = [value[0] + 1, *value[1:]]
    rows[1] = rows[1]._replace(**{field: changed})
    assert _fold(rows, monkeypatch).chain


def test_a_missing_row_a_swapped_pair_and_a_cut_tail_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = _chain(_ledger())
    assert _fold([rows[0], rows[2]], monkeypatch).chain
    assert _fold([rows[1], rows[0], rows[2]], monkeypatch).chain
    whole = Cursor(1, 3, rows[2].hash)
    assert _fold(rows[:2], monkeypatch, cursor=whole).chain == [
        "partition 3: the cursor is not at the last entry"
    ]


def test_an_entry_that_does_not_balance_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _ledger()
    rows[2] = rows[2]._replace(delta=[0, 0, 0, 11, -30, 20, 0, 0])
    assert any("not balanced" in one for one in _fold(_chain(rows), monkeypatch).conservation)


def test_buckets_that_are_not_the_sums_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _ledger()
    rows[2] = rows[2]._replace(after=[100, 0, 0, 81, 0, 19, 0, 0])
    assert any("sums" in one for one in _fold(_chain(rows), monkeypatch).conservation)


def test_a_gap_in_the_versions_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _ledger()
    rows[2] = rows[2]._replace(version=4)
    assert any("version 4 follows" in one for one in _fold(_chain(rows), monkeypatch).conservation)


def test_credits_without_a_type_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [_row(1, 1, GRANTED, GRANTED, credit_type="")]
    assert _fold(_chain(rows), monkeypatch).conservation


def _stored(fold: Fold) -> Stored:
    return Stored({place: list(sums) for place, sums in fold.sums.items()}, dict(fold.versions))


def test_the_hot_store_must_be_the_ledger(fold: Fold) -> None:
    assert list(compare.compare_store(fold, _stored(fold), OURS)) == []
    other = _stored(fold)
    other.buckets[PLACE][3] += 1
    assert len(list(compare.compare_store(fold, other, OURS))) == 1
    newer = _stored(fold)
    newer.versions[PLACE] += 1
    assert len(list(compare.compare_store(fold, newer, OURS))) == 1
    more = _stored(fold)
    more.buckets["acme", "user", "video"] = GRANTED
    assert len(list(compare.compare_store(fold, more, OURS))) == 1
    assert len(list(compare.compare_store(fold, Stored(), OURS))) == 2
    held = _stored(fold)
    held.open_holds[HOLD_ID] = "user"
    assert list(compare.compare_store(fold, held, {"somebody else"})) == []
    assert list(compare.compare_store(fold, held, OURS)) == [
        f"hold {HOLD_ID} is left in the hot store"
    ]


def _balance(available: int, burned: int, **changes: Any) -> BalanceResult:
    buckets = Buckets(granted=100, available=available, burned=burned)
    credit = CreditBalance("ai", buckets, available, (), 3)
    balance = BalanceResult("user", (credit,), (), open_holds=0, as_of_ms=0, stale=False)
    return replace(balance, **changes)


def test_answered_balances_must_be_the_ledger(fold: Fold) -> None:
    assert list(compare.compare_balances(fold, [_balance(80, 20)])) == []
    assert len(list(compare.compare_balances(fold, [_balance(81, 19)]))) == 1
    assert len(list(compare.compare_balances(fold, [_balance(80, 20, credits=())]))) == 1
    assert len(list(compare.compare_balances(fold, [_balance(80, 20, open_holds=1)]))) == 1
    assert len(list(compare.compare_balances(fold, [_balance(80, 20, stale=True)]))) == 1


def test_a_hold_must_end_exactly_once(monkeypatch: pytest.MonkeyPatch) -> None:
    never = _fold(_chain(_ledger()[:2]), monkeypatch)
    assert len(list(compare.compare_holds(never, {"user"}))) == 2
    assert list(compare.compare_holds(never, {"somebody else"})) == []
    rows = _ledger()
    rows[0] = rows[0]._replace(hold=HOLD_ID, ends_hold=3)
    twice = _fold(_chain(rows), monkeypatch)
    assert list(compare.compare_holds(twice, {"user"})) == [
        f"hold {HOLD_ID} of 3-1-2 has ended 2 times"
    ]


@pytest.mark.parametrize("amounts", [(99, 30, 20), (100, 31, 20), (100, 30, 21)])
def test_an_acknowledged_amount_must_be_in_the_ledger(
    fold: Fold, amounts: tuple[int, int, int]
) -> None:
    assert len(compare.account_for(fold, _acknowledged(amounts=amounts), {"user"}).lost) == 1


def test_a_lost_operation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fold = _fold(_chain(_ledger()[:2]), monkeypatch)
    (lost,) = compare.account_for(fold, _acknowledged(), {"user"}).lost
    assert "3-1-3 is not in the ledger" in lost


def test_another_operation_in_its_place_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _ledger()
    rows[2] = rows[2]._replace(key="another")
    fold = _fold(_chain(rows), monkeypatch)
    accounted = compare.account_for(fold, _acknowledged(), {"user"})
    assert len(accounted.lost) == 1


def test_an_operation_that_was_applied_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    again = _row(
        4, 4, [0] * 8, [100, 0, 0, 80, 0, 20, 0, 0], method="Commit", key="key3", hold=HOLD_ID
    )
    fold = _fold(_chain([*_ledger(), again]), monkeypatch)
    duplicates = compare.account_for(fold, _acknowledged(), {"user"}).duplicates
    assert any("Commit key3 was applied as 3-1-3, 3-1-4" in one for one in duplicates)


def test_an_operation_that_nobody_asked_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = _row(4, 8, [0, 0, 0, -5, 0, 5, 0, 0], [100, 0, 0, 75, 0, 25, 0, 0], key="mine")
    fold = _fold(_chain([*_ledger(), extra]), monkeypatch)
    assert len(compare.account_for(fold, _acknowledged(), {"user"}).duplicates) == 1
    assert compare.account_for(fold, _acknowledged(), {"somebody else"}).duplicates == ()
    unanswered = _acknowledged()
    unanswered.failed("mine", Unreachable("lost"))
    assert compare.account_for(fold, unanswered, {"user"}).duplicates == ()


def test_what_the_service_does_by_itself_needs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    expired = _row(
        4,
        12,
        [0, 0, 0, -5, 0, 0, 5, 0],
        [100, 0, 0, 75, 0, 20, 5, 0],
        key="abc",
        method="ExpireGrant",
    )
    fold = _fold(_chain([*_ledger(), expired]), monkeypatch)
    assert compare.account_for(fold, _acknowledged(), {"user"}).duplicates == ()


def test_an_answer_that_changes_breaks_a_promise() -> None:
    history = History()
    first = ReserveResult(Decision(Outcome.GRANTED), applied=Applied("3-1-2", 3, 1, 2))
    history.answered_again(first, replace(first, applied=replace(first.applied, replayed=True)))
    assert history.broken_promises == []
    history.answered_again(first, first)
    other = Applied("3-1-9", 3, 1, 9, replayed=True)
    history.answered_again(first, replace(first, applied=other))
    assert len(history.broken_promises) == 2


def test_only_a_service_that_is_away_may_leave_a_request_unanswered() -> None:
    history = History()
    history.failed("one", Unreachable("away"))
    history.failed("two", ResourceExhausted("busy", reason="OVERLOADED"))
    assert history.broken_promises == []
    assert history.unanswered == {"one"}
    history.failed("three", NotFound("gone", reason="HOLD_NOT_FOUND"))
    assert len(history.broken_promises) == 1
    assert history.failures == {"Unreachable": 1, "OVERLOADED": 1, "HOLD_NOT_FOUND": 1}


def test_percentiles() -> None:
    assert percentile_ms([], 0.5) == 0
    assert percentile_ms([0.003, 0.001, 0.002], 0.5) == 2
    assert percentile_ms([number / 1_000 for number in range(1, 101)], 0.99) == 99


def test_hashes_are_sha_256() -> None:
    assert len(chained(GENESIS, _ledger()[0])) == hashlib.sha256().digest_size
