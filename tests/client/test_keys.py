"""Idempotency keys are UUIDv7: unique, and carrying their time."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid

from holdfast import new_key
from holdfast._keys import tails, uuid7

#: More than are prepared at a time.
KEYS = 10_000
#: A process that makes a key, is forked, and prints keys that both make then.
FORKED = """
import os
from holdfast import new_key

new_key()
reading, writing = os.pipe()
child = os.fork()
keys = "".join(new_key()[13:] + "\\n" for _ in range(50)).encode()
if not child:
    os.write(writing, keys)
    os._exit(0)
os.waitpid(child, 0)
print((keys + os.read(reading, len(keys))).decode())
"""


def key(now_ms: int, random: bytes) -> str:
    (tail,) = tails(random)
    return uuid7(now_ms, tail)


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
    assert key(0x017F22E279B0, random) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


def test_all_random_bits_survive() -> None:
    ones = uuid.UUID(key(0, b"\xff" * 10)).int
    zeros = uuid.UUID(key(0, b"\x00" * 10)).int
    assert (ones ^ zeros).bit_count() == 74


def test_each_tail_is_of_its_own_random_bytes() -> None:
    first, second = bytes(range(10)), bytes(range(240, 250))
    assert tails(first + second) == [*tails(first), *tails(second)]


def test_thousands_differ_and_later_ones_sort_later() -> None:
    keys = [new_key() for _ in range(KEYS)]
    assert len({each[13:] for each in keys}) == KEYS
    assert all(uuid.UUID(each).version == 7 for each in keys)
    assert key(1_000, b"\xff" * 10) < key(1_001, b"\x00" * 10)


def test_a_forked_process_makes_no_key_of_its_parent() -> None:
    """Not even in the same millisecond."""
    ran = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, check=True, text=True)
    assert len(ran.stdout.split()) == len(set(ran.stdout.split())) == 100


def test_is_accepted_as_a_key_on_the_wire() -> None:
    assert len(new_key()) == 36
    assert new_key().isascii()
