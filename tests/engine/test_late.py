"""What only the ledger can answer: keys older than what is remembered, and holds long gone."""

import json
import uuid
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from holdfast_server.domain import operation as op
from holdfast_server.domain.bounds import LATE_COMMIT_WINDOW_MS
from holdfast_server.domain.reply import Buckets, HoldState, Outcome
from holdfast_server.engine.fingerprint import key_time_ms
from holdfast_server.errors import HoldfastError, Reason
from tests.support.both import PARTITIONS, Both
from tests.support.pair import GENERATION_MS, comparable
from tests.support.rebuilding import rebuild

HOUR_MS = 3_600_000


def uuid7(time_ms: int) -> str:
    """A UUIDv7 of that instant."""
    value = time_ms << 80 | 0x7 << 76 | 0b10 << 62 | uuid.uuid4().int & (1 << 62) - 1
    return str(uuid.UUID(int=value))


def _at_memory(answer: Any) -> object:
    """An answer without what was waited for."""
    applied = replace(answer.applied, durability=op.Durability.MEMORY)
    return comparable(replace(answer, applied=applied))


async def forget(both: Both) -> None:
    """Lets time pass until the store has forgotten every key, and proves that it has."""
    await both.flushed()
    for _ in range(3):
        both.real.clock.now_ms += GENERATION_MS + 1
        for account in ("a", "x1", "x2", "x3", "x4", "x5"):
            burn = op.Burn("t", account, (op.Line("none", 1),), both.key())
            await both.do(burn)
        await both.flushed()


async def expired_hold(both: Both) -> Any:
    """A hold of 60 credits of an account with 100, whose time is over."""
    await both.account("a")
    await both.grant("a", 100)
    held = await both.reserve("a", 60, ttl_ms=1_000)
    both.real.clock.now_ms += 2_000
    return held


async def test_the_ledger_answers_an_old_key_as_the_store_did(both: Both) -> None:
    """I7 after the window: a Burn, a Grant, a Commit and an account are applied once, for ever."""
    await both.account("a")
    grant = op.Grant("t", "a", op.GrantTerms("ai", 100, op.GrantSource.PURCHASE), both.key())
    burn = op.Burn("t", "a", (op.Line("ai", 10),), both.key())
    given, burned = await both.do(grant), await both.do(burn)
    held = await both.reserve("a", 20)
    commit = op.Commit("t", held.hold, both.key(), (op.CommitLine("ai", 15),))
    committed = await both.do(commit)
    await forget(both)

    again = [await both.do(each) for each in (grant, burn, commit)]

    assert [_at_memory(each) for each in again] == [
        _at_memory(each) for each in (given, burned, committed)
    ]
    assert all(each.applied.replayed for each in again)
    assert await both.buckets("a") == Buckets(granted=100, available=75, burned=25)


async def test_a_refund_that_is_repeated_gets_its_answer_though_nothing_is_left(both: Both) -> None:
    """I7 and I8: what it gave back is why another one would be refused."""
    await both.account("a")
    await both.grant("a", 100)
    burned = await both.do(op.Burn("t", "a", (op.Line("ai", 60),), both.key()))
    refund = op.Refund("t", burned.applied.transaction_id, both.key())
    first = await both.do(refund)

    for begin in (both.flushed, lambda: forget(both)):
        await begin()
        again = await both.do(refund)
        assert (again.applied.replayed, _at_memory(again)) == (True, _at_memory(first))
        other = await both.do(replace(refund, lines=(op.RefundLine("ai", 1),)))
        assert other.reason is Reason.IDEMPOTENCY_KEY_REUSED
        assert other.metadata == {"field": "lines"}

    assert await both.buckets("a") == Buckets(granted=100, available=100)


async def test_an_old_key_with_other_content_is_refused(both: Both) -> None:
    """I8 after the window."""
    await both.account("a")
    await both.grant("a", 100)
    burn = op.Burn("t", "a", (op.Line("ai", 10),), both.key())
    await both.do(burn)
    await forget(both)

    answer = await both.do(replace(burn, feature="other"))

    assert isinstance(answer, HoldfastError)
    assert (answer.reason, answer.metadata["field"]) == (Reason.IDEMPOTENCY_KEY_REUSED, "feature")


async def test_a_late_replay_of_reserve_makes_a_new_hold(both: Both) -> None:
    await both.account("a")
    await both.grant("a", 100)
    reserve = op.Reserve("t", "a", (op.Line("ai", 10),), 1_000, both.key())
    first = await both.do(reserve)
    await forget(both)

    second = await both.do(reserve)

    assert second.hold != first.hold
    assert not second.applied.replayed


