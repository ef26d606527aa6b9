"""Idempotency keys are UUIDv7: unique, and carrying their time."""

from __future__ import annotations

import time
import uuid

from holdfast import new_key
from holdfast._keys import uuid7


def test_is_version_7_and_carries_its_millisecond() -> None:
    before_ms = time.time_ns() // 1_000_000
    key = uuid.UUID(new_key())
    after_ms = time.time_ns() // 1_000_000
    assert key.version == 7
    assert key.variant == uuid.RFC_4122
    assert before_ms <= key.int >> 80 <= after_ms


def test_matches_the_example_of_rfc_9562() -> None:
    # Appendix A.6: unix_ts_ms 0x017F22E279B0, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F.
    random = (0xCC3 << 64 | 0x18C4DC0C0C07398F).to_bytes(10)
    assert uuid7(0x017F22E279B0, random) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


def test_all_random_bits_survive() -> None:
    ones = uuid.UUID(uuid7(0, b"\xff" * 10)).int
    zeros = uuid.UUID(uuid7(0, b"\x00" * 10)).int
    assert (ones ^ zeros).bit_count() == 74


def test_thousands_differ_and_later_ones_sort_later() -> None:
    keys = {new_key() for _ in range(10_000)}
    assert len(keys) == 10_000
    assert uuid7(1_000, b"\xff" * 10) < uuid7(1_001, b"\x00" * 10)


def test_is_accepted_as_a_key_on_the_wire() -> None:
    assert len(new_key()) == 36
    assert new_key().isascii()
