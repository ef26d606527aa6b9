"""Checkpoints: what vouches outside of the database for how the ledger was.

A checkpoint says where partitions ended at a moment: their epoch, sequence number and chain hash.
It is signed, numbered, and names the hash of the checkpoint before, so that checkpoints are a chain
of their own. One line of JSON holds one checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

#: The version of the line, part of what is signed.
LAYOUT: Final = 1
#: The hash before the first checkpoint.
FIRST_PREVIOUS: Final = bytes(32)
#: Characters of a line: 4,096 partitions of about 100 characters each, and room.
LINE_CHARACTERS_MAX: Final = 1_048_576
#: The last time that can be written as people write it: the end of the year 9999.
MADE_MS_MAX: Final = 253_402_300_799_999


class Tip(NamedTuple):
    """Where a partition ended."""

    partition: int
    epoch: int
    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint. `deployment` names the ledger; `signature` is empty before it is signed."""

    number: int
    deployment: str
    made_ms: int
    #: The hash of the checkpoint before.
    previous: bytes
    #: Which key has signed: see `control.signing`.
    key_id: str
    tips: tuple[Tip, ...]
    signature: bytes = b""

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is over: everything but the signature itself."""
        fields = {
            "layout": LAYOUT,
            "number": self.number,
            "deployment": self.deployment,
            "made_ms": self.made_ms,
            "previous": self.previous.hex(),
            "key_id": self.key_id,
            "tips": [[*tip[:3], tip.hash.hex()] for tip in self.tips],
        }
        return _packed(fields).encode()

    @property
    def line(self) -> str:
        """The checkpoint as one line of JSON, without the end of the line."""
        fields = json.loads(self.signed_bytes)
        return _packed({**fields, "signature": self.signature.hex()})

    @property
    def hash(self) -> bytes:
        """What the next checkpoint names: SHA-256 of the line."""
        return hashlib.sha256(self.line.encode()).digest()

    def signed(self, sign: Callable[[bytes], bytes]) -> Checkpoint:
        """The same with its signature."""
        return dataclasses.replace(self, signature=sign(self.signed_bytes))


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something about checkpoint `number` that does not hold; 0 where it has no number."""

    number: int
    message: str


#: What checkpoints vouch for in one partition: the hash at some sequence numbers, and by which
#: checkpoint.
Vouched = Mapping[int, tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class Anchors:
    """What checkpoints vouch for in each partition, and what is wrong with them."""

    vouched: Mapping[int, Vouched]
    checkpoints: int
    #: Number and time of the first and the last one; 0 where there is none.
    first: int = 0
    last: int = 0
    last_made_ms: int = 0
    flaws: tuple[Flaw, ...] = ()


def parse(line: str) -> Checkpoint:
    """The checkpoint in a line. Raises ValueError for anything else."""
    if len(line) > LINE_CHARACTERS_MAX:
        raise ValueError("the line is longer than a checkpoint can be")
    try:
        fields: dict[str, Any] = json.loads(line)
        if fields.pop("layout") != LAYOUT:
            raise ValueError("not the layout that this version knows")
        tips = tuple(
            Tip(partition, epoch, seq, bytes.fromhex(digest))
            for partition, epoch, seq, digest in fields["tips"]
        )
        for name in ("previous", "signature"):
            fields[name] = bytes.fromhex(fields[name])
        return _of_its_kinds(Checkpoint(**{**fields, "tips": tips}))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no checkpoint: {type(error).__name__}") from error


def _of_its_kinds(found: Checkpoint) -> Checkpoint:
    """JSON can have anything in each place, also what cannot be shown to people."""
    numbers = (found.number, found.made_ms, *(number for tip in found.tips for number in tip[:3]))
    are_numbers = all(isinstance(number, int) for number in numbers)
    texts = (found.deployment, found.key_id)
    are_texts = all(isinstance(text, str) and text.isprintable() for text in texts)
    if not (are_numbers and are_texts and 0 <= found.made_ms <= MADE_MS_MAX):
        raise TypeError("a value is not of its kind")
    return found


def read_lines(lines: Iterable[str]) -> tuple[list[Checkpoint], list[Flaw]]:
    """Checkpoints by number, each once, and the lines that are none.

    The same line may be there more than once: what got no answer is sent again. So may beginnings
    of a line before the whole one: whoever wrote it was interrupted, or the disk was full.
    """
    texts = [text for line in lines if (text := line.strip())]
    found, flaws, following = dict[str, Checkpoint](), list[Flaw](), ""
    for text in reversed(texts):
        try:
            found[text], following = parse(text), text
        except ValueError as error:
            if not following.startswith(text):
                flaws.append(Flaw(0, f"a line is damaged: {error}"))
    return sorted(reversed(found.values()), key=lambda each: each.number), flaws


Verify = Callable[[Checkpoint], str]


def judge(checkpoints: Sequence[Checkpoint], verify: Verify) -> Anchors:
    """Whether these checkpoints, by number, are what was once made: signatures, order, chain.

    `verify` answers what is wrong with a signature, or an empty text.
    """
    flaws = [
        Flaw(each.number, message)
        for before, each in zip([None, *checkpoints[:-1]], checkpoints, strict=True)
        for message in (verify(each), *_out_of_order(before, each))
        if message
    ]
    tips: dict[int, dict[int, tuple[bytes, int]]] = {}
    for each in checkpoints:
        flaws += [Flaw(each.number, message) for message in _note_tips(tips, each)]
    ends = checkpoints[:1] and (checkpoints[0], checkpoints[-1])
    if not ends:
        return Anchors(tips, 0, flaws=tuple(flaws))
    first, last = ends
    counts = len(checkpoints), first.number, last.number, last.made_ms
    return Anchors(tips, *counts, flaws=tuple(flaws))


def _out_of_order(before: Checkpoint | None, each: Checkpoint) -> Iterator[str]:
    if before is None:
        if each.number == 1 and each.previous != FIRST_PREVIOUS:
            yield "the first checkpoint names one before it"
        return
    if each.deployment != before.deployment:
        yield f"it is of another ledger, {each.deployment}"
    if each.number == before.number:
        yield "there are two with this number"
    elif each.number > before.number + 1:
        yield f"it follows {before.number}: those between are missing"
    elif each.previous != before.hash:
        yield f"it does not follow {before.number}: one of the two was changed"


def _note_tips(
    known: dict[int, dict[int, tuple[bytes, int]]], checkpoint: Checkpoint
) -> Iterator[str]:
    for tip in checkpoint.tips:
        of = known.setdefault(tip.partition, {})
        newest = next(reversed(of), 0)
        if tip.seq < newest:
            yield f"partition {tip.partition} went back from {newest} to {tip.seq}"
        elif tip.seq in of and of[tip.seq][0] != tip.hash:
            yield f"partition {tip.partition} has another hash at {tip.seq} than before"
        of.setdefault(tip.seq, (tip.hash, checkpoint.number))


def _packed(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True)