async def test_a_reserve_that_is_repeated_after_a_rebuild_holds_more_for_its_time_only(
    both: Both, migrated_postgres_url: str
) -> None:
    """The ledger has its hold and not its answer."""
    await both.account("a")
    await both.grant("a", 100)
    reserve = op.Reserve("t", "a", (op.Line("ai", 10),), 60_000, both.key())
    first = await both.do(reserve)
    await both.flushed()
    await rebuild(both, migrated_postgres_url, *range(PARTITIONS))

    second = await both.do(reserve)
    assert (second.hold != first.hold, (await both.buckets("a")).held) == (True, 20)
    await both.commit(second.hold)
    both.real.clock.now_ms += 60_000

    assert await both.buckets("a") == Buckets(granted=100, available=90, burned=10)


def burn_under(key: str) -> op.Burn:
    return op.Burn("t", "a", (op.Line("ai", 1),), key)


async def test_a_fresh_time_ordered_key_needs_no_ledger(both: Both) -> None:
    """With a young UUIDv7 the engine alone decides; with any other key it asks to look first."""
    await both.account("a")
    await both.grant("a", 100)
    await forget(both)
    now_ms = both.real.clock.now_ms
    keys = (uuid7(now_ms), uuid7(now_ms - 3 * GENERATION_MS), uuid7(now_ms + HOUR_MS), "plain")

    answers = await both.real.decide([burn_under(key) for key in keys], checked=False)

    assert [type(answer).__name__ for answer in answers] == ["BurnReply"] + ["NeedsLedger"] * 3
    assert key_time_ms(uuid7(now_ms)) == now_ms


async def test_a_longer_window_does_not_make_old_keys_prove_themselves(both: Both) -> None:
    """What is remembered counts, not what somebody wants remembered from now on."""
    await both.account("a")
    await both.grant("a", 100)
    burn = burn_under(uuid7(both.real.clock.now_ms))
    await both.do(burn)
    await forget(both)
    both.real.window.generation_ms = 24 * HOUR_MS

    again = await both.do(burn)

    assert again.applied.replayed
    assert (await both.buckets("a")).burned == 1


async def test_a_settled_hold_that_was_forgotten_is_still_settled(both: Both) -> None:
    """A27 and A28 for ever."""
    await both.account("a")
    await both.grant("a", 100)
    one, two = await both.reserve("a", 10), await both.reserve("a", 10)
    committed = await both.commit(one.hold, 7)
    await both.do(op.Release("t", two.hold, both.key()))
    await forget(both)

    again = await both.commit(one.hold, 8)
    released = await both.do(op.Release("t", one.hold, both.key()))
    late = await both.commit(two.hold, 8)

    assert again.reason is Reason.HOLD_ALREADY_COMMITTED
    assert again.metadata["committed"] == "ai=7"
    assert again.metadata["transaction_id"] == committed.applied.transaction_id
    assert {released.reason, late.reason} == {Reason.HOLD_ALREADY_SETTLED}


async def test_a_commit_within_the_late_window_is_booked_once(both: Both) -> None:
    """A30: available first, then debt, marked late."""
    await both.account("a")
    await both.grant("a", 100)
    held = await both.reserve("a", 60, ttl_ms=1_000)
    both.real.clock.now_ms += HOUR_MS
    await both.do(op.Burn("t", "a", (op.Line("ai", 70),), both.key()))

    late = await both.commit(held.hold, 50)
    again = await both.commit(held.hold, 50)

    assert (late.late, late.state, late.lines[0].debt) == (True, HoldState.COMMITTED, 20)
    assert again.reason is Reason.HOLD_ALREADY_COMMITTED
    assert await both.buckets("a") == Buckets(granted=100, debt=20, burned=120)


async def test_a_commit_after_the_late_window_is_refused_visibly(
    both: Both, migrated_postgres_url: str
) -> None:
    """A30: nothing is booked, the caller is told so, and a note is kept for those who bill."""
    held = await expired_hold(both)
    await both.do(op.ExpireDue("t", "a"))
    await forget(both)
    both.real.clock.now_ms += LATE_COMMIT_WINDOW_MS
    await both.do(op.ExpireDue("t", "a"))
    await both.do(op.GetBalance("t", "a"))
    await both.do(op.Burn("t", "a", (op.Line("ai", 1),), both.key()))

    released = await both.do(op.Release("t", held.hold, both.key()))
    extended = await both.do(op.Extend("t", held.hold, 5_000, both.key()))
    answer = await both.commit(held.hold, 50)

    # Who gives a hold back, or wants it longer, has not used it.
    assert [each.reason for each in (released, extended)] == [Reason.HOLD_EXPIRED] * 2
    assert [each.metadata for each in (released, extended)] == [{}, {}]
    assert answer.reason is Reason.HOLD_EXPIRED
    assert answer.metadata == {"usage_recorded": "false"}
    (raw,) = await _late_uses(migrated_postgres_url)
    assert json.loads(raw)["lines"] == {"ai": 50}


