"""A name is one account's, whichever trees are in the hot store and whoever asks at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.engine.cold import Brought, Name
from holdfast_server.engine.fences import Fences
from holdfast_server.engine.tree_store import Evicted
from holdfast_server.errors import HoldfastError, Reason
from tests.hydration.stage import Between, hydrator, start
from tests.support.both import Both
from tests.support.eviction import evict
from tests.support.pair import NothingCold
from tests.support.waiting import until


async def test_names_stay_taken(both: Both) -> None:
    await start(both)
    await both.account("other")
    await both.flushed()
    await evict(both.real, "t", "root")
    terms = op.AccountTerms(parent="other")
    below = await both.do(op.CreateAccount("t", "root", terms, both.key()))
    again = await both.do(op.CreateAccount("t", "root", op.AccountTerms(), both.key()))
    child = await both.do(op.CreateAccount("t", "child", terms, both.key()))
    assert [below.reason, again.reason, child.reason] == [Reason.ACCOUNT_ALREADY_EXISTS] * 3


async def test_a_name_is_given_once_whoever_asks_at_the_same_time(both: Both) -> None:
    """Whoever has claimed it may yet create it; only long after that it is somebody else's."""
    for root in ("one", "other"):
        await both.account(root)
    claiming = NothingCold(both.real.store, both.real.keys)
    for name in ("wanted", "forgotten"):
        await both.real.directory.claim("t", name, "one", claiming)
    other = op.AccountTerms(parent="other")

    taken = await both.do(op.CreateAccount("t", "wanted", other, both.key()))
    await both.account("wanted", parent="one")
    await both.real.store.client.pexpire(both.real.keys.claimed("t", "forgotten"), 1)
    await until(lambda: created(both, "forgotten", other))

    assert taken.reason is Reason.ACCOUNT_ALREADY_EXISTS
    assert (await both.real.engine.get_account("t", "wanted")).root == "one"
    assert (await both.real.engine.get_account("t", "forgotten")).root == "other"
    await both.flushed()


class Leaving:
    """A `Hydration` whose trees are there and leave at once."""

    def __init__(self, both: Both) -> None:
        self._both = both

    async def bring(self, names: Sequence[Name]) -> dict[Name, Brought]:
        outcomes = await hydrator(self._both, Between(self._both)).bring(names)
        for tenant, root in names:
            assert await evict(self._both.real, tenant, root) is Evicted.EVICTED
        return {name: each for name, each in outcomes.items() if isinstance(each, Brought)}


async def created(both: Both, name: str, terms: op.AccountTerms) -> bool:
    """Whether an account could be created."""
    answer = await both.do(op.CreateAccount("t", name, terms, both.key()))
    return not isinstance(answer, HoldfastError)


async def test_a_name_is_not_taken_from_a_tree_that_has_just_left(both: Both) -> None:
    await start(both)
    await both.account("other")
    await both.real.store.client.unlink(both.real.keys.claimed("t", "child"))
    await both.flushed()

    with pytest.raises(HoldfastError) as caught:
        await both.real.directory.claim("t", "child", "other", Leaving(both))

    assert caught.value.reason is Reason.LEDGER_UNAVAILABLE
    assert not await created(both, "child", op.AccountTerms(parent="other"))


async def test_no_name_is_claimed_in_a_store_that_may_not_say_who_has_it(both: Both) -> None:
    await start(both)
    real, claiming = both.real, NothingCold(both.real.store, both.real.keys)
    partition = real.keys.partition("t", "new")
    await Fences(real.store, real.keys).close({partition: real.keys.epoch(partition)})

    with pytest.raises(HoldfastError) as caught:
        await real.directory.claim("t", "new", "root", claiming)

    assert caught.value.reason is Reason.FENCED
    assert await real.store.client.exists(real.keys.whereabouts("t", "new")) == 0
