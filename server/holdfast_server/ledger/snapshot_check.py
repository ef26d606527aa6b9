"""Whether the snapshots of a partition's trees follow from its entries, given in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from holdfast_server.domain.entry import Entry, EntryKind
from holdfast_server.domain.rebuild import SNAPSHOT_LAYOUT, Folding, Follows, Rebuilt, follows
from holdfast_server.domain.twin.state import Tree
from holdfast_server.domain.zones import offsets_of
from holdfast_server.ledger.histories import Name
from holdfast_server.ledger.snapshots import Kept


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a snapshot that does not say what its entries say."""

    kept: Kept
    verdict: Follows


class SnapshotCheck:
    """Folds the trees that have a snapshot, each as far as that goes. Others cost a look-up."""

    def __init__(self, kept: Iterable[Kept]) -> None:
        """Snapshots of other layouts are not judged here."""
        self._kept = {each.tree: each for each in kept if each.snapshot.layout == SNAPSHOT_LAYOUT}
        self._foldings = {tree: Folding(Rebuilt(Tree(*tree), offsets_of)) for tree in self._kept}
        self._tree_of = dict[Name, Name]()
        self._wrong = list[Judged]()

    def add(self, entry: Entry) -> None:
        """Takes the next entry of the partition."""
        if not self._foldings:
            return
        account = entry.tenant, entry.account
        if entry.kind is EntryKind.ACCOUNT:
            self._tree_of[account] = entry.tenant, str(entry.context.detail.get("root"))
        tree = self._tree_of.get(account)
        if tree is not None and tree in self._foldings:
            self._add(tree, entry)

    def finish(self) -> Iterator[Judged]:
        """Those that are not as they should be. One that was not reached has no such entry."""
        yield from self._wrong
        for tree in self._foldings:
            yield Judged(self._kept[tree], Follows.NO)

    def _add(self, tree: Name, entry: Entry) -> None:
        kept, folding = self._kept[tree], self._foldings[tree]
        folding.add([entry])
        if entry.seq < kept.snapshot.seq:
            return
        folding.finish()
        del self._foldings[tree]
        verdict = follows(kept.snapshot, kept.sha256, folding.state)
        if verdict is not Follows.YES:
            self._wrong.append(Judged(kept, verdict))
