"""I2, I4, I13: what the hot store has is what the ledger adds up to; and drift is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from holdfast_server.background import background
from holdfast_server.control import auditor as auditor_module
from holdfast_server.control import reconcile
from holdfast_server.control.auditor import Auditor
from holdfast_server.control.reconcile import Comparison, Reconciler
from holdfast_server.domain import operation as op
from holdfast_server.domain.operation import Mode
from holdfast_server.engine import trees
from holdfast_server.engine.rows import pack_row, unpack_row
from holdfast_server.engine.scripts import constants
from holdfast_server.engine.trees import TreeReader
from holdfast_server.engine.watermark import Watermarks
from holdfast_server.telemetry.names import Alert, Audited
from holdfast_server.telemetry.recorder import Recorder
from tests.support.both import Both, both_stores
from tests.support.ledger import query, tamper
from tests.support.pair import START_MS
from tests.support.waiting import until

TREE = ("t", "shop")


@pytest.fixture
async def shop(both: Both) -> Both:
    """A tree in which all kinds of things have happened, and some holds are open."""
    await both.account("shop", overdraft_limits={"ai": 50})
    await both.account("till", parent="shop")
    await both.grant("shop", 1_000)
    await both.grant("till", 30, priority=-1)
    await both.grant("till", 40, expires_at_ms=START_MS + 5_000)
    await both.grant("till", 70, effective_at_ms=START_MS + 90_000)
    revoked = await both.grant("shop", 25)
    await both.do(op.Revoke("t", "shop", revoked, both.key(), durability=op.Durability.MEMORY))
    done = await both.reserve("till", 60)
    await both.commit(done.hold, 90)
    part = await both.reserve("till", 500)
    await both.commit(part.hold, 20, final=False)
    await both.reserve("shop", 1, ttl_ms=1_000)
    await both.reserve("shop", 1_500, fit=op.Fit.UP_TO)
    both.real.mode.now = Mode.SHADOW
    await both.reserve("till", 5_000)
    both.real.mode.now = Mode.ENFORCE
    both.real.clock.now_ms += 6_000
    await both.do(op.Burn("t", "shop", (op.Line("ai", 1),), both.key()))
    await both.flushed()
    return both


def reader_of(both: Both) -> TreeReader:
    return TreeReader(both.real.store, both.real.keys)


def reconciler_of(both: Both) -> Reconciler:
    real = both.real
    return Reconciler(reader_of(both), both.ledger, Watermarks(real.store, real.keys))


async def compared(both: Both, entries_max: int | None = None) -> Comparison:
    return await reconciler_of(both).compare(TREE, entries_max)


def found(comparison: Comparison) -> dict[str, tuple[int, int]]:
    """What differs, with both figures."""
    return {
        f"{each.figure.account} {each.figure.what}": (each.hot, each.ledger)
        for each in comparison.differences
    }


async def test_what_happened_is_what_there_is(shop: Both) -> None:
    comparison = await compared(shop)
    hot = await reader_of(shop).read(*TREE)

    assert comparison.differences == ()
    assert comparison.result is Audited.AGREES
    assert comparison.seq == hot.seq > 10
    names = {figure.name for figure in hot.figures or ()}
    assert names >= {"available", "held", "remaining", "open", "open holds", "version"}


async def test_it_compares_while_the_tree_changes(shop: Both) -> None:
    """Exactly at one sequence number: nothing that happens meanwhile is taken for drift."""
    for _ in range(10):
        hold = (await shop.reserve("till", 3)).hold
        comparison = await compared(shop)
        await shop.commit(hold, 2)
        assert comparison.result is Audited.AGREES, comparison.differences


async def change_account(
    both: Both, account: str, change: Callable[[list[Any], list[Any]], None]
) -> None:
    """Changes an account's row, and that of its first credit, by hand."""
    key = both.real.keys.tree_keys(both.real.keys.partition(*TREE), 1, *TREE)[0]
    place = int(constants()["A_FIRST_CREDIT"])
    state = unpack_row(await both.real.store.read("HGET", key, f"a{account}"))
    credit = unpack_row(state[place])
    change(state, credit)
    state[place] = pack_row(credit)
    await both.real.store.read("HSET", key, f"a{account}", pack_row(state))


