"""Facts of the deployment: from the ledger, from the copy while it is away, and from key files."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import cast

import pytest

from holdfast_server.app.deployment import COPY_FILE, learn_facts, page_key, read_token_keys
from holdfast_server.app.problem import Problem
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.records import DeploymentFacts
from holdfast_server.ledger.store import Ledger
from holdfast_server.settings import Settings, read

FACTS = DeploymentFacts(64, 1_700_000_000_000, {1: b"a" * 32, 2: b"b" * 32}, 2)


class OneLedger:
    """A ledger that has the facts, or is away."""

    away = False

    async def start_deployment(self, partitions: int) -> DeploymentFacts:
        if self.away:
            raise HoldfastError(Reason.LEDGER_UNAVAILABLE, "away")
        return FACTS


def settings(state_dir: Path, **variables: str) -> Settings:
    return read({"HOLDFAST_STATE_DIR": str(state_dir), **variables})


async def learned(chosen: Settings, ledger: OneLedger) -> DeploymentFacts:
    return await learn_facts(chosen, cast(Ledger, ledger))


async def test_copy_stands_in_for_a_ledger_that_is_away(tmp_path: Path) -> None:
    ledger = OneLedger()
    assert await learned(settings(tmp_path), ledger) == FACTS
    copy = tmp_path / COPY_FILE
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    ledger.away = True
    assert await learned(settings(tmp_path), ledger) == FACTS
    copy.write_text("{}")
    with pytest.raises(HoldfastError, match="LEDGER_UNAVAILABLE"):
        await learned(settings(tmp_path), ledger)


async def test_other_partitions_are_refused_unless_nobody_asked(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="64 partitions for good, not 256"):
        await learned(settings(tmp_path, HOLDFAST_PARTITIONS="256"), OneLedger())
    assert (await learned(settings(tmp_path), OneLedger())).partitions == 64


async def test_key_file_replaces_the_ledgers_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"active": 7, "keys": {"7": "ab" * 32}}))
    chosen = settings(tmp_path, HOLDFAST_TOKEN_KEYS_FILE=str(file))
    facts = await learned(chosen, OneLedger())
    assert (facts.token_keys, facts.active_token_key) == ({7: b"\xab" * 32}, 7)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"active": 1}',
        '{"active": 2, "keys": {"1": "' + "ab" * 32 + '"}}',
        '{"active": 1, "keys": {"1": "abcd"}}',
        '{"active": 1, "keys": {"1": "zz"}}',
    ],
)
def test_wrong_key_file_says_what_it_should_be(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(Problem, match="64 hexadecimal digits"):
        read_token_keys(file)


def test_page_tokens_outlive_a_new_signing_key() -> None:
    assert page_key(FACTS) == b"a" * 32
