"""The invariants that the script keeps by itself, each in a test that names it.

I1, I2, I3 and I5 are asserted in every step of `tests/property`; I9, I11 and I12 in `tests/flusher`
and
`tests/ledger`; I20 and I22 in `tests/api`; the others here.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import pytest

from holdfast_server.api.auth.roles import ROLES
from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.bounds import LATE_COMMIT_WINDOW_MS
from holdfast_server.domain.entry import EntryKind
from holdfast_server.domain.operation import Mode
from holdfast_server.engine.keys import FLUSHED_FIELD, NUMBERS_FIELD
from holdfast_server.engine.pack import CODES
from holdfast_server.engine.rows import unpack_row
from holdfast_server.engine.scripts import Clock
from holdfast_server.errors import HoldfastError, Reason
from tests.support.pair import START_MS, Real, build

MODES = (Mode.SHADOW, Mode.ENFORCE)
ENDS = ("commit", "release", "expire", "partial")


def reserve(key: str, amount: int, ttl_ms: int = 60_000, account: str = "a") -> op.Reserve:
    return op.Reserve("t", account, (op.Line("ai", amount),), ttl_ms, key)


async def start(real: Real, credits: int = 100, **terms: Any) -> None:
    """An account with credits."""
    await real.decide([op.CreateAccount("t", "a", op.AccountTerms(**terms), "create")])
    if credits:
        given = op.GrantTerms("ai", credits, op.GrantSource.PURCHASE)
        await real.decide([op.Grant("t", "a", given, "grant")])


async def buckets(real: Real, account: str = "a") -> rp.Buckets:
    (balance,) = await real.decide([op.GetBalance("t", account)])
    return balance.credits[0].buckets if balance.credits else rp.Buckets()


async def open_holds(real: Real) -> list[rp.OpenHold]:
    holds, _ = await real.engine.list_holds("t", "a", True, 1_000, None)
    return holds


async def test_i4_held_is_the_sum_of_open_holds(real: Real) -> None:
    await start(real, 1_000)
    holds = [
        answer.hold for answer in await real.decide([reserve(f"r{n}", 10 + n) for n in range(20)])
    ]
    for n, hold in enumerate(holds[:15]):
        line = (op.CommitLine("ai", n),)
        await real.decide([op.Commit("t", hold, f"c{n}", line, final=n % 2 == 0)])
    held = sum(line.held for hold in await open_holds(real) for line in hold.lines)
    assert held == (await buckets(real)).held > 0


async def test_i6_exactly_one_end_per_hold_whatever_races(valkey_url: str) -> None:
    """Commit, release and expiry of each hold race from several processes' worth of engines."""
    engines = [build(valkey_url, clock=Clock.STORE) for _ in range(3)]
    await start(engines[0], 10_000)
    (first, *_) = engines
    answers = await first.decide([reserve(f"r{n}", 10, 1_000) for n in range(60)])
    holds = [answer.hold for answer in answers]

    async def race(real: Real, turn: int) -> None:
        for n, hold in enumerate(holds):
            commit = op.Commit("t", hold, f"c{turn}-{n}")
            release = op.Release("t", hold, f"r{turn}-{n}")
            await real.decide([commit, release] if (n + turn) % 2 else [release, commit])
            if n % 20 == 0:
                await real.decide([op.ExpireDue("t", "a")])

    await asyncio.gather(*(race(real, turn) for turn, real in enumerate(engines)))
    ends = Counter(entry.hold for entry in await first.entries() if entry.ends_hold)
    for real in engines:
        await real.store.close()
    assert len(ends) == len(holds)
    assert set(ends.values()) == {1}


async def test_i10_sequences_and_versions_have_no_gaps(real: Real) -> None:
    """(a) per partition, (b) per account and credit type."""
    accounts = [f"a{n}" for n in range(12)]
    await real.decide([op.CreateAccount("t", name, op.AccountTerms(), name) for name in accounts])
    given = op.GrantTerms("ai", 50, op.GrantSource.PURCHASE)
    await real.decide([op.Grant("t", name, given, f"g{name}") for name in accounts])
    await asyncio.gather(
        *(
            real.decide([reserve(f"{name}-{n}", 1, account=name)])
            for name in accounts
            for n in range(9)
        )
    )
    seqs, versions = defaultdict(list), defaultdict(list)
    for entry in await real.entries():
        seqs[entry.partition].append(entry.seq)
        versions[entry.account, entry.credit_type].append(entry.version)
    for numbers in [*seqs.values(), *versions.values()]:
        assert numbers == list(range(1, len(numbers) + 1))


