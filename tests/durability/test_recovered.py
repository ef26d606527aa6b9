"""A hold that was lost with the hot store: its Commit is booked by what its token says, once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.bounds import LATE_COMMIT_WINDOW_MS
from holdfast_server.domain.entry import EntryKind
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.token import HoldToken, TokenKind, pack_placed
from holdfast_server.domain.twin.memory import Facts, LateHold
from holdfast_server.domain.twin.state import HoldLine
from holdfast_server.engine.keys import FENCE_FIELD
from holdfast_server.engine.request import Request
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.append import Appender
from holdfast_server.ledger.recovery import Opening
from holdfast_server.ledger.store import Ledger
from tests.hydration.test_rebuild import rebuilt
from tests.support.both import PARTITIONS, Both, both_stores
from tests.support.pair import CALLER, SIGNER, START_MS, Pair, Real, build, comparable
from tests.support.stored import stored

HOLD = bytes(range(16))
EXPIRES_MS = START_MS + 60_000


class Lost:
    """A hold that nobody knows, for the engine and for its twin."""

    def __init__(self, pair: Pair, mode: Mode, lines: dict[str, int]) -> None:
        self._pair, self._mode, self._lines = pair, mode, lines
        packed = pack_placed(mode, 1, 5, EXPIRES_MS, lines.items())
        what = HoldToken(TokenKind.HELD, "org", "org.user", HOLD, "chat", packed=packed)
        self.token = SIGNER.issue("t", what)

    async def commit(self, key: str, lines: dict[str, int], **changes: Any) -> Any:
        """A Commit that the ledger has proven to be of a lost hold, compared with the twin's."""
        actual = tuple(op.CommitLine(name, amount) for name, amount in lines.items())
        commit = op.Commit("t", self.token, key, actual, **changes)
        request = Request(commit, checked=True, is_lost=True)
        (answer,) = await self._pair.real.engine.decide(CALLER, [request])
        assert comparable(answer) == comparable(self._twin(replace(commit, hold=HOLD.hex())))
        await self._pair.check_balances()
        await self._pair.check_entries()
        await self._check_rebuilt()
        return answer

    async def _check_rebuilt(self) -> None:
        """What the entries say of the tree is what the store has of it."""
        real = self._pair.real
        mine = rebuilt(await real.entries(), "t", "org", real)
        found = await stored(real, "t", "org")
        assert (mine, mine["late"].keys()) == (found, found["late"].keys())

    def _twin(self, commit: op.Commit) -> rp.Reply | HoldfastError:
        now_ms = self._pair.real.clock.now_ms
        lines = [HoldLine(name, amount, []) for name, amount in self._lines.items()]
        until_ms = max(EXPIRES_MS, now_ms) + LATE_COMMIT_WINDOW_MS
        lost = LateHold("org.user", "chat", self._mode, lines, until_ms, counted=False)
        try:
            return self._pair.world.recover(commit, lost, Facts(now_ms))
        except HoldfastError as error:
            return error


async def prepared(url: str, *, with_user: bool = True) -> Pair:
    """An organisation and its user, who may spend 100 `ai` and make 10 requests."""
    pair = Pair(build(url))
    limit = op.Limit(
        "daily", op.LimitUnit.REQUESTS, op.LimitWindow.CALENDAR_DAY, 10, op.LimitEnforcement.HARD
    )
    user = op.AccountTerms(parent="org", limits=(limit,))
    given = op.GrantTerms("ai", 100, op.GrantSource.PURCHASE)
    await pair.submit([op.CreateAccount("t", "org", op.AccountTerms(), "1")])
    if with_user:
        await pair.submit([op.CreateAccount("t", "org.user", user, "2")])
        await pair.submit([op.Grant("t", "org", given, "3")])
    return pair


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.SHADOW])
@pytest.mark.parametrize("overage", list(op.Overage))
@pytest.mark.parametrize("amount", [0, 1, 40, 41, 100, 250])
async def test_what_was_used_is_booked_as_the_twin_books_it(
    valkey_url: str, mode: Mode, overage: op.Overage, amount: int
) -> None:
    pair = await prepared(valkey_url)
    lost = Lost(pair, mode, {"ai": 40, "video": 5})
    answer = await lost.commit("4", {"ai": amount}, overage=overage)
    if overage is op.Overage.REJECT and amount > 40:
        assert answer.decision.outcome is rp.Outcome.DENIED
    else:
        assert answer.decision.outcome is rp.Outcome.GRANTED
        assert (answer.state, answer.late) == (rp.HoldState.COMMITTED, True)
        assert [line.burned for line in answer.lines] == [amount, 5]
        entries = await pair.real.entries()
        kinds = [entry.kind for entry in entries if entry.hold == HOLD.hex()]
        assert set(kinds) == {EntryKind.RECOVERED_COMMIT}
        ends = [entry.ends_hold for entry in entries if entry.ends_hold]
        assert ends == [rp.HoldState.COMMITTED]
    await pair.real.store.close()


async def test_a_commit_of_nothing_of_it_is_a_release(valkey_url: str) -> None:
    pair = await prepared(valkey_url)
    answer = await Lost(pair, Mode.ENFORCE, {"ai": 40}).commit("4", {"ai": 0})
    ends = [entry.ends_hold for entry in await pair.real.entries() if entry.ends_hold]
    assert (answer.state, ends) == (rp.HoldState.RELEASED, [rp.HoldState.RELEASED])
    await pair.real.store.close()


