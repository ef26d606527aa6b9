"""Folds the trees of some snapshots from their first entries on, for ever: one that does not follow
from them is removed, and somebody is told.

Which is next is a matter of chance. Those that stand for very many entries are left to
`holdfast verify`, which reads all entries anyway.
"""

from __future__ import annotations

import logging
import secrets
from typing import Final, Protocol

from holdfast_server.control.hot_trees import Telling, tell_part
from holdfast_server.control.looking import keep_looking
from holdfast_server.domain.figures import Difference, Figure
from holdfast_server.domain.rebuild import SNAPSHOT_LAYOUT, Follows, Rebuilt, follows, take
from holdfast_server.domain.twin.state import Tree
from holdfast_server.domain.zones import offsets_of
from holdfast_server.ledger.records import Finding
from holdfast_server.ledger.snapshots import Kept
from holdfast_server.telemetry.names import Alert, Snapshotted
from holdfast_server.telemetry.recorder import Recorder

#: Entries that are folded for one snapshot.
AUDIT_ENTRIES_MAX: Final = 100_000
#: Pause between two snapshots, and where there are none.
PAUSE_SECONDS: Final = 60.0
IDLE_SECONDS: Final = 300.0
#: Bytes of a digest that a finding shows, as a number.
SHOWN_BYTES: Final = 6

_log = logging.getLogger(__name__)

_RESULTS: Final = {
    Follows.YES: Snapshotted.AGREES,
    Follows.NO: Snapshotted.WRONG,
    Follows.OUTDATED: Snapshotted.OUTDATED,
}


class AuditedSnapshots(Telling, Protocol):
    """Has snapshots, and entries."""

    async def snapshot_behind(self, behind: bytes, entries_max: int) -> Kept | None:
        """See `Snapshots.snapshot_behind`."""
        ...

    async def drop_snapshot(self, kept: Kept) -> bool:
        """See `Snapshots.drop_snapshot`."""
        ...

    async def note_findings(self, findings: list[Finding]) -> None:
        """See `Findings.note_findings`."""
        ...


class SnapshotAudit:
    """Looks at snapshots for as long as it runs. Any number may run."""

    def __init__(self, ledger: AuditedSnapshots, recorder: Recorder) -> None:
        self._ledger, self._recorder = ledger, recorder

    async def run(self) -> None:
        """Looks until cancelled."""
        await keep_looking(
            "audit of snapshots",
            self.look,
            pause_seconds=PAUSE_SECONDS,
            idle_seconds=IDLE_SECONDS,
        )

    async def look(self) -> bool:
        """Judges one snapshot; answers whether there was none. Raises LEDGER_UNAVAILABLE."""
        kept = await self._any()
        if kept is None:
            return True
        if kept.snapshot.layout == SNAPSHOT_LAYOUT:
            rebuilt = await self._folded(kept)
            verdict = follows(kept.snapshot, kept.sha256, rebuilt)
            self._recorder.snapshot(_RESULTS[verdict])
            if verdict is not Follows.YES and await self._ledger.drop_snapshot(kept):
                await self._tell(kept, rebuilt, verdict)
        return False

    async def _any(self) -> Kept | None:
        """The first behind any digest, or the first of all."""
        for behind in (secrets.token_bytes(32), bytes(32)):
            kept = await self._ledger.snapshot_behind(behind, AUDIT_ENTRIES_MAX)
            if kept is not None:
                return kept
        return None

    async def _folded(self, kept: Kept) -> Rebuilt:
        """What the entries say, as far as the snapshot goes, or as many as it may stand for."""
        rebuilt = Rebuilt(Tree(*kept.tree), offsets_of)
        while rebuilt.entries < AUDIT_ENTRIES_MAX:
            before = rebuilt.entries
            is_all = await tell_part(self._ledger, rebuilt, kept.snapshot.seq)
            if is_all or rebuilt.entries == before:
                break
        return rebuilt

    async def _tell(self, kept: Kept, rebuilt: Rebuilt, verdict: Follows) -> None:
        """An outdated one was right when it was taken: nobody needs to hear of it."""
        if verdict is Follows.OUTDATED:
            return
        self._recorder.alert(Alert.DRIFT)
        found = finding(kept, rebuilt)
        facts = {"tenant": found.tenant, "root": kept.snapshot.root, "seq": found.seq}
        _log.error("a snapshot does not follow from its entries", extra={"facts": facts})
        await self._ledger.note_findings([found])


def finding(kept: Kept, rebuilt: Rebuilt) -> Finding:
    """The first bytes of two digests, as numbers: that of the snapshot in the place of the hot
    store's figure, and that of what its entries give. Where only its digest is wrong, that one.
    """
    snapshot = kept.snapshot
    right = take(rebuilt).digest if rebuilt.entries else bytes(32)
    found = kept.sha256 if snapshot.digest == right else snapshot.digest
    figure = Figure(snapshot.root, "", "snapshot", "digest")
    difference = Difference(figure, _shown(found), _shown(right), snapshot.entries)
    return Finding(snapshot.partition, snapshot.epoch, snapshot.seq, snapshot.tenant, difference)


def _shown(digest: bytes) -> int:
    return int.from_bytes(digest[:SHOWN_BYTES], "big")
