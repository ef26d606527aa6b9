"""Trees leave the hot store and come back from the real ledger, and never from a stale one."""

from __future__ import annotations

import asyncio

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.bounds import LATE_COMMIT_WINDOW_MS
from holdfast_server.domain.operation import Mode
from holdfast_server.engine.cold import Absent, Brought
from holdfast_server.engine.keys import COLD_FLOOR_FIELD
from holdfast_server.engine.tree_store import Evicted, Installed, TreeStore
from holdfast_server.errors import HoldfastError, Reason
from tests.hydration.stage import DAILY, Between, hydrator, start
from tests.support.both import Both
from tests.support.due import index_of, names_in
from tests.support.eviction import evict, lose
from tests.support.stored import stored


@pytest.mark.parametrize("more", [0, 20])
async def test_an_evicted_tree_comes_back_as_it_was(both: Both, more: int) -> None:
    """Also where so much is due in it that the index is a key of its own."""
    await start(both)
    for _ in range(more):
        await both.grant("root", 1, expires_at_ms=both.real.clock.now_ms + 86_400_000)
    await both.flushed()
    before = await stored(both.real, "t", "root")
    assert await evict(both.real, "t", "root") is Evicted.EVICTED
    assert not (await stored(both.real, "t", "root"))["due"]
    assert (await both.buckets("child")).available == 23
    assert await stored(both.real, "t", "root") == before


async def test_open_holds_come_back_after_a_loss(both: Both) -> None:
    await start(both)
    hold = await both.reserve("child", 7, feature="chat", fit=op.Fit.UP_TO)
    both.real.mode.now = Mode.SHADOW
    shadow = await both.reserve("child", 400, feature="chat")
    both.real.mode.now = Mode.ENFORCE
    assert (await both.commit(hold.hold, 3, final=False, ttl_ms=90_000)).applied.seq
    await both.flushed()
    before = await stored(both.real, "t", "root")
    await lose(both.real, ("t", "root"))
    assert (await both.do(op.GetBalance("t", "root"))).open_holds == 0
    assert await stored(both.real, "t", "root") == before
    committed = await both.commit(hold.hold, 2)
    assert committed.state is rp.HoldState.COMMITTED
    assert (await both.commit(shadow.hold)).state is rp.HoldState.COMMITTED


async def test_a_limit_that_counts_anew_is_told_from_the_one_before(both: Both) -> None:
    """By what the ledger says of both; a hold that the first counted gives nothing to the other."""
    await start(both)
    hold = await both.reserve("child", 7)
    for limits in ((), (DAILY,)):
        terms = op.AccountTerms(limits=limits)
        update = op.UpdateAccount("t", "root", terms, frozenset({"limits"}), both.key())
        assert (await both.do(update)).applied.seq
    later = await both.reserve("child", 5)
    await both.flushed()
    before = await stored(both.real, "t", "root")
    await lose(both.real, ("t", "root"))
    assert (await both.do(op.GetBalance("t", "root"))).limits[0].used == 5
    assert await stored(both.real, "t", "root") == before
    await both.commit(hold.hold, 2)
    assert (await both.do(op.GetBalance("t", "root"))).limits[0].used == 5
    await both.commit(later.hold, 1)
    assert (await both.do(op.GetBalance("t", "root"))).limits[0].used == 1


async def test_what_is_due_while_a_tree_is_away_still_ends(both: Both) -> None:
    await start(both)
    assert await evict(both.real, "t", "root") is Evicted.EVICTED
    both.real.clock.now_ms += 90_000_000
    (ended,) = await both.real.decide([op.ExpireDue("t", "root")])
    assert ended.grants == 2
    assert (await both.buckets("child")).expired == 23


async def test_a_hold_that_nobody_can_commit_any_more_does_not_come_back(both: Both) -> None:
    await start(both)
    """The other does, and will be forgotten when its time is over."""
    late, lated = both.real.keys.partition_keys(both.real.keys.partition("t", "root"), 1)[4:]
    first = await both.reserve("child", 7, ttl_ms=1_000)
    both.real.clock.now_ms += LATE_COMMIT_WINDOW_MS
    second = await both.reserve("child", 7, ttl_ms=1_000)
    both.real.clock.now_ms += 1_000
    await both.real.decide([op.ExpireDue("t", "root")])
    await both.flushed()
    before = await both.real.store.client.hkeys(late)

    assert await evict(both.real, "t", "root") is Evicted.EVICTED
    await both.real.store.client.unlink(late, lated)
    too_late = await both.commit(first.hold)

    assert too_late.reason is Reason.HOLD_EXPIRED
    assert len(before) == 1
    assert await both.real.store.client.hkeys(late) == before
    assert await both.real.store.client.zrange(lated, 0, -1) == before
    assert (await both.commit(second.hold)).late