async def test_it_is_booked_once_and_a_repeated_request_gets_its_answer(valkey_url: str) -> None:
    pair = await prepared(valkey_url)
    lost = Lost(pair, Mode.ENFORCE, {"ai": 40})
    first = await lost.commit("4", {})
    assert (await lost.commit("5", {})).reason is Reason.HOLD_ALREADY_COMMITTED
    again = op.Commit("t", lost.token, "4")
    (repeated,) = await pair.real.decide([again])
    assert repeated.applied == replace(first.applied, replayed=True)
    await pair.real.store.close()


async def test_captures_of_it_go_on_as_those_of_an_expired_hold(valkey_url: str) -> None:
    pair = await prepared(valkey_url)
    lost = Lost(pair, Mode.ENFORCE, {"ai": 40})
    first = await lost.commit("4", {"ai": 10}, final=False)
    assert first.state is rp.HoldState.EXPIRED
    second = await lost.commit("5", {"ai": 20}, final=False)
    third = await lost.commit("6", {})
    assert [each.lines[0].burned for each in (first, second, third)] == [10, 20, 10]
    entries = [entry for entry in await pair.real.entries() if entry.hold == HOLD.hex()]
    late = EntryKind.LATE_COMMIT
    assert [entry.kind for entry in entries] == [EntryKind.RECOVERED_COMMIT, late, late]
    # By its answer the ledger knows each for ever.
    assert all(entry.answer for entry in entries)
    await pair.real.store.close()


async def test_where_its_account_was_lost_as_well_it_is_said(valkey_url: str) -> None:
    pair = await prepared(valkey_url, with_user=False)
    token = Lost(pair, Mode.ENFORCE, {"ai": 40}).token
    request = Request(op.Commit("t", token, "4"), checked=True, is_lost=True)
    (answer,) = await pair.real.engine.decide(CALLER, [request])
    assert isinstance(answer, HoldfastError)
    assert answer.reason is Reason.ACCOUNT_NOT_FOUND
    await pair.real.store.close()


async def everything(real: Real) -> dict[bytes, bytes]:
    """All that the store holds, to put it back."""
    client = real.store.client
    return {key: await client.dump(key) or b"" async for key in client.scan_iter()}


async def put_back(real: Real, kept: dict[bytes, bytes]) -> None:
    """What a replica does that takes over and had not heard of the rest."""
    await real.store.client.flushdb()
    for key, value in kept.items():
        await real.store.client.restore(key, 0, value)


async def open_epoch(postgres_url: str, partition: int) -> None:
    """The recovery's last step: the ledger begins an epoch where it is."""
    appender = Appender(postgres_url)
    cursor = (await appender.cursors())[partition]
    await appender.close()
    ledger = await Ledger.open(postgres_url)
    opening = Opening(partition, 1, cursor.seq, cursor.hash, 2, 1, "", "test")
    opened, _ = await ledger.open_epochs([opening], await ledger.fence([partition], "test"))
    assert opened == {partition}
    await ledger.close()


async def arm_second_epoch(both: Both, partition: int) -> None:
    """Lets the store decide in it, under the keys that it has."""
    both.real.keys.epochs.learn(await both.ledger.epochs())
    client = both.real.store.client
    history = (await client.info("replication"))["master_replid"]
    await client.hset(both.real.keys.state(partition, 2), FENCE_FIELD, f"2 {history} ARMED")


async def test_the_ledger_decides_whether_a_hold_was_lost(
    valkey_url: str, migrated_postgres_url: str
) -> None:
    async with both_stores(valkey_url, migrated_postgres_url) as both:
        await both.account("a")
        await both.grant("a", 100)
        kept_hold = await both.reserve("a", 10)
        await both.flushed()
        partition = kept_hold.applied.partition
    real = build(valkey_url, partitions=PARTITIONS)
    before = await everything(real)
    lost_hold = (await real.decide([op.Reserve("t", "a", (op.Line("ai", 30),), 60_000, "lost")]))[0]
    await put_back(real, before)
    await real.store.close()
    async with both_stores(valkey_url, migrated_postgres_url) as both:
        both.keys = 100
        refused = await both.commit(lost_hold.hold)
        assert refused.reason is Reason.HOLD_NOT_FOUND
    await open_epoch(migrated_postgres_url, partition)
    async with both_stores(valkey_url, migrated_postgres_url) as both:
        both.keys = 200
        await arm_second_epoch(both, partition)
        committed = await both.commit(lost_hold.hold, 50)
        assert committed.lines[0].burned == 50
        assert committed.applied.epoch == 2
        assert (await both.commit(kept_hold.hold)).lines[0].burned == 10
        await both.flushed()
        again = await both.commit(lost_hold.hold)
        assert again.reason is Reason.HOLD_ALREADY_COMMITTED
        found = await both.ledger.find_hold("t", hold_of(lost_hold.hold))
        assert found is not None
        assert (found.state, found.burned["ai"]) == (rp.HoldState.COMMITTED, 50)
        assert (await both.buckets("a")).burned == 60
        verified = await both.ledger.verify()
        assert verified.ok


def hold_of(token: str) -> str:
    """The id inside a token."""
    read = SIGNER.read("t", token)
    assert read is not None
    return read.hold.hex()
