"""Whether each entry goes on where the one before it of the same credits ended (I2, I10).

Postgres checks that the buckets of a row add up. That they are those of the row before, changed by
what the row says, no constraint can see; neither can it see a version that was left out. What
somebody did to the hot store by hand would be recorded without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import Any, Final

from holdfast_server.domain.packed import (
    AFTER,
    DELTA,
    FIRST_SEQ,
    MALFORMED,
    TENANT,
    VERSION,
    PackedEntry,
)
from holdfast_server.ledger.prepare import EXPLANATION_CHARACTERS_MAX

#: Credits that are remembered; when there are more, all are forgotten.
CREDITS_MAX: Final = 20_000


class Continuity:
    """Remembers where credits were. What it does not know, such as after a start, it believes; and
    an older version, which is read again after something has failed."""

    def __init__(self) -> None:
        #: By tenant, account and credit type: the version that comes next, and the buckets.
        self._known: dict[tuple[bytes, ...], tuple[int, Sequence[int]]] = {}

    def first_flaw(self, entries: Sequence[PackedEntry]) -> tuple[int, str] | None:
        """Where the first of these entries stands that is wrong, and why; None where all go on."""
        for place, entry in enumerate(entries):
            try:
                flaw = self._flaw(entry.fields)
            except MALFORMED as error:
                flaw = f"{type(error).__name__}: {error}"[:EXPLANATION_CHARACTERS_MAX]
            if flaw:
                return place, flaw
        return None

    def _flaw(self, fields: Sequence[Any]) -> str:
        credit, after = tuple(fields[TENANT:VERSION]), fields[AFTER:FIRST_SEQ]
        version = fields[VERSION]
        known = self._known.get(credit)
        if known is None:
            if len(self._known) >= CREDITS_MAX:
                self._known.clear()
        elif version > known[0]:
            return f"version {version} follows {known[0] - 1}"
        elif version == known[0] and list(map(add, known[1], fields[DELTA:AFTER])) != after:
            return f"buckets {known[1]} and change {fields[DELTA:AFTER]} do not give {after}"
        self._known[credit] = version + 1, after
        return ""
