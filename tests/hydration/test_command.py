"""`holdfast recovery account`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdfast_server.errors import Reason
from tests.support.both import Both
from tests.support.server import call, call_json, environment


async def test_a_removed_account_is_brought_back(
    both: Both, valkey_url: str, migrated_postgres_url: str, tmp_path: Path
) -> None:
    await both.account("root")
    await both.account("child", parent="root")
    await both.grant("child", 10)
    await both.flushed()
    partition = both.real.keys.partition("t", "root")
    await both.real.store.client.delete(both.real.keys.tree_keys(partition, 1, "t", "root")[0])
    assert (await both.reserve("child", 1)).reason is Reason.FENCED
    command = ["recovery", "account", "child", "--tenant", "t"]
    variables = environment(valkey_url, migrated_postgres_url, tmp_path)
    (back,) = await asyncio.to_thread(call_json, command, variables)
    assert back == {"tenant": "t", "root": "root"}
    assert (await both.reserve("child", 1)).hold
    again = await asyncio.to_thread(call, command, variables)
    assert again.returncode != 0
    assert "nothing is amiss" in again.stderr
