"""What happens between the reading of a tree and its installing: the process dies or fails, or
somebody else brings the tree, decides, and has it leave again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from holdfast_server import failpoint
from holdfast_server.control.hydration import Hydrator
from holdfast_server.engine.cold import Brought, Outcome
from holdfast_server.engine.keys import COLD_FLOOR_FIELD
from holdfast_server.engine.tree_store import Evicted, Installed, NewTree, TreeStore
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.recorder import Recorder
from tests.support.both import Both
from tests.support.eviction import evict
from tests.support.stored import stored

POINTS = ("hydrate.after_read", "hydrate.before_install")
ROOT = ("t", "root")

Step = Callable[[], Awaitable[None]]


class Interrupted(TreeStore):
    """A store before whose first installing something else happens."""

    def __init__(self, both: Both, then: Step) -> None:
        super().__init__(both.real.store, both.real.keys)
        self._then: Step | None = then
        self.answers: list[Installed] = []

    async def install(self, trees: Sequence[NewTree]) -> dict[tuple[str, str], Installed]:
        then, self._then = self._then, None
        if then is not None:
            await then()
        installed = await super().install(trees)
        self.answers += installed.values()
        return installed


async def start(both: Both) -> None:
    """A tree that has left the store."""
    await both.account("root")
    await both.account("child", parent="root")
    await both.grant("root", 100)
    await both.grant("child", 23)
    await both.flushed()
    assert await evict(both.real, *ROOT) is Evicted.EVICTED


async def bring(both: Both, trees: TreeStore | None = None) -> Outcome:
    """What becomes of the tree in another process, so to speak."""
    store = trees or TreeStore(both.real.store, both.real.keys)
    return (await Hydrator(both.ledger, store, Recorder()).bring([ROOT]))[ROOT]


async def keys_of_tree(both: Both) -> int:
    """How many keys there are of it, and whether it must be there."""
    partition = both.real.keys.partition(*ROOT)
    hot, number = both.real.keys.hot(partition, 1, *ROOT)
    client: Any = both.real.store.client
    keys = both.real.keys.tree_keys(partition, 1, *ROOT)
    return int(await client.exists(*keys)) + int(await client.sismember(hot, str(number)))


def bring_and_die(valkey_url: str, postgres_url: str, point: str) -> int:
    """The exit status of a process that brings the tree."""
    command = [sys.executable, "-m", "tests.hydration.bring_process", valkey_url, postgres_url]
    variables = os.environ | {"HOLDFAST_ENV": "test", "HOLDFAST_FAILPOINTS": f"{point}=kill"}
    return subprocess.run([*command, "root"], env=variables, check=False).returncode


@pytest.mark.faults
@pytest.mark.parametrize("point", POINTS)
async def test_a_process_that_dies_leaves_nothing_of_a_tree(
    both: Both, valkey_url: str, migrated_postgres_url: str, point: str
) -> None:
    """What it had read is gone with it; whoever comes next reads again, what came since too."""
    await start(both)
    died = await asyncio.to_thread(bring_and_die, valkey_url, migrated_postgres_url, point)
    assert died == -signal.SIGKILL
    assert await keys_of_tree(both) == 0
    await both.grant("child", 1_000)
    whole = await stored(both.real, *ROOT)
    await both.flushed()
    assert await evict(both.real, *ROOT) is Evicted.EVICTED
    assert await bring(both) == Brought("root")
    assert await stored(both.real, *ROOT) == whole
    assert (await both.buckets("child")).available == 1_023


@pytest.mark.parametrize("point", POINTS)
async def test_a_failure_is_an_answer_and_is_over(
    both: Both, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Everybody who waits for the name hears of it, and the next one begins anew."""
    await start(both)
    trees = TreeStore(both.real.store, both.real.keys)
    bringing = Hydrator(both.ledger, trees, Recorder())
    monkeypatch.setattr(failpoint, "_points", failpoint.parse(f"{point}=error"))
    answers = await asyncio.gather(*(bringing.bring([ROOT]) for _ in range(3)))
    found = [answer[ROOT] for answer in answers]
    assert all(isinstance(each, HoldfastError) for each in found)
    assert {each.reason for each in found if isinstance(each, HoldfastError)} == {Reason.INTERNAL}
    assert await keys_of_tree(both) == 0
    assert await bringing.bring([ROOT]) == {ROOT: Brought("root")}
    assert (await both.buckets("child")).available == 23


async def test_a_key_of_a_wrong_type_leaves_nothing_of_a_tree(both: Both) -> None:
    """F22, for each that is written along with it."""
    await start(both)
    client: Any = both.real.store.client
    for name in both.real.keys.partition_keys(both.real.keys.partition(*ROOT), 1)[3:]:
        saved = await client.dump(name)
        await client.delete(name)
        await client.set(name, "x")
        failed = await bring(both)
        assert isinstance(failed, HoldfastError)
        assert (failed.reason, await keys_of_tree(both)) == (Reason.INTERNAL, 0), name
        await client.delete(name)
        if saved:
            await client.restore(name, 0, saved)
    assert await bring(both) == Brought("root")


async def test_what_came_and_went_before_it_is_installed_is_read_again(both: Both) -> None:
    """F55: the floor was raised by an eviction after the reading."""
    await start(both)
    trees = Interrupted(both, lambda: come_and_go(both))
    assert await bring(both, trees) == Brought("root")
    assert trees.answers == [Installed.STALE, Installed.INSTALLED]
    assert (await both.buckets("child")).available == 1_023


async def test_what_was_used_before_it_is_installed_stays(both: Both) -> None:
    """F55: a decision on the tree that another process brought, and that no ledger has yet."""
    await start(both)

    async def use() -> None:
        assert (await both.reserve("child", 3)).hold

    trees = Interrupted(both, use)
    assert await bring(both, trees) == Brought("root")
    assert trees.answers == [Installed.PRESENT]
    buckets = await both.buckets("child")
    assert (buckets.available, buckets.held) == (20, 3)


async def test_the_check_can_say_no(both: Both) -> None:
    """Without the floor the same reading would take the grant back: the negative control."""
    await start(both)
    partition = both.real.keys.partition(*ROOT)

    async def come_and_go_unseen() -> None:
        await come_and_go(both)
        state = both.real.keys.state(partition, 1)
        await both.real.store.client.hset(state, COLD_FLOOR_FIELD, "1")

    trees = Interrupted(both, come_and_go_unseen)
    assert await bring(both, trees) == Brought("root")
    assert trees.answers == [Installed.INSTALLED]
    assert (await both.buckets("child")).available == 23


async def come_and_go(both: Both) -> None:
    """Another process brings the tree, which changes and leaves again."""
    await both.grant("child", 1_000)
    await both.flushed()
    assert await evict(both.real, *ROOT) is Evicted.EVICTED
