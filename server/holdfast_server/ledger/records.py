"""What the ledger answers: entries as recorded, and what it keeps beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast_server.domain.entry import Entry
from holdfast_server.domain.figures import Difference
from holdfast_server.domain.operation import GrantTerms
from holdfast_server.domain.policy import Policy
from holdfast_server.domain.reply import Buckets, HoldState

#: Where a page of entries continues: event time in milliseconds, partition and sequence number of
#: the last entry of the page before.
EntryPlace = tuple[int, int, int]
#: Where a page of grants continues: time of granting in milliseconds, and grant id.
GrantPlace = tuple[int, str]


@dataclass(frozen=True, slots=True)
class RecordedEntry:
    """An entry as the ledger has it. Its `answer` is empty: the operation keeps that."""

    entry: Entry
    recorded_ms: int
    hash: bytes

    @property
    def place(self) -> EntryPlace:
        """Where this entry stands in the order of pages."""
        return self.entry.event_ms, self.entry.partition, self.entry.seq

    @property
    def before(self) -> Buckets:
        """The buckets before this entry."""
        after, delta = self.entry.after.as_tuple(), self.entry.delta.as_tuple()
        return Buckets(*(a - d for a, d in zip(after, delta, strict=True)))


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries are wanted, by event time: `from_ms` is inclusive, `to_ms` exclusive."""

    credit_type: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None


EVERY_ENTRY = EntryFilter()


@dataclass(frozen=True, slots=True)
class BalanceAt:
    """Buckets per credit type at an instant, with their versions.

    `as_of_ms` is the event time up to which the ledger was complete for the account's partition
    when this was read, but for what had ended by itself and was not booked yet; 0 where the account
    has no entries.
    """

    credits: Mapping[str, tuple[Buckets, int]]
    as_of_ms: int


@dataclass(frozen=True, slots=True)
class BalanceExplanation:
    """The newest entries of a balance, oldest first, between two states of its buckets."""

    opening: Buckets
    entries: tuple[RecordedEntry, ...]
    closing: Buckets


@dataclass(frozen=True, slots=True)
class RecordedGrant:
    """A grant: its terms, and what became of it.

    `amount = remaining + held + burned + expired + revoked`. In `terms`, `effective_at_ms` is the
    actual instant, never 0.
    """

    grant_id: str
    account: str
    terms: GrantTerms
    issuer: str
    granted_at_ms: int
    transaction_id: str
    remaining: int = 0
    held: int = 0
    burned: int = 0
    expired: int = 0
    revoked: int = 0

    @property
    def place(self) -> GrantPlace:
        """Where this grant stands in the order of pages."""
        return self.granted_at_ms, self.grant_id


@dataclass(frozen=True, slots=True)
class RecordedOperation:
    """What was answered to a mutation under its idempotency key."""

    fingerprint: bytes
    answer: bytes
    partition: int
    epoch: int
    first_seq: int


@dataclass(frozen=True, slots=True)
class RecordedHold:
    """What became of a hold.

    `state` is OPEN until an entry ended it; `ended_by` is that entry's transaction, or empty. An
    expired hold is COMMITTED once a final Commit came late. `burned` is per credit type over all
    its entries, overage and late commits included. `partition`, `epoch` and `seq` are the place of
    its last entry.
    """

    hold: str
    account: str
    state: HoldState
    ended_by: str
    burned: Mapping[str, int]
    partition: int
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class BurnedTransaction:
    """What a Commit or Burn consumed and what was given back since, all of one instant.

    `burns` are the transaction's entries that burned, in order; `refunded` is what all its refunds
    gave back, per credit type. `grants` has the terms of every grant that was burned, `revoked`
    names those of them that were revoked, even where nothing was left to take. `debts` is what the
    hold that was committed had booked as debt, less what earlier Commits of it burned, per account
    and credit type. Complete up to `as_of_seq` of `epoch`.
    """

    account: str
    burns: tuple[RecordedEntry, ...]
    refunded: Mapping[str, int]
    grants: Mapping[str, GrantTerms]
    revoked: frozenset[str]
    debts: Mapping[tuple[str, str], int]
    partition: int
    epoch: int
    as_of_seq: int


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that does not hold. `check` is chain, sequence, version, conservation, hold, key,
    terms, cursor, checkpoint or snapshot.
    """

    check: str
    partition: int
    seq: int
    message: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result of a verification; `violations` holds the first hundred."""

    entries: int
    violations: tuple[Violation, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return not self.violations


@dataclass(frozen=True, slots=True)
class Finding:
    """A figure that was not the same in both stores when the partition was at `seq`."""

    partition: int
    epoch: int
    seq: int
    tenant: str
    difference: Difference
    #: Set by the ledger.
    found_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class CreditType:
    """A unit of account. `scale` is its number of decimal digits."""

    code: str
    display_name: str
    scale: int


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """One version of a policy as it was set. `version_before` counted until then; 0: none did."""

    policy: Policy
    version_before: int
    config_version: int


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that processes keep in memory, of one instant.

    `credit_types` is per tenant. `policies` holds every version that may still count, as
    `domain.policy.PolicySet` takes them.
    """

    version: int
    credit_types: Mapping[str, tuple[CreditType, ...]]
    policies: tuple[Policy, ...]


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """What one process says of itself. `role` is "worker", "flusher" or "sweeper"."""

    process: str
    role: str
    version: str
    started_at_ms: int
    config_version: int
    killed: bool = False
    #: "file", "environment", "socket", or empty.
    killed_by: str = ""
    #: Set by the ledger.
    seen_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class DeploymentFacts:
    """What is fixed when a deployment first starts. `token_keys` maps key ids to secrets.

    The ledger's clock is asked along with it: a question of its own would make a process that
    starts while the ledger is away wait twice.
    """

    partitions: int
    created_at_ms: int
    token_keys: Mapping[int, bytes] = field(repr=False)
    active_token_key: int
    #: What the ledger's clock showed when it was asked; 0 in a copy.
    read_at_ms: int = field(default=0, compare=False)

    @property
    def name(self) -> str:
        """What tells this deployment from every other one."""
        return f"{self.partitions}/{self.created_at_ms}"
