"""Balance while the hot store is away: the ledger's figures over the whole path."""

from __future__ import annotations

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.reply import Buckets
from holdfast_server.errors import HoldfastError, Reason
from tests.support.both import Both


async def balances(
    both: Both, account: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[rp.BalanceReply, rp.BalanceReply]:
    """The live balance, and the one that is answered while no script can be run."""
    live = await both.do(op.GetBalance("t", account))
    await both.flushed()

    async def away(*_: object) -> object:
        raise HoldfastError(Reason.STORE_UNAVAILABLE, "away")

    with monkeypatch.context() as patched:
        patched.setattr(both.real.store, "call", away)
        stale = await both.do(op.GetBalance("t", account))
    return live, stale


def figures(balance: rp.BalanceReply) -> list[tuple[str, Buckets, int, int]]:
    return [
        (line.credit_type, line.buckets, line.spendable, line.version) for line in balance.credits
    ]


async def test_it_says_what_could_be_spent_over_the_whole_path(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    await both.account("top", overdraft_limits={"ai": 50})
    await both.account("team", parent="top", overdraft_limits={"video": 7})
    await both.account("user", parent="team")
    await both.grant("top", 100)
    await both.grant("team", 20)
    await both.reserve("user", 30)
    for account in ("top", "team", "user"):
        live, stale = await balances(both, account, monkeypatch)
        assert stale.stale
        assert not live.stale
        assert figures(stale) == figures(live)
        assert 0 < stale.as_of_ms <= live.as_of_ms
    assert figures(stale) == [("ai", Buckets(), 140, 0), ("video", Buckets(), 7, 0)]


async def test_an_account_without_credits_is_an_answer(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    await both.account("a")
    _, stale = await balances(both, "a", monkeypatch)
    assert (stale.account, stale.credits, stale.stale) == ("a", (), True)


@pytest.mark.parametrize("status", [op.AccountStatus.FROZEN, op.AccountStatus.CLOSED])
async def test_below_a_frozen_account_nothing_can_be_spent(
    both: Both, monkeypatch: pytest.MonkeyPatch, status: op.AccountStatus
) -> None:
    await both.account("top")
    await both.account("user", parent="top")
    await both.grant("user", 100)
    terms = op.AccountTerms(status=status)
    await both.do(op.UpdateAccount("t", "top", terms, frozenset({"status"}), both.key()))
    live, stale = await balances(both, "user", monkeypatch)
    assert figures(live) == figures(stale) == [("ai", Buckets(granted=100, available=100), 0, 1)]


async def test_who_is_unknown_to_the_ledger_gets_the_error_of_the_store(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    await both.account("a")

    async def away(*_: object) -> object:
        raise HoldfastError(Reason.STORE_UNAVAILABLE, "away")

    monkeypatch.setattr(both.real.store, "call", away)
    answer = await both.do(op.GetBalance("t", "nobody"))
    assert answer.reason is Reason.STORE_UNAVAILABLE
