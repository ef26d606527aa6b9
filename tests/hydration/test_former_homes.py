"""What a partition had before it was rebuilt is kept for a while, and then removed."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast_server import failpoint
from holdfast_server.control import former_homes
from holdfast_server.domain.bounds import FORMER_HOME_MS
from holdfast_server.engine import former_keys
from holdfast_server.engine.former_keys import FormerKeys
from tests.support.both import PARTITIONS, Both
from tests.support.former import (
    Later,
    fill,
    given_up_at,
    homes,
    rebuilt_twice,
    remove,
    remover_of,
)


async def test_former_keys_go_when_their_time_has_come(
    both: Both, migrated_postgres_url: str
) -> None:
    await rebuilt_twice(both, migrated_postgres_url)
    before = await homes(both)
    assert [set(before[each]) for each in range(4)] == [{1}, {1, 2, 3}, {1, 2}, {1}]
    clock = Later(given_up_at(migrated_postgres_url, 2) + FORMER_HOME_MS - 2)
    remover = remover_of(both, clock)

    await remove(remover)
    assert await homes(both) == before
    clock.now_ms = given_up_at(migrated_postgres_url, 3) + FORMER_HOME_MS - 2
    await remove(remover)
    assert [set(each) for each in (await homes(both)).values()] == [{1}, {2, 3}, {2}, {1}]
    clock.now_ms += 2
    await remove(remover)
    left = await homes(both)
    assert [set(each) for each in left.values()] == [{1}, {3}, {2}, {1}]
    for partition, home in enumerate((1, 3, 2, 1)):
        notes = {name for name in left[partition][home] if name.endswith(":rebuilt")}
        assert left[partition][home] - notes == before[partition][home]
    await fill(both)
    assert (await both.ledger.verify()).violations == ()


async def test_a_key_that_no_process_would_name_keeps_no_other(
    both: Both, migrated_postgres_url: str
) -> None:
    await rebuilt_twice(both, migrated_postgres_url)
    await both.real.store.client.set(b"{p001}:e1:\xff", "by hand")
    clock = Later(given_up_at(migrated_postgres_url, 3) + FORMER_HOME_MS)

    await remove(remover_of(both, clock))

    assert [set(each) for each in (await homes(both)).values()] == [{1}, {3}, {2}, {1}]


async def test_a_cleared_store_is_not_scanned_again(both: Both, migrated_postgres_url: str) -> None:
    await rebuilt_twice(both, migrated_postgres_url)
    clock = Later(given_up_at(migrated_postgres_url, 3) + FORMER_HOME_MS)

    async def scans() -> int:
        stats: Any = await both.real.store.client.info("commandstats")
        return int(stats.get("cmdstat_scan", {"calls": 0})["calls"])

    took = []
    for _ in range(3):
        begun = await scans()
        await remove(remover_of(both, clock))
        took.append(await scans() - begun)

    # One for each home, two times: the second finds nothing.
    assert took == [2, 2, 0]


async def test_whoever_dies_is_followed_by_another(
    both: Both, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In steps that are as small as can be, and with a batch in each."""
    monkeypatch.setattr(former_keys, "SCAN_KEYS", 4)
    monkeypatch.setattr(former_keys, "UNLINK_KEYS", 2)
    monkeypatch.setattr(former_homes, "STEPS_MAX", 3)
    await rebuilt_twice(both, migrated_postgres_url)
    clock = Later(given_up_at(migrated_postgres_url, 3) + FORMER_HOME_MS)
    monkeypatch.setattr(failpoint, "_points", failpoint.parse("former_homes.after_step=error:8"))

    with pytest.raises(failpoint.FailpointError):
        await remove(remover_of(both, clock))
    assert sum(map(len, (await homes(both)).values())) > PARTITIONS
    assert await remove(remover_of(both, clock)) > 1
    assert [set(each) for each in (await homes(both)).values()] == [{1}, {3}, {2}, {1}]


async def test_what_is_in_use_stays_whatever_the_ledger_says(
    both: Both, migrated_postgres_url: str
) -> None:
    """Not even a wrong list takes the present home, or a partition that is not in it."""
    await rebuilt_twice(both, migrated_postgres_url)
    before = await homes(both)
    former = FormerKeys(both.real.store, both.real.keys)

    for home in (1, 2, 3):
        wanted = {1: 3, 3: 9}
        cursor, _ = await former.remove_some("", 0, home, wanted)
        assert cursor == 0
    left = await homes(both)
    assert set(left[1]) == {3}
    assert {each: left[each] for each in (0, 2, 3)} == {each: before[each] for each in (0, 2, 3)}