def adds(name: str, amount: int) -> Callable[[list[Any], list[Any]], None]:
    """Adds to one value of a credit's row."""

    def change(_: list[Any], credit: list[Any]) -> None:
        credit[int(constants()[name]) - 1] += amount

    return change


async def test_a_bucket_changed_by_hand_is_drift(shop: Both) -> None:
    """Negative control: the buckets still add up, so that only the ledger can tell."""
    await change_account(shop, "shop", adds("C_BURNED", -1))
    await change_account(shop, "shop", adds("C_EXPIRED", 1))

    comparison = await compared(shop)

    assert comparison.result is Audited.DRIFTS
    assert set(found(comparison)) == {"shop burned", "shop expired"}
    assert all(abs(hot - ledger) == 1 for hot, ledger in found(comparison).values())
    assert found(await compared(shop, 1)) == found(comparison)


async def test_buckets_that_contradict_each_other_are_drift(shop: Both) -> None:
    """I2 and I4 within the hot store itself, whatever the ledger says."""
    await change_account(shop, "till", adds("C_HELD", 4))

    assert set(found(await compared(shop))) == {
        "till held",
        "till sum of buckets sources",
        "till sum of holds held",
    }


async def test_a_grant_changed_by_hand_is_drift(shop: Both) -> None:
    def change(_: list[Any], credit: list[Any]) -> None:
        place = int(constants()["C_FIRST_GRANT"]) - 1
        grant = unpack_row(credit[place])
        grant[int(constants()["G_HELD"]) - 1] += 5
        credit[place] = pack_row(grant)

    await change_account(shop, "shop", change)

    (what,) = found(await compared(shop))
    assert what.startswith("shop grant ")
    assert what.endswith(" held")
    # The newest entry of a credit does not say what is left of each grant.
    assert found(await compared(shop, 1)) == {}


async def test_a_hold_that_is_gone_is_drift(shop: Both) -> None:
    key = shop.real.keys.tree_keys(shop.real.keys.partition(*TREE), 1, *TREE)[0]
    fields = await shop.real.store.read("HKEYS", key)
    hold = next(field for field in fields if field[:1] == b"h")
    await shop.real.store.read("HDEL", key, hold)

    names = set(found(await compared(shop)))

    assert {name.rpartition(" ")[2] for name in names} == {"open", "held"}
    assert any(hold[1:].hex() in name for name in names)


async def test_an_account_that_is_gone_is_drift(shop: Both) -> None:
    key = shop.real.keys.tree_keys(shop.real.keys.partition(*TREE), 1, *TREE)[0]
    await shop.real.store.read("HDEL", key, "atill")

    differing = found(await compared(shop))

    assert differing["till version"][0] == 0 < differing["till version"][1]
    assert differing["till granted"][0] == 0 < differing["till granted"][1]


@pytest.mark.parametrize("row", [b"", b"\xc1", b"\x01", b"\x93\x01"])
async def test_a_row_that_cannot_be_read_is_drift(shop: Both, row: bytes) -> None:
    key = shop.real.keys.tree_keys(shop.real.keys.partition(*TREE), 1, *TREE)[0]
    await shop.real.store.read("HSET", key, "atill", row)

    assert found(await compared(shop))[" tree unreadable"] == (1, 0)


async def test_a_missing_row_of_the_ledger_is_drift(shop: Both, migrated_postgres_url: str) -> None:
    tamper(migrated_postgres_url, "DELETE FROM holdfast.entry WHERE kind = 8")

    assert {"shop available", "shop burned"} <= set(found(await compared(shop)))