async def test_a_tree_goes_only_while_nothing_of_it_is_open_or_on_its_way(both: Both) -> None:
    await start(both)
    hold = await both.reserve("child", 7)
    await both.flushed()
    assert await evict(both.real, "t", "root") is Evicted.HELD
    await both.commit(hold.hold)
    await both.flushed()
    trees = TreeStore(both.real.store, both.real.keys)
    found = await trees.see([("t", "root")])
    await both.grant("child", 1)
    assert await trees.evict(found) == {("t", "root"): Evicted.CHANGED}
    name = both.real.keys.state(both.real.keys.partition("t", "root"), 1)
    await both.flushed()
    found = await trees.see([("t", "root")])
    await both.real.store.client.hset(name, "f", "1")
    assert await trees.evict(found) == {("t", "root"): Evicted.UNFLUSHED}


async def test_a_tree_that_goes_by_an_older_look_leaves_the_floor_where_it_is(both: Both) -> None:
    """Else what is not older than this one would do for a tree that went later."""
    older, later = names_in(both.real.keys, 0, 2)
    await both.account(older)
    await both.account(later)
    await both.flushed()
    trees = TreeStore(both.real.store, both.real.keys)
    seen = await trees.see([("t", older)])
    await both.grant(later, 1)
    await both.flushed()
    assert await evict(both.real, "t", later) is Evicted.EVICTED
    seq = await both.real.engine.current_seq(0)
    assert await trees.evict(seen) == {("t", older): Evicted.EVICTED}
    floor = await both.real.store.client.hget(both.real.keys.state(0, 1), COLD_FLOOR_FIELD)
    assert floor == str(seq).encode()


async def test_accounts_below_a_root_are_found_without_the_store(both: Both) -> None:
    await start(both)
    before = await stored(both.real, "t", "root")
    both.real.directory.forget("t", "child")
    await both.real.store.client.unlink(both.real.keys.whereabouts("t", "child"))
    await lose(both.real, ("t", "root"), ("t", "child"))
    assert (await both.real.engine.get_account("t", "child")).root == "root"
    assert await stored(both.real, "t", "root") == before
    both.real.directory.forget("t", "child")
    await lose(both.real, ("t", "root"))
    assert (await both.reserve("child", 1)).hold


async def test_an_unknown_account_is_asked_for_once(both: Both) -> None:
    await start(both)
    await lose(both.real, ("t", "ghost"))
    ledger = Between(both)
    bringing = hydrator(both, ledger)
    for _ in range(3):
        (outcome,) = (await bringing.bring([("t", "ghost")])).values()
        assert isinstance(outcome, Absent)
    assert len(ledger.reads) == 1
    assert (await both.reserve("ghost", 1)).reason is Reason.ACCOUNT_NOT_FOUND
    await both.account("ghost")
    await both.grant("ghost", 5)
    assert (await both.reserve("ghost", 1)).hold


async def test_a_reading_from_before_the_floor_is_read_again(both: Both) -> None:
    """F55 and F56: between reading and installing, the tree comes back, changes and goes again."""
    await start(both)
    await evict(both.real, "t", "root")

    async def come_and_go() -> None:
        await both.grant("child", 1_000)
        await both.flushed()
        assert await evict(both.real, "t", "root") is Evicted.EVICTED

    ledger = Between(both, come_and_go)
    (outcome,) = (await hydrator(both, ledger).bring([("t", "root")])).values()
    assert outcome == Brought("root")
    assert len(ledger.reads) == 2
    assert (await both.buckets("child")).available == 1_023


async def test_a_tree_that_came_back_meanwhile_is_not_replaced(both: Both) -> None:
    """F55: two processes bring the same tree, and one is used before the other installs it."""
    await start(both)
    await evict(both.real, "t", "root")

    async def use() -> None:
        await both.grant("child", 1_000)

    (outcome,) = (await hydrator(both, Between(both, use)).bring([("t", "root")])).values()
    assert outcome == Brought("root")
    assert (await both.buckets("child")).available == 1_023


