"""A snapshot that does not follow from its entries is found, told, and removed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast_server.control import snapshot_audit
from holdfast_server.control.snapshot_audit import SnapshotAudit
from holdfast_server.domain.rebuild import SNAPSHOT_LAYOUT, take
from holdfast_server.telemetry.names import Alert, Snapshotted
from tests.hydration.snapshot_stage import Noting, Stage
from tests.support.ledger import query

Change = Any

BROKEN = {
    "state": "UPDATE holdfast.tree_snapshot SET state = state || '\\x20'",
    "digest": "UPDATE holdfast.tree_snapshot SET sha256 = sha256(sha256)",
}


async def audit(stage: Stage) -> Noting:
    """One look; answers what was told."""
    noting = Noting()
    assert not await SnapshotAudit(stage.both.ledger, noting).look()
    return noting


async def changed(stage: Stage, change: Change) -> None:
    """A snapshot with a right digest that says something else of its first account."""
    state = json.loads(take((await stage.read()).rebuilt).state)
    change(state[0][0])
    await stage.wrong(state=json.dumps(state, separators=(",", ":")).encode())


def richer(account: Any) -> None:
    """Another thousand credits."""
    buckets = account[5][0][2]
    buckets[0] += 1_000
    buckets[3] += 1_000


def unlimited(account: Any) -> None:
    """Nothing was counted under its limits."""
    for counter in account[6]:
        counter[0] = []


def elsewhere(account: Any) -> None:
    """Its zone had other rules."""
    account[3] = [[0, 7_200_000]]


async def test_a_right_one_stays(stage: Stage) -> None:
    noting = Noting()
    assert await SnapshotAudit(stage.both.ledger, noting).look()
    await stage.work()
    await stage.bring_back()
    told = await audit(stage)
    assert (told.results, told.alerts) == ([Snapshotted.AGREES], [])
    assert len(stage.kept()) == 1
    assert (await stage.both.ledger.verify()).ok
    assert len(stage.kept()) == 1


@pytest.mark.parametrize("change", [richer, unlimited])
async def test_a_wrong_one_is_told_and_removed(stage: Stage, change: Change) -> None:
    await stage.work()
    await changed(stage, change)
    (row,) = stage.kept()
    with pytest.raises(AssertionError):
        await stage.bring_back()
    told = await audit(stage)
    assert (told.results, told.alerts) == ([Snapshotted.WRONG], [Alert.DRIFT])
    assert stage.kept() == []
    (found,) = await stage.both.ledger.list_findings()
    assert (found.seq, found.difference.figure.what) == (row["seq"], "snapshot digest")
    assert found.difference.figure.account == "root"


@pytest.mark.parametrize("change", [richer, unlimited])
async def test_verify_tells_and_removes_it(stage: Stage, change: Change) -> None:
    await stage.work()
    await changed(stage, change)
    report = await stage.both.ledger.verify()
    assert [each.check for each in report.violations] == ["snapshot"]
    assert "t/root" in report.violations[0].message
    assert stage.kept() == []
    assert (await stage.both.ledger.verify()).ok


async def test_one_that_claims_to_go_further_is_found(stage: Stage) -> None:
    await stage.work()
    before = take((await stage.read()).rebuilt)
    await stage.work()
    await stage.wrong(state=before.state, entries=before.entries)
    assert (await audit(stage)).results == [Snapshotted.WRONG]
    await stage.wrong(seq=10_000)
    assert [each.check for each in (await stage.both.ledger.verify()).violations] == ["snapshot"]


async def test_one_of_other_rules_of_a_zone_goes_without_a_word(stage: Stage) -> None:
    await stage.work()
    for _ in range(2):
        await changed(stage, elsewhere)
        told = await audit(stage)
        assert (told.results, told.alerts) == ([Snapshotted.OUTDATED], [])
        assert stage.kept() == []
    await changed(stage, elsewhere)
    assert (await stage.both.ledger.verify()).ok
    assert stage.kept() == []


async def test_one_of_another_layout_is_not_judged(stage: Stage) -> None:
    await stage.work()
    await stage.wrong(layout=SNAPSHOT_LAYOUT + 1, state=b"whatever")
    assert (await audit(stage)).results == []
    assert (await stage.both.ledger.verify()).ok
    assert len(stage.kept()) == 1


async def test_one_of_very_many_entries_is_left_to_verify(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.work()
    await changed(stage, richer)
    monkeypatch.setattr(snapshot_audit, "AUDIT_ENTRIES_MAX", 10)
    assert await SnapshotAudit(stage.both.ledger, Noting()).look()
    assert not (await stage.both.ledger.verify()).ok


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
async def test_one_that_was_damaged_is_told(stage: Stage, change: Any) -> None:
    await stage.work()
    await stage.bring_back()
    query(stage.url, change)
    assert (await audit(stage)).results == [Snapshotted.WRONG]
    assert len(await stage.both.ledger.list_findings()) == 1
