"""Faults that are ruled out by how things are built."""

from __future__ import annotations

from collections import Counter

import pytest

from holdfast_server.engine.keys import Keys
from holdfast_server.engine.scripts import load
from tests.support.cluster import SLOTS

#: Scripts by name, as the engine loads them.
SCRIPTS = ("apply", "claim_keys", "claim_account", "read_outbox", "publish_flushed")
MASTERS = 10
SKEW_MAX = 1.9


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_touch_only_what_they_declare(name: str) -> None:
    """F50: with its first line, and without this flag, the server refuses any other slot."""
    first_line = load(name).text.splitlines()[0]
    assert first_line.startswith("#!lua")
    assert "allow-cross-slot-keys" not in first_line


def test_partitions_are_spread_over_masters() -> None:
    """F53: no master of a cluster has more than twice its share of partitions."""
    keys = Keys(256)
    owners = Counter(
        key_slot(keys.state(partition, 1)) * MASTERS // SLOTS for partition in range(256)
    )
    assert len(owners) == MASTERS
    assert max(owners.values()) <= SKEW_MAX * 256 / MASTERS


def test_accounts_are_spread_over_partitions() -> None:
    """F53: names that differ in their last letter do not share a partition more than others."""
    keys, accounts = Keys(256), 25_600
    found = Counter(keys.partition("tenant", f"account-{number}") for number in range(accounts))
    assert len(found) == 256
    assert max(found.values()) <= SKEW_MAX * accounts / 256


def key_slot(key: str) -> int:
    """The slot of a key, by the rule of the cluster specification."""
    tag = key[key.index("{") + 1 : key.index("}")]
    remainder = 0
    for byte in tag.encode():
        remainder ^= byte << 8
        for _ in range(8):
            remainder = (remainder << 1) ^ (0x1021 if remainder & 0x8000 else 0)
        remainder &= 0xFFFF
    return remainder % SLOTS