async def test_the_check_can_say_no(both: Both) -> None:
    """Without the floor, the same stale reading would take the grant back: the negative control."""
    await start(both)
    await evict(both.real, "t", "root")
    partition = both.real.keys.partition("t", "root")
    state = both.real.keys.state(partition, 1)

    async def come_and_go_unseen() -> None:
        await both.grant("child", 1_000)
        await both.flushed()
        assert await evict(both.real, "t", "root") is Evicted.EVICTED
        await both.real.store.client.hset(state, COLD_FLOOR_FIELD, "1")

    await hydrator(both, Between(both, come_and_go_unseen)).bring([("t", "root")])
    assert (await both.buckets("child")).available == 23


@pytest.mark.parametrize("came_back", [False, True])
async def test_a_tree_that_somebody_deletes_is_fenced(both: Both, came_back: bool) -> None:
    """F12: not brought back in silence, and not made anew; nor is one that had come back before."""
    await start(both)
    if came_back:
        assert await evict(both.real, "t", "root") is Evicted.EVICTED
        assert (await both.buckets("child")).available == 23
    tree, _ = both.real.keys.tree_keys(both.real.keys.partition("t", "root"), 1, "t", "root")
    await both.real.store.client.delete(tree)
    found = [
        await both.reserve("child", 1),
        await both.do(op.GetBalance("t", "root")),
        await both.do(op.CreateAccount("t", "root", op.AccountTerms(), both.key())),
    ]
    assert [each.reason for each in found[:1] + found[2:]] == [Reason.FENCED] * 2
    await evict(both.real, "t", "other")
    await both.real.store.client.hset(
        both.real.keys.state(both.real.keys.partition("t", "root"), 1), COLD_FLOOR_FIELD, "1"
    )
    assert (await both.reserve("child", 1)).reason is Reason.FENCED


async def test_what_was_deleted_is_brought_back_when_somebody_asks(both: Both) -> None:
    await start(both)
    hold = await both.reserve("child", 7)
    before = await stored(both.real, "t", "root")
    partition = both.real.keys.partition("t", "root")
    await both.real.store.client.delete(both.real.keys.tree_keys(partition, 1, "t", "root")[0])
    seq = await both.real.engine.current_seq(partition)
    bringing = hydrator(both, Between(both))
    assert await bringing.restore(("t", "root"), seq + 1) is Installed.STALE
    await both.flushed()
    assert await bringing.restore(("t", "root"), seq) is Installed.INSTALLED
    assert await stored(both.real, "t", "root") == before
    assert await bringing.restore(("t", "root"), seq) is Installed.PRESENT
    assert await index_of(both.real).open_holds() == 1
    assert (await both.commit(hold.hold)).applied.seq


async def test_while_the_ledger_is_away_only_cold_trees_are(both: Both) -> None:
    await start(both)
    await both.account("warm")
    await both.flushed()
    await evict(both.real, "t", "root")
    await both.ledger.close()
    answer = await both.reserve("child", 1)
    assert isinstance(answer, HoldfastError)
    assert answer.reason is Reason.LEDGER_UNAVAILABLE
    assert isinstance(await both.do(op.GetBalance("t", "warm")), rp.BalanceReply)


async def test_a_herd_reads_each_tree_once(both: Both) -> None:
    """F54: many ask for the same trees at once."""
    names = [("t", f"a{number}") for number in range(40)]
    for _, name in names:
        await both.account(name)
    await both.flushed()
    await lose(both.real, *names)
    ledger = Between(both)
    bringing = hydrator(both, ledger)
    answers = await asyncio.gather(*(bringing.bring(names[n % 7 :]) for n in range(50)))
    assert all(isinstance(each, Brought) for answer in answers for each in answer.values())
    assert sum(map(len, ledger.reads)) == len(names)


async def test_who_does_not_fit_is_told_to_come_back(both: Both) -> None:
    names = [("t", f"a{number}") for number in range(10)]
    for _, name in names:
        await both.account(name)
    await both.flushed()
    await lose(both.real, *names)
    answers = await hydrator(both, Between(both), waiting=4).bring(names)
    refused = [each for each in answers.values() if isinstance(each, HoldfastError)]
    assert len(refused) == 6
    assert {each.reason for each in refused} == {Reason.OVERLOADED}
