"""How much of a list one answer has room for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Final, TypeVar

from google.protobuf.message import Message

#: Bytes of what is listed in one answer: a client takes 4 MiB unless it is told otherwise.
LISTED_BYTES_MAX: Final = 3 * 1_048_576

Item = TypeVar("Item")


def fitting(listed: Sequence[Message]) -> int:
    """How many of these fit in one answer; at least one, so that every page moves on."""
    sizes = accumulate(each.ByteSize() for each in listed)
    return max(sum(size <= LISTED_BYTES_MAX for size in sizes), min(1, len(listed)))


def last_of(found: Sequence[Item], count: int, limit: int) -> Item | None:
    """Behind which of those that were found the next page begins, where `count` of them fit and
    `limit` were asked for; None on the last page.
    """
    return None if count == len(found) < limit else found[count - 1]
