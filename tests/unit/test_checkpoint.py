"""Checkpoints as a chain: whatever is changed, left out or added is noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast_server.control.signing import KeyFileError, PublicKeys, SigningKey
from holdfast_server.domain.checkpoint import (
    FIRST_PREVIOUS,
    LINE_CHARACTERS_MAX,
    Checkpoint,
    Tip,
    judge,
    parse,
    read_lines,
)


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path / "key.pem")


@pytest.fixture
def keys(key: SigningKey, tmp_path: Path) -> PublicKeys:
    (tmp_path / "public.pem").write_text(key.public_pem)
    return PublicKeys.read([tmp_path / "public.pem"])


def tip(partition: int, seq: int) -> Tip:
    return Tip(partition, 1, seq, seq.to_bytes(32, "big"))


def chain(key: SigningKey, count: int = 4) -> list[Checkpoint]:
    """Checkpoints in which partition 0 moves each time."""
    made: list[Checkpoint] = []
    for number in range(1, count + 1):
        previous = made[-1].hash if made else FIRST_PREVIOUS
        tips = (tip(0, number * 10), tip(1, 5))
        made.append(
            Checkpoint(number, "4/1", 1_000 * number, previous, key.key_id, tips).signed(key.sign)
        )
    return made


def flaws(checkpoints: list[Checkpoint], keys: PublicKeys) -> list[tuple[int, str]]:
    return [(each.number, each.message) for each in judge(checkpoints, keys.flaw).flaws]


def test_what_was_made_is_well(key: SigningKey, keys: PublicKeys) -> None:
    checkpoints, damaged = read_lines(each.line for each in chain(key))
    anchors = judge(checkpoints, keys.flaw)

    assert damaged == []
    assert checkpoints == chain(key)
    assert anchors.flaws == ()
    assert (anchors.checkpoints, anchors.first, anchors.last) == (4, 1, 4)
    assert list(anchors.vouched[0]) == [10, 20, 30, 40]
    assert anchors.vouched[1] == {5: (tip(1, 5).hash, 1)}


def test_older_ones_may_be_elsewhere(key: SigningKey, keys: PublicKeys) -> None:
    assert flaws(chain(key)[2:], keys) == []


def test_any_changed_field_is_noticed(key: SigningKey, keys: PublicKeys) -> None:
    first, second, *rest = chain(key)
    changes = (
        replace(second, deployment="4/2"),
        replace(second, made_ms=7),
        replace(second, tips=(tip(0, 21),)),
        replace(second, previous=bytes(32)),
        replace(second, signature=first.signature),
    )
    for changed in changes:
        found = flaws([first, changed, *rest], keys)
        assert any("signature" in message for number, message in found if number == 2)
        assert any(number == 3 for number, _ in found)


def test_one_that_was_signed_anew_breaks_the_chain(key: SigningKey, keys: PublicKeys) -> None:
    """Whoever has the key can sign anything, but not take back what follows."""
    first, second, *rest = chain(key)
    forged = replace(second, tips=(tip(0, 15),)).signed(key.sign)

    assert flaws([first, forged, *rest], keys) == [
        (3, "it does not follow 2: one of the two was changed")
    ]


def test_missing_doubled_and_foreign_ones_are_noticed(key: SigningKey, keys: PublicKeys) -> None:
    first, second, third, fourth = chain(key)
    other = replace(second, made_ms=9).signed(key.sign)

    assert flaws([first, second, fourth], keys) == [(4, "it follows 2: those between are missing")]
    assert (2, "there are two with this number") in flaws([first, second, other, third], keys)
    unnumbered = replace(second, number=1).signed(key.sign)
    assert flaws([unnumbered], keys) == [(1, "the first checkpoint names one before it")]


def test_a_partition_that_goes_back_is_noticed(key: SigningKey, keys: PublicKeys) -> None:
    first, *_ = chain(key)

    def after(*tips: Tip) -> list[tuple[int, str]]:
        made = Checkpoint(2, "4/1", 9, first.hash, key.key_id, tips).signed(key.sign)
        return flaws([first, made], keys)

    assert after(tip(0, 9)) == [(2, "partition 0 went back from 10 to 9")]
    rewritten = tip(0, 10)._replace(hash=bytes(32))
    assert after(rewritten) == [(2, "partition 0 has another hash at 10 than before")]


def test_keys_are_told_apart_and_rotated(tmp_path: Path, key: SigningKey) -> None:
    first, *_ = chain(key)
    new = SigningKey.create(tmp_path / "new.pem")
    second = Checkpoint(2, "4/1", 9, first.hash, new.key_id, (tip(0, 11),)).signed(new.sign)
    both = tmp_path / "both.pem"
    both.write_text(key.public_pem + new.public_pem)

    assert flaws([first, second], PublicKeys.read([both])) == []
    both.write_text(new.public_pem)
    (flaw,) = flaws([first, second], PublicKeys.read([both]))
    assert flaw[0] == 1
    assert key.key_id in flaw[1]


def test_a_key_is_for_its_owner_only(tmp_path: Path, key: SigningKey) -> None:
    path = tmp_path / "key.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.read(path).key_id == key.key_id
    assert "PRIVATE" not in key.public_pem
    with pytest.raises(FileExistsError):
        SigningKey.create(path)


def test_files_that_hold_no_key_say_so(tmp_path: Path, key: SigningKey) -> None:
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    for read in (SigningKey.read, lambda path: PublicKeys.read([path])):
        for path in (nothing, tmp_path / "absent"):
            with pytest.raises(KeyFileError, match=path.name):
                read(path)
    with pytest.raises(KeyFileError, match="does not hold"):
        PublicKeys.read([tmp_path / "key.pem"])


def test_lines_that_are_none_are_noticed_and_torn_ones_forgiven(key: SigningKey) -> None:
    first, second, *_ = (each.line for each in chain(key))

    assert read_lines([first, second[:40], second, second]) == (chain(key)[:2], [])
    assert read_lines([first, second[:40], second[:9], second]) == (chain(key)[:2], [])
    assert len(read_lines([first, first[-40:], second[:40], second])[1]) == 1
    _, damaged = read_lines([first, second[:40]])
    assert len(damaged) == 1
    changes: list[dict[str, object]] = [{"layout": 9}, {"number": "2"}, {"key_id": []}]
    changes += [{"deployment": None}, {"tips": [[0, 1, "5", "00"]]}, {"made_ms": 1.5}]
    # No time that can be shown, and no texts that can.
    changes += [{"made_ms": 10**15}, {"made_ms": -1}, {"deployment": "\ud800"}, {"key_id": "\x1b["}]
    broken = [json.dumps(json.loads(first) | change) for change in changes]
    for line in ("{}", "[]", "null", "x" * (LINE_CHARACTERS_MAX + 1), "[" * 9_000, *broken):
        with pytest.raises(ValueError, match=r"checkpoint|layout|JSON|Expecting"):
            parse(line)