async def test_i10_what_was_answered_before_comes_before(real: Real) -> None:
    """(c): when A was answered before B was asked, A's sequence number is lower."""
    await start(real, 1_000)
    spans: list[tuple[float, float, int]] = []

    async def one(n: int) -> None:
        asked = time.monotonic()
        (answer,) = await real.decide([reserve(f"order-{n}", 1)])
        spans.append((asked, time.monotonic(), answer.applied.seq))

    for first in range(0, 60, 6):
        await asyncio.gather(*(one(first + n) for n in range(6)))
    for before, after in itertools.permutations(spans, 2):
        assert before[1] >= after[0] or before[2] < after[2]


@pytest.mark.parametrize("how", ["balance", "reserve", "sweep"])
async def test_i14_an_expired_hold_does_not_count_as_held(real: Real, how: str) -> None:
    """Lazily on every access, and by the sweeper without one."""
    await start(real)
    await real.decide([reserve("r", 100, ttl_ms=1_000)])
    real.clock.now_ms += 1_000
    if how == "reserve":
        (answer,) = await real.decide([reserve("again", 100)])
        assert answer.decision.outcome is rp.Outcome.GRANTED
        return
    if how == "sweep":
        await real.decide([op.ExpireDue("t", "a")])
        kinds = [entry.kind for entry in await real.entries()]
        assert kinds[-1] is EntryKind.HOLD_EXPIRED
    assert await buckets(real) == rp.Buckets(granted=100, available=100)


async def test_i15_shadow_never_denies(real: Real) -> None:
    """Frozen, over every limit, without credits: shadow lets it pass and says why it would not."""
    hard = op.Limit(
        "one", op.LimitUnit.REQUESTS, op.LimitWindow.CALENDAR_DAY, 1, op.LimitEnforcement.HARD
    )
    await start(real, 5, limits=(hard,))
    real.mode.now = Mode.SHADOW
    answers = await real.decide([reserve(f"s{n}", 3) for n in range(4)])
    reasons = [answer.decision.reason for answer in answers]
    assert all(answer.hold for answer in answers)
    assert reasons == [Reason.UNSPECIFIED] + [Reason.LIMIT_EXCEEDED] * 3
    figures = await buckets(real)
    assert (figures.available, figures.held, figures.unenforced) == (0, 12, 7)
    for status in (op.AccountStatus.FROZEN, op.AccountStatus.CLOSED):
        terms = op.AccountTerms(status=status)
        await real.decide([op.UpdateAccount("t", "a", terms, frozenset({"status"}), status.name)])
        (answer,) = await real.decide([reserve(f"while-{status.name}", 1)])
        assert answer.decision.outcome is rp.Outcome.GRANTED_SHADOW


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("placed", MODES)
@pytest.mark.parametrize("now", MODES)
async def test_i18_a_hold_is_settled_in_the_mode_it_was_placed_in(
    real: Real, placed: Mode, now: Mode, end: str
) -> None:
    """With 10 available a hold of 30 needs 20 of unenforced use in shadow, 20 of overdraft else."""
    await start(real, 10, overdraft_limits={"ai": 20} if placed is Mode.ENFORCE else {})
    real.mode.now = placed
    (held,) = await real.decide([reserve("r", 30, ttl_ms=1_000)])
    real.mode.now = now
    if end == "expire":
        real.clock.now_ms += 2_000
    elif end == "release":
        await real.decide([op.Release("t", held.hold, "end")])
    else:
        lines = (op.CommitLine("ai", 40 if end == "commit" else 15),)
        await real.decide([op.Commit("t", held.hold, "end", lines, final=end == "commit")])
    figures = await buckets(real)
    beyond = {"commit": 30, "partial": 20}.get(end, 0)
    shadow = placed is Mode.SHADOW
    assert (figures.unenforced, figures.debt) == ((beyond, 0) if shadow else (0, beyond))


