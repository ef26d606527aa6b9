"""Epochs: the lives of a partition's hot state, one after another.

A recovery ends an epoch and begins the next. What was acknowledged in one is never confused with
what happens in another: transaction ids, watermarks and marks of what was acknowledged all name the
epoch beside the sequence number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a partition."""

    number: int
    #: The last sequence number before it.
    start_seq: int
    #: The epoch under whose name the keys lie: its own where the hot state began anew, an earlier
    #: one where what was there was kept.
    home: int


#: The epoch in which every partition begins.
FIRST = Epoch(1, 0, 1)


@dataclass(slots=True)
class Epochs:
    """What a process knows of every partition's epochs, as the ledger has them."""

    _known: dict[int, Sequence[Epoch]] = field(default_factory=dict)

    def current(self, partition: int) -> int:
        """The number of the newest epoch of a partition."""
        known = self._known.get(partition)
        return known[-1].number if known else FIRST.number

    def home(self, partition: int, epoch: int) -> int:
        """The epoch under whose name the keys of this one lie; itself where nothing is known."""
        for each in reversed(self._known.get(partition, ())):
            if each.number == epoch:
                return each.home
        return epoch

    def of(self, partition: int, seq: int, newest: int) -> int:
        """The epoch that a sequence number belongs to, which was seen in the epoch `newest`."""
        for each in reversed(self._known.get(partition, ())):
            if each.number <= newest and each.start_seq < seq:
                return each.number
        return newest

    def start(self, partition: int, epoch: int) -> int | None:
        """The last sequence number before an epoch; None where no such epoch is known. Of those
        that are older than all that are known, any number may be.
        """
        known = self._known.get(partition) or (FIRST,)
        if FIRST.number <= epoch < known[0].number:
            return 0
        return next((each.start_seq for each in known if each.number == epoch), None)

    def end(self, partition: int, epoch: int) -> int | None:
        """The last sequence number of an epoch; None while it is the newest that is known."""
        later = [each for each in self._known.get(partition, ()) if each.number > epoch]
        return later[0].start_seq if later else None

    def judge(self, partition: int, epoch: int, seq: int) -> Callable[[int, int], bool | None]:
        """Tells of an epoch and sequence number whether it was reached, where `epoch` is at `seq`.

        What an epoch that has ended has up to its end is in the ledger, and nothing else of it will
        ever be; None: not yet.
        """

        def reached(wanted: int, wanted_seq: int) -> bool | None:
            ended = self.end(partition, wanted)
            if ended is not None:
                return wanted_seq <= ended
            return True if wanted == epoch and wanted_seq <= seq else None

        return reached

    def begin(self, partition: int, epoch: Epoch) -> None:
        """Takes an epoch that is newer than all that are known; another one changes nothing."""
        known = self._known.get(partition, ())
        if not known or known[-1].number < epoch.number:
            self._known[partition] = [*known, epoch]

    def newest(self, count: int) -> dict[int, Sequence[Epoch]]:
        """The newest epochs of each partition, oldest first."""
        return {partition: known[-count:] for partition, known in self._known.items()}

    def learn(self, epochs: Mapping[int, Sequence[Epoch]]) -> None:
        """Takes what the ledger says, of each partition the oldest first."""
        self._known.update(epochs)


@dataclass(slots=True)
class Acknowledged:
    """The highest sequence number that this process acknowledged, per partition and epoch."""

    marks: dict[int, dict[int, int]] = field(default_factory=dict)

    def note(self, partition: int, epoch: int, seq: int) -> None:
        """An answer with this sequence number is about to be given."""
        marks = self.marks.get(partition)
        if marks is None:
            marks = self.marks[partition] = {}
        if seq > marks.get(epoch, 0):
            marks[epoch] = seq
