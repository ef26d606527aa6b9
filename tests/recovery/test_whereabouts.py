"""Accounts are found though the partition of their name has lost where their roots are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.errors import Reason
from holdfast_server.ledger.append import CursorsMoved
from holdfast_server.recovery.salvage import Salvage
from holdfast_server.recovery.verdict import Verdict
from tests.recovery.stage import Stage, Worker


def name_elsewhere(worker: Worker, account: str) -> tuple[str, int]:
    """A name that lies in another partition than the account, and in which."""
    home = worker.keys.partition("t", account)
    names = (f"below-{number}" for number in range(100))
    places = ((name, worker.keys.partition("t", name)) for name in names)
    return next((name, partition) for name, partition in places if partition != home)


async def create(worker: Worker, account: str, parent: str = "") -> Any:
    terms = op.AccountTerms(parent=parent)
    return await worker.do(op.CreateAccount("t", account, terms, worker.key()))


async def fund_below(worker: Worker) -> tuple[str, int]:
    """An account that can spend 100 credits of one above it; its name lies in another partition."""
    await worker.fund("ada")
    below, partition = name_elsewhere(worker, "ada")
    await create(worker, below, "ada")
    return below, partition


async def check_found(worker: Worker, below: str) -> None:
    """It is there, and cannot be created once more."""
    balance = await worker.do(op.GetBalance("t", below))
    assert [each.spendable for each in balance.credits] == [100]
    assert (await create(worker, below)).reason is Reason.ACCOUNT_ALREADY_EXISTS


@pytest.mark.parametrize("is_emptied", [True, False])
async def test_an_account_below_another_is_found_though_its_whereabouts_are_lost(
    stage: Stage, is_emptied: bool
) -> None:
    """They lie in the partition of its name, and no entry of that shows that they are gone."""
    worker = stage.worker()
    below, partition = await fund_below(worker)
    await stage.flush()
    with stage.client() as client:
        if is_emptied:
            client.flushall()
        else:
            # As a replica that lacks what was written last, and has all entries.
            assert client.unlink(worker.keys.whereabouts("t", below)) == 1
            stage.servers["a"].stop()
            stage.start("a")

    done = await stage.recover()
    other = stage.worker("other")
    await other.keeper.refresh()

    assert done[partition].verdict is Verdict.KEPT
    await check_found(other, below)


async def test_one_partition_begins_anew_when_the_ledger_knows_the_accounts_of_the_others(
    stage: Stage,
) -> None:
    """Where those of its names are, it does not know any more; and no flusher is at work."""
    worker, other = stage.worker(), stage.worker("other")
    below, partition = await fund_below(worker)

    done = await stage.recover(rebuild=[partition])
    await other.keeper.refresh()

    assert done[partition].verdict is Verdict.REBUILT
    await check_found(other, below)
    await stage.flush()
    assert (await stage.ledger.verify()).violations == ()


async def test_a_flusher_may_be_at_work_meanwhile(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has recorded needs nobody else."""
    worker = stage.worker()
    await worker.fund("ada")
    seen = await worker.engine.current_seq(worker.keys.partition("t", "ada"))
    ledger, catch_up = stage.ledger, Salvage.catch_up

    async def overtaken(salvage: Salvage, wanted: Mapping[int, int]) -> None:
        await catch_up(salvage, wanted)
        raise CursorsMoved("a flusher is at work")

    monkeypatch.setattr(Salvage, "catch_up", overtaken)
    _, partition = name_elsewhere(worker, "ada")
    done = await stage.recover(rebuild=[partition])

    assert done[partition].armed
    assert (await ledger.flushed())[worker.keys.partition("t", "ada")][1] == seen


async def test_that_an_account_was_absent_is_not_remembered_beyond_the_epoch(stage: Stage) -> None:
    """What it was created with since is in the partition no more."""
    worker, other = stage.worker(), stage.worker("other")
    await worker.fund("ada")
    below, partition = name_elsewhere(worker, "ada")
    await stage.recover(rebuild=[partition])
    await other.keeper.refresh()
    unknown = await other.do(op.GetBalance("t", below))
    await worker.keeper.refresh()
    await create(worker, below, "ada")
    await stage.flush()

    await stage.recover(rebuild=[partition])
    await other.keeper.refresh()

    assert unknown.reason is Reason.ACCOUNT_NOT_FOUND
    assert [each.spendable for each in (await other.do(op.GetBalance("t", below))).credits] == [100]