async def test_i18_off_books_nothing_and_its_settlement_neither(real: Real) -> None:
    await start(real, 10)
    real.mode.now = Mode.OFF
    (held,) = await real.decide([reserve("r", 30)])
    real.mode.now = Mode.ENFORCE
    assert held.decision.outcome is rp.Outcome.BYPASSED
    assert held.applied.seq == 0
    assert await buckets(real) == rp.Buckets(granted=10, available=10)


async def test_i26_time_never_goes_back(real: Real) -> None:
    """When the store's clock jumps back an hour, holds live longer and entries keep their order."""
    await start(real)
    await real.decide([reserve("r1", 10, ttl_ms=5_000)])
    real.clock.now_ms = START_MS - 3_600_000
    (second,) = await real.decide([reserve("r2", 10, ttl_ms=5_000)])
    real.clock.now_ms = START_MS + 1
    await real.decide([reserve("r3", 10)])
    times = [entry.event_ms for entry in await real.entries()]
    assert times == sorted(times)
    assert second.expires_at_ms == START_MS + 5_000


@pytest.mark.parametrize("status", list(op.AccountStatus))
@pytest.mark.parametrize("amount", [0, 5, 10, 5_000])
async def test_i27_a_commit_is_never_refused_for_balance(
    real: Real, status: op.AccountStatus, amount: int
) -> None:
    await start(real, 10)
    (held,) = await real.decide([reserve("r", 10)])
    terms = op.AccountTerms(status=status)
    await real.decide([op.UpdateAccount("t", "a", terms, frozenset({"status"}), "status")])
    (answer,) = await real.decide([op.Commit("t", held.hold, "c", (op.CommitLine("ai", amount),))])
    assert answer.decision.outcome is rp.Outcome.GRANTED
    figures = await buckets(real)
    assert (figures.burned, figures.debt) == (amount, max(0, amount - 10))


async def test_i28_every_operation_goes_through_one_script(real: Real) -> None:
    """Whatever mutates credits is a handler of apply.lua, and nothing else was ever loaded."""
    await start(real)
    (held,) = await real.decide([reserve("r", 10)])
    await real.decide([op.Commit("t", held.hold, "c"), op.GetBalance("t", "a")])
    info = await real.store.client.info("memory")
    assert (info["number_of_libraries"], info["number_of_cached_scripts"]) == (1, 0)
    mutating = {"Reserve", "Commit", "Release", "Extend", "Burn", "Refund", "Grant", "Revoke"}
    names = {method.rpartition("/")[2] for method in ROLES}
    assert mutating <= {kind.__name__ for kind in CODES} & names


async def test_i28_each_item_of_a_batch_has_its_own_outcome(real: Real) -> None:
    await start(real, 25)
    answers = await real.decide(
        [reserve("b1", 20), reserve("b2", 20), reserve("b3", 5, account="none"), reserve("b4", 5)]
    )
    outcomes = [
        answer.reason if isinstance(answer, HoldfastError) else answer.decision.outcome
        for answer in answers
    ]
    assert outcomes == [
        rp.Outcome.GRANTED,
        rp.Outcome.DENIED,
        Reason.ACCOUNT_NOT_FOUND,
        rp.Outcome.GRANTED,
    ]


