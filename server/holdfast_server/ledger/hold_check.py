"""The life of holds, as entries tell it: placed once, ended once, and what is held is what they
hold (I4, I6). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from holdfast_server.domain.entry import Entry, EntryKind

#: Kinds that only an open hold can have. Use that was booked late names a hold that has ended.
_OF_OPEN_HOLDS: Final = frozenset(
    {EntryKind.COMMIT, EntryKind.RELEASE, EntryKind.HOLD_EXPIRED, EntryKind.EXTEND}
)

#: Tenant, account and credit type.
Place = tuple[str, str, str]


class HoldCheck:
    """Takes the entries of one partition in order. Holds that have ended are not remembered."""

    def __init__(self) -> None:
        #: What each open hold holds, and the transaction that placed it.
        self._open: dict[str, tuple[int, Counter[Place]]] = {}
        #: The hold that the transaction of now has ended, and that transaction.
        self._ending: tuple[int, str] | None = None

    def add(self, entry: Entry) -> Iterator[str]:
        """What is wrong with holds once this entry is there."""
        yield from self._settle(entry.first_seq)
        if not entry.hold:
            return
        known = self._open.get(entry.hold)
        if entry.kind is EntryKind.HOLD:
            if known and known[0] != entry.first_seq:
                yield f"the hold {entry.hold} is placed again while it is open"
            known = known or (entry.first_seq, Counter())
            self._open[entry.hold] = known
        elif known is None and (entry.kind in _OF_OPEN_HOLDS or entry.delta.held):
            yield f"{entry.kind.name} is of the hold {entry.hold}, which is not open"
        if known:
            known[1][entry.tenant, entry.account, entry.credit_type] += entry.delta.held
        if entry.ends_hold and known:
            self._ending = entry.first_seq, entry.hold

    def finish(self) -> Iterator[str]:
        """What is wrong once there are no more entries."""
        yield from self._settle(0)

    def held(self) -> Counter[Place]:
        """What all open holds hold together."""
        total = Counter[Place]()
        for _, holds in self._open.values():
            total.update(holds)
        return total

    def _settle(self, first_seq: int) -> Iterator[str]:
        """Closes a hold behind the last entry of the transaction that ended it."""
        if self._ending is None or self._ending[0] == first_seq:
            return
        _, hold = self._ending
        self._ending = None
        left = {place: held for place, held in self._open.pop(hold)[1].items() if held}
        if left:
            yield f"the hold {hold} has ended and still holds {left}"
