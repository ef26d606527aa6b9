"""Everything that lasts between operations: trees, holds that ended, keys, order, and time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.bounds import LATE_COMMIT_WINDOW_MS
from holdfast_server.domain.entry import EntryKind, transaction_id
from holdfast_server.domain.twin import accounts, due, grants
from holdfast_server.domain.twin.journal import Journal, Posting
from holdfast_server.domain.twin.state import AccountState, HoldLine, HoldRecord, Tree
from holdfast_server.errors import HoldfastError, Reason

EPOCH = 1


@dataclass(frozen=True, slots=True)
class Facts:
    """What an operation gets from outside its own content: what the engine adds on the way."""

    now_ms: int
    mode: op.Mode = op.Mode.ENFORCE
    #: The id of the hold or grant that the operation would create: 32 hexadecimal digits.
    new_id: str = ""
    offsets: accounts.Offsets = ()
    refund: grants.RefundPlan | None = None


@dataclass(slots=True)
class LateHold:
    """An expired hold that can still be committed."""

    account: str
    feature: str
    mode: op.Mode
    lines: list[HoldLine]
    until_ms: int
    #: Whether it counts as a request: its expiry gave that back unless something was burned.
    counted: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """How a hold ended."""

    state: rp.HoldState
    committed: str
    transaction_id: str


@dataclass(slots=True)
class Record:
    """What a key was used for, and the answer it got."""

    operation: op.Operation
    reply: rp.Reply


@dataclass(slots=True)
class Memory:
    """The whole state, as the scripts would have it."""

    partition_of: Callable[[str, str], int]
    trees: dict[tuple[str, str], Tree] = field(default_factory=dict)
    root_of: dict[tuple[str, str], str] = field(default_factory=dict)
    hold_account: dict[tuple[str, str], str] = field(default_factory=dict)
    late: dict[tuple[str, str], LateHold] = field(default_factory=dict)
    ended: dict[tuple[str, str], Ended] = field(default_factory=dict)
    records: dict[tuple[str, type, str], Record] = field(default_factory=dict)
    #: The credit type of every grant ever given, by tenant, account and id.
    given: dict[tuple[str, str, str], str] = field(default_factory=dict)
    seqs: dict[int, int] = field(default_factory=dict)
    #: Every posting ever made, with its partition and sequence number, in order.
    entries: list[tuple[int, int, Posting]] = field(default_factory=list)

    def tree_of(self, operation: op.Operation) -> Tree:
        account = getattr(operation, "account", "")
        if isinstance(operation, op.ExpireDue):
            account = operation.root
        if hold := getattr(operation, "hold", ""):
            account = self.hold_account.get((operation.tenant, hold), "")
        if isinstance(operation, op.CreateAccount) and operation.terms.parent:
            account = operation.terms.parent
        root = self.root_of.get((operation.tenant, account), account)
        return self.trees.get((operation.tenant, root)) or Tree(operation.tenant, root)

    def pass_time(self, tree: Tree, now_ms: int) -> None:
        """Ends what is due, each when it was due and as a transaction of its own.

        One end can make another due: what an expired hold gives back may belong to a grant that
        has expired since.
        """
        while (item := due.first_due(tree, now_ms)) is not None:
            if item.hold is not None:
                self._expire_hold(tree, item.hold)
            elif item.state is not None and item.grant is not None:
                self._change_grant(tree, item)

    def _expire_hold(self, tree: Tree, hold: HoldRecord) -> None:
        lines = [HoldLine(line.credit_type, line.held, [], line.captured) for line in hold.lines]
        self.late[tree.tenant, hold.hold] = LateHold(
            hold.account,
            hold.feature,
            hold.mode,
            lines,
            hold.expires_ms + LATE_COMMIT_WINDOW_MS,
            any(line.captured for line in hold.lines),
        )
        journal = Journal()
        due.expire_hold(journal, tree, hold)
        self.write(tree, journal, hold.expires_ms)

    def _change_grant(self, tree: Tree, item: due.Due) -> None:
        assert item.state is not None
        assert item.grant is not None
        grant, journal = item.grant, Journal()
        if item.member.startswith(b"e"):
            item.state.credit(item.credit_type).pending.remove(grant)
            due.start_grant(journal, item.state, item.credit_type, grant, EntryKind.GRANT_EFFECTIVE)
        else:
            due.expire_grant(journal, item.state, item.credit_type, grant)
        self.write(tree, journal, item.at_ms)

    def write(self, tree: Tree, journal: Journal, at_ms: int | None = None) -> rp.Applied:
        """Seals a journal and gives its postings their place in the partition's order.

        `at_ms` is when it happened, where that is not when it is noticed.
        """
        journal.seal(tree.accounts)
        for posting in journal.postings:
            posting.at_ms = at_ms
        partition = self.partition_of(tree.tenant, tree.root)
        first = self.seqs.get(partition, 0) + 1
        for seq, posting in enumerate(journal.postings, first):
            self.entries.append((partition, seq, posting))
            self.seqs[partition] = seq
        return rp.Applied(
            transaction_id(partition, EPOCH, first), partition, EPOCH, self.seqs[partition]
        )

    def known(self, tree: Tree, account: str) -> AccountState:
        if account not in tree.accounts:
            raise HoldfastError(
                Reason.ACCOUNT_NOT_FOUND, "no such account; create it first", account=account
            )
        return tree.accounts[account]