async def test_an_invented_hold_is_not_found(both: Both) -> None:
    """A24 and A25: random, malformed and other tenants' tokens get one answer."""
    await both.account("a")
    await both.grant("a", 100)
    held = await both.reserve("a", 10)
    changed = held.hold[:-1] + ("A" if held.hold[-1] != "A" else "B")

    answers = [await both.commit(token) for token in ("x", changed, "A" * 60)]
    answers.append(await both.do(op.Commit("other", held.hold, both.key())))

    assert {answer.reason for answer in answers} == {Reason.HOLD_NOT_FOUND}
    assert len({answer.message for answer in answers}) == 1
    assert (await both.buckets("a")).held == 10


async def test_a_batch_keeps_its_order_whatever_its_keys_prove(both: Both) -> None:
    """A plain key makes nobody wait: the ledger is asked before the batch is sent."""
    await both.account("a")
    await both.grant("a", 100)
    fresh = uuid7(both.real.clock.now_ms)
    first = op.Burn("t", "a", (op.Line("ai", 60),), "plain key")
    second = op.Burn("t", "a", (op.Line("ai", 60),), fresh)

    answers = await both.do_all([first, second])
    again = await both.do_all([first, second])

    assert [answer.decision.outcome for answer in answers] == [Outcome.GRANTED, Outcome.DENIED]
    assert [comparable(answer) for answer in again] == [comparable(answer) for answer in answers]


async def test_a_batch_of_old_keys_is_answered_by_the_ledger(both: Both) -> None:
    await both.account("a")
    await both.grant("a", 100)
    burns = [op.Burn("t", "a", (op.Line("ai", n),), both.key()) for n in (1, 2, 3)]
    answers = await both.do_all(burns)
    await forget(both)

    again = await both.do_all([*burns, op.Burn("t", "a", (op.Line("ai", 4),), both.key())])

    assert [comparable(answer) for answer in again[:3]] == [comparable(each) for each in answers]
    assert all(answer.applied.replayed for answer in again[:3])
    assert (await both.buckets("a")).burned == 10


async def test_a_hold_that_was_committed_late_is_committed_for_ever(both: Both) -> None:
    """The ledger names the Commit, not the expiry before it, of which nothing can be refunded."""
    held = await expired_hold(both)
    await both.commit(held.hold, 20, final=False)
    committed = await both.commit(held.hold, 30)

    known = await _refusals(both, held.hold)
    await forget(both)
    forgotten = await _refusals(both, held.hold)

    assert forgotten == known
    assert known[0][1] == {
        "committed": "ai=50",
        "transaction_id": committed.applied.transaction_id,
    }


@pytest.mark.parametrize(
    ("captured", "state", "refusal"),
    [
        (0, HoldState.RELEASED, Reason.HOLD_ALREADY_SETTLED),
        (20, HoldState.COMMITTED, Reason.HOLD_ALREADY_COMMITTED),
    ],
)
async def test_a_late_commit_of_nothing_is_a_release_for_ever(
    both: Both, captured: int, state: HoldState, refusal: Reason
) -> None:
    """As that of a hold that is open; unless something was burned of it before."""
    held = await expired_hold(both)
    await both.commit(held.hold, captured, final=False)
    nothing = await both.commit(held.hold, 0)

    known = await _refusals(both, held.hold)
    await forget(both)
    forgotten = await _refusals(both, held.hold)

    assert (nothing.state, nothing.late) == (state, True)
    assert forgotten == known
    assert known[0][0] is refusal


async def _refusals(both: Both, hold: str) -> list[tuple[Reason, object]]:
    """Why a hold cannot be settled again, nor extended."""
    answers = [
        await both.commit(hold, 1),
        await both.do(op.Release("t", hold, both.key())),
        await both.do(op.Extend("t", hold, 5_000, both.key())),
    ]
    return [(answer.reason, answer.metadata) for answer in answers]


async def test_use_after_the_late_window_is_noted_though_a_part_was_committed_late(
    both: Both, migrated_postgres_url: str
) -> None:
    """A30: what the last Commit says is not in the books, whatever came in time."""
    held = await expired_hold(both)
    await both.commit(held.hold, 20, final=False)
    both.real.clock.now_ms += LATE_COMMIT_WINDOW_MS
    await both.do(op.ExpireDue("t", "a"))

    answer = await both.commit(held.hold, 30)

    assert (answer.reason, answer.metadata) == (Reason.HOLD_EXPIRED, {"usage_recorded": "false"})
    (raw,) = await _late_uses(migrated_postgres_url)
    assert json.loads(raw)["lines"] == {"ai": 30}


async def _late_uses(url: str) -> list[bytes]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        found = await connection.execute(
            "SELECT raw FROM holdfast.quarantine WHERE fault = 'late_use'"
        )
        return [raw for (raw,) in await found.fetchall()]