async def test_a_hot_store_behind_the_ledger_is_drift(shop: Both) -> None:
    """F11, F65: what the ledger has and the hot store never heard of."""
    assert await reconciler_of(shop).compare_positions() == []
    partition = shop.real.keys.partition(*TREE)
    await shop.real.store.client.delete(shop.real.keys.state(partition, 1))

    (behind,) = await reconciler_of(shop).compare_positions()

    assert (behind.result, behind.partition) == (Audited.DRIFTS, partition)
    assert behind.differences[0].hot == 0 < behind.differences[0].ledger


async def test_a_ledger_that_does_not_come_is_no_drift(
    valkey_url: str, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "LEDGER_WAIT_SECONDS", 0.0)
    async with both_stores(valkey_url, migrated_postgres_url) as both:
        await both.account("shop")
        await both.flushed()
        query(migrated_postgres_url, "UPDATE holdfast.flush_cursor SET epoch = 9")
        await both.grant("shop", 10)

        assert (await compared(both)).result is Audited.BEHIND


async def test_a_tree_that_is_too_large_is_said_to_be(
    shop: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "TREE_FIELDS_MAX", 3)

    assert (await compared(shop)).result is Audited.TOO_LARGE


@dataclass
class Heard(Recorder):
    """What an auditor reports."""

    results: list[Audited] = field(default_factory=list)
    drifts: list[int] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    def audited(self, result: Audited) -> None:
        self.results.append(result)

    def drift(self, figures: int) -> None:
        self.drifts.append(figures)

    def alert(self, alert: Alert) -> None:
        self.alerts.append(alert)


def auditor_of(both: Both, heard: Heard) -> Auditor:
    return Auditor(reconciler_of(both), reader_of(both), both.ledger, heard, 50)


async def test_the_auditor_finds_drift_tells_once_and_sees_it_repaired(
    shop: Both, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    auditor = auditor_of(shop, heard)
    await auditor.look()
    assert set(heard.results) == {Audited.AGREES}
    assert heard.alerts == []

    await change_account(shop, "shop", adds("C_BURNED", -1))
    await change_account(shop, "shop", adds("C_EXPIRED", 1))
    for _ in range(3):
        await auditor.look()

    assert heard.alerts == [Alert.DRIFT]
    assert heard.drifts[-1] == 2
    (burned, expired) = await shop.ledger.list_findings()
    assert (burned.difference.figure.name, expired.difference.figure.name) == ("burned", "expired")
    assert burned.difference.hot == burned.difference.ledger - 1
    facts = [record.facts for record in caplog.records if hasattr(record, "facts")]
    assert {"partition", "version", "hot", "ledger"} <= facts[0].keys()

    await change_account(shop, "shop", adds("C_BURNED", 1))
    await change_account(shop, "shop", adds("C_EXPIRED", -1))
    await auditor.look()
    assert heard.drifts[-1] == 0


async def test_a_tree_that_was_deleted_is_found_by_what_happened_last(shop: Both) -> None:
    """F12: chance cannot find what is not there, but the ledger knows where something was."""
    partition = shop.real.keys.partition(*TREE)
    await shop.real.store.client.delete(shop.real.keys.tree_keys(partition, 1, *TREE)[0])
    heard = Heard()
    auditor = auditor_of(shop, heard)

    for _ in range(200):
        await auditor.look()
        if heard.alerts:
            break

    assert heard.alerts == [Alert.DRIFT]


async def test_the_auditor_survives_what_it_finds(
    shop: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditor_module, "LOOK_SECONDS", 0.0)
    heard = Heard()
    auditor = auditor_of(shop, heard)
    key = shop.real.keys.state(shop.real.keys.partition(*TREE), 1)
    await shop.real.store.read("HSET", key, "m", b"\xc1")
    async with background(auditor.run()):
        await until(lambda: len(heard.alerts) >= 2)
    assert set(heard.alerts) == {Alert.DRIFT}


async def test_where_nothing_happens_it_says_so(shop: Both) -> None:
    auditor = auditor_of(shop, Heard())

    assert [await auditor.look() for _ in range(3)] == [False, True, True]
    await shop.grant("shop", 1)
    await shop.flushed()
    assert not await auditor.look()
