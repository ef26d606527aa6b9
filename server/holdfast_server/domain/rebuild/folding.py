"""A fold whose entries come page by page."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_server.domain.entry import Entry
from holdfast_server.domain.rebuild.history import tell
from holdfast_server.domain.rebuild.state import Rebuilt


class Folding:
    """Goes on from a state. A page may end within a transaction, so its last one waits for the
    next page. Whatever makes no tree is kept as its fault, and nothing more is told.
    """

    def __init__(self, state: Rebuilt) -> None:
        self.state = state
        self.fault: Exception | None = None
        self._before = state.entries
        self._waiting: list[Entry] = []

    @property
    def told(self) -> int:
        """How many entries it was told."""
        return self.state.entries - self._before

    def add(self, entries: Sequence[Entry]) -> None:
        """The next entries of the tree, in the order of their numbers."""
        self.settle()
        self._waiting += entries

    def settle(self) -> None:
        """Tells all but the last transaction, of which more may come."""
        if not self._waiting:
            return
        last, first = self._waiting[-1].first_seq, len(self._waiting) - 1
        while first and self._waiting[first - 1].first_seq == last:
            first -= 1
        self._tell(self._waiting[:first])
        self._waiting = self._waiting[first:]

    def finish(self) -> None:
        """Tells the last as well, where nothing of it is missing."""
        self._tell(self._waiting)
        self._waiting = []

    def _tell(self, entries: Sequence[Entry]) -> None:
        if self.fault is None:
            try:
                tell(self.state, entries)
            except Exception as fault:
                # Whoever asks for the tree raises it, and for no other tree.
                self.fault = fault
