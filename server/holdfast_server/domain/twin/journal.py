"""Moves credits between buckets and remembers every move as a posting.

A credit never changes except through here, so a posting list is complete by construction, and each
one is checked for conservation before anything of the operation is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast_server.domain.bounds import AMOUNT_MAX
from holdfast_server.domain.entry import EntryKind, GrantPosting
from holdfast_server.domain.reply import BUCKETS, Buckets
from holdfast_server.domain.twin.state import AccountState, Grant

#: What a grant calls the bucket in which its credits lie.
PART_OF_BUCKET = {
    "available": "remaining",
    "held": "held",
    "burned": "burned",
    "expired": "expired",
    "revoked": "revoked",
}


@dataclass(slots=True)
class Posting:
    """All moves of one kind on one account and credit type within one operation."""

    kind: EntryKind
    account: str
    credit_type: str
    delta: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BUCKETS, 0))
    grants: dict[str, dict[str, int]] = field(default_factory=dict)
    #: Set when the posting is sealed.
    version: int = 0
    after: Buckets = field(default_factory=Buckets)
    #: When it happened by itself; None where somebody did it, in the moment it was written.
    at_ms: int | None = None

    def delta_figures(self) -> Buckets:
        """The changes as a value."""
        return Buckets(**self.delta)

    def grant_postings(self) -> tuple[GrantPosting, ...]:
        """The grants' changes as values, in the order in which they were touched."""
        return tuple(GrantPosting(grant_id, **parts) for grant_id, parts in self.grants.items())


class Journal:
    """The postings of one operation, in the order in which they were begun."""

    def __init__(self) -> None:
        self.postings: list[Posting] = []

    def posting(self, kind: EntryKind, account: str, credit_type: str) -> Posting:
        """The posting of that kind on that account and credit type."""
        for posting in self.postings:
            if (posting.kind, posting.account, posting.credit_type) == (kind, account, credit_type):
                return posting
        self.postings.append(Posting(kind, account, credit_type))
        return self.postings[-1]

    def transfer(
        self,
        kind: EntryKind,
        state: AccountState,
        credit_type: str,
        move: tuple[str, str],
        amount: int,
        grant: Grant | None,
    ) -> None:
        """Moves an amount between two buckets on the right side of the equation."""
        source, target = move
        posting = self.posting(kind, state.account, credit_type)
        credit = state.credit(credit_type)
        for bucket, change in ((source, -amount), (target, amount)):
            credit.buckets[bucket] += change
            posting.delta[bucket] += change
            if grant is not None:
                _change_grant(posting, grant, PART_OF_BUCKET[bucket], change)

    def book(
        self,
        kind: EntryKind,
        state: AccountState,
        credit_type: str,
        source: str,
        target: str,
        amount: int,
    ) -> None:
        """Adds an amount on both sides; a negative amount takes it back."""
        posting = self.posting(kind, state.account, credit_type)
        credit = state.credit(credit_type)
        for bucket in (source, target):
            credit.buckets[bucket] += amount
            posting.delta[bucket] += amount

    def attribute(
        self,
        kind: EntryKind,
        state: AccountState,
        credit_type: str,
        grant: Grant,
        part: str,
        amount: int,
    ) -> None:
        """Changes a part of a grant whose bucket was booked from the left side."""
        _change_grant(self.posting(kind, state.account, credit_type), grant, part, amount)

    def seal(self, accounts: dict[str, AccountState]) -> None:
        """Gives each posting its version and buckets after; asserts I1, I2 and I3."""
        for posting in self.postings:
            credit = accounts[posting.account].credit(posting.credit_type)
            credit.version += 1
            posting.version = credit.version
        self._after(accounts)
        for posting in self.postings:
            assert posting.delta_figures().balanced()
            assert posting.after.balanced()
            assert all(0 <= value <= AMOUNT_MAX for value in posting.after.as_tuple())

    def _after(self, accounts: dict[str, AccountState]) -> None:
        """Walks back from the present buckets, since several postings may touch one credit."""
        present: dict[tuple[str, str], dict[str, int]] = {}
        for posting in reversed(self.postings):
            place = (posting.account, posting.credit_type)
            buckets = present.setdefault(
                place, dict(accounts[posting.account].credit(posting.credit_type).buckets)
            )
            posting.after = Buckets(**buckets)
            for bucket, change in posting.delta.items():
                buckets[bucket] -= change


def _change_grant(posting: Posting, grant: Grant, part: str, change: int) -> None:
    parts = posting.grants.setdefault(grant.grant_id, {})
    parts[part] = parts.get(part, 0) + change
    if part == "remaining":
        grant.remaining += change
    elif part == "held":
        grant.held += change