async def test_i7_denials_are_remembered_too(real: Real) -> None:
    """A denied request stays denied under its key, even when credits have come since."""
    await start(real, 0)
    (denied,) = await real.decide([reserve("poor", 10)])
    given = op.GrantTerms("ai", 100, op.GrantSource.PURCHASE)
    await real.decide([op.Grant("t", "a", given, "rich")])
    (again,) = await real.decide([reserve("poor", 10)])
    (anew,) = await real.decide([reserve("new key", 10)])
    assert denied.decision == again.decision
    assert again.applied.replayed
    assert denied.decision.reason is Reason.INSUFFICIENT_CREDITS
    assert anew.decision.outcome is rp.Outcome.GRANTED


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"account": "b"}, "account"),
        ({"lines": (op.Line("ai", 11),)}, "lines"),
        ({"lines": (op.Line("video", 10),)}, "lines"),
        ({"lines": (op.Line("ai", 10, 2),)}, "lines"),
        ({"ttl_ms": 60_001}, "ttl_ms"),
        ({"feature": "x"}, "feature"),
        ({"labels": {"a": "b"}}, "labels"),
        ({"fit": op.Fit.UP_TO}, "fit"),
    ],
)
async def test_i8_a_reused_key_names_the_first_field_that_differs(
    real: Real, change: dict[str, Any], field: str
) -> None:
    await start(real)
    partition = real.keys.partition("t", "a")
    other = next(
        name
        for name in map("b{}".format, range(999))
        if real.keys.partition("t", name) == partition
    )
    await real.decide([op.CreateAccount("t", other, op.AccountTerms(), "other")])
    if "account" in change:
        change = {"account": other}
    original = reserve("key", 10)
    await real.decide([original])
    (answer,) = await real.decide([replace(original, **change)])
    (same,) = await real.decide([original])
    assert answer.reason is Reason.IDEMPOTENCY_KEY_REUSED
    assert answer.metadata == {"field": field}
    assert same.applied.replayed


async def test_i21_memory_for_keys_is_bounded(real: Real) -> None:
    """Two generations are kept; the one before is dropped whole once the ledger has it."""
    await start(real)
    partition = real.keys.partition("t", "a")
    names = real.keys.partition_keys(partition, 1)[:2]
    sizes = []
    for turn in range(6):
        await real.decide([reserve(f"{turn}-{n}", 1, 1_000) for n in range(20)])
        numbers = await real.store.client.hget(names[0], NUMBERS_FIELD)
        assert isinstance(numbers, bytes)
        await real.store.client.hset(names[0], FLUSHED_FIELD, unpack_row(numbers)[0])
        real.clock.now_ms += 900_000
        sizes.append(sum([await real.store.client.hlen(name) for name in names]))
    assert max(sizes[2:]) <= 46


async def test_i21_memory_for_expired_holds_is_bounded(real: Real) -> None:
    """However many end at one time, in whatever calls: only those that can be committed stay."""
    await start(real, credits=1_000)
    _, _, _, _, late, lated = real.keys.partition_keys(real.keys.partition("t", "a"), 1)
    for day in range(3):
        await real.decide([reserve(f"{day}-{each}", 1) for each in range(150)])
        real.clock.now_ms += LATE_COMMIT_WINDOW_MS + 60_000
        await real.decide([op.GetBalance("t", "a")])

    client = real.store.client
    assert [await client.hlen(late), await client.zcard(lated)] == [150, 150]


@pytest.mark.parametrize("same_call", [True, False])
async def test_i8_a_key_counts_wherever_its_account_is_decided(real: Real, same_call: bool) -> None:
    """Keys are scoped by tenant and method, not by partition: one key, one effect."""
    names = [f"p{number}" for number in range(8)]
    assert len({real.keys.partition("t", name) for name in names}) > 1
    await real.decide([op.CreateAccount("t", name, op.AccountTerms(), name) for name in names])
    given = op.GrantTerms("ai", 50, op.GrantSource.PURCHASE)
    await real.decide([op.Grant("t", name, given, f"g{name}") for name in names])
    burns = [op.Burn("t", name, (op.Line("ai", 1),), "one key") for name in names]
    if same_call:
        answers = await real.decide(burns)
    else:
        answers = [(await real.decide([burn]))[0] for burn in burns]
    assert answers[0].applied.seq
    assert {answer.reason for answer in answers[1:]} == {Reason.IDEMPOTENCY_KEY_REUSED}
    assert {answer.metadata["field"] for answer in answers[1:]} == {"account"}
    other = [replace(burn, tenant="u") for burn in burns[:1]]
    assert (await real.decide(other))[0].reason is Reason.ACCOUNT_NOT_FOUND


async def test_a_name_that_was_refused_below_a_parent_stays_free(real: Real) -> None:
    missing = op.CreateAccount("t", "new", op.AccountTerms(parent="ghost"), "1")
    anew = op.CreateAccount("t", "new", op.AccountTerms(), "2")
    (refused,) = await real.decide([missing])
    (created,) = await real.decide([anew])
    assert refused.reason is Reason.ACCOUNT_TREE_INVALID
    assert created.account.root == "new"
