"""All trees and partitions together: dispatch, idempotency, order and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.bounds import HOLD_AGE_MS_MAX, LATE_COMMIT_WINDOW_MS
from holdfast_server.domain.entry import EntryKind, transaction_id
from holdfast_server.domain.twin import accounts, due, grants, limits, settle
from holdfast_server.domain.twin.draw import available, check_room, spendable
from holdfast_server.domain.twin.journal import Journal, Posting
from holdfast_server.domain.twin.reserve import Placed, place
from holdfast_server.domain.twin.state import AccountState, Draw, HoldLine, HoldRecord, Tree
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
class World:
    """The whole state, as the scripts would have it."""

    partition_of: Callable[[str, str], int]
    trees: dict[tuple[str, str], Tree] = field(default_factory=dict)
    root_of: dict[tuple[str, str], str] = field(default_factory=dict)
    hold_account: dict[tuple[str, str], str] = field(default_factory=dict)
    late: dict[tuple[str, str], LateHold] = field(default_factory=dict)
    ended: dict[tuple[str, str], Ended] = field(default_factory=dict)
    records: dict[tuple[str, type, str], Record] = field(default_factory=dict)
    seqs: dict[int, int] = field(default_factory=dict)
    #: Every posting ever made, with its partition and sequence number, in order.
    entries: list[tuple[int, int, Posting]] = field(default_factory=list)

    # -- one operation -------------------------------------------------------------------------

    def submit(self, operation: op.Operation, facts: Facts) -> rp.Reply:
        """Decides one operation. Raises `HoldfastError` where the engine answers one."""
        tree = self._tree_of(operation)
        self._pass_time(tree, facts.now_ms)
        key = getattr(operation, "key", "")
        place_of_key = (operation.tenant, type(operation), key)
        if key and place_of_key in self.records:
            return _replayed(self.records[place_of_key], operation)
        reply = _HANDLERS[type(operation)](self, tree, operation, facts)
        if key:
            self.records[place_of_key] = Record(operation, reply)
        return reply

    def _tree_of(self, operation: op.Operation) -> Tree:
        account = getattr(operation, "account", "")
        if isinstance(operation, op.ExpireDue):
            account = operation.root
        if hold := getattr(operation, "hold", ""):
            account = self.hold_account.get((operation.tenant, hold), "")
        if isinstance(operation, op.CreateAccount) and operation.terms.parent:
            account = operation.terms.parent
        root = self.root_of.get((operation.tenant, account), account)
        return self.trees.get((operation.tenant, root)) or Tree(operation.tenant, root)

    def _pass_time(self, tree: Tree, now_ms: int) -> None:
        """Ends what is due, each as a transaction of its own."""
        for item in due.due_now(tree, now_ms):
            if item.hold is not None:
                self._expire_hold(tree, item.hold, now_ms)
            elif item.state is not None and item.grant is not None:
                self._change_grant(tree, item, now_ms)

    def _expire_hold(self, tree: Tree, hold: HoldRecord, now_ms: int) -> None:
        lines = [HoldLine(line.credit_type, line.held, [], line.captured) for line in hold.lines]
        self.late[tree.tenant, hold.hold] = LateHold(
            hold.account, hold.feature, hold.mode, lines, hold.expires_ms + LATE_COMMIT_WINDOW_MS
        )
        journal = Journal()
        due.expire_hold(journal, tree, hold, now_ms)
        self._write(tree, journal)

    def _change_grant(self, tree: Tree, item: due.Due, now_ms: int) -> None:
        assert item.state is not None
        assert item.grant is not None
        grant = item.grant
        if item.member.startswith(b"e"):
            credit, journal = item.state.credit(item.credit_type), Journal()
            credit.pending.remove(grant)
            due.start_grant(journal, item.state, item.credit_type, grant, EntryKind.GRANT_EFFECTIVE)
            self._write(tree, journal)
        if grant.expired(now_ms) and grant.remaining > 0:
            journal = Journal()
            due.expire_grant(journal, item.state, item.credit_type, grant)
            self._write(tree, journal)

    def _write(self, tree: Tree, journal: Journal) -> rp.Applied:
        """Seals a journal and gives its postings their place in the partition's order."""
        journal.seal(tree.accounts)
        partition = self.partition_of(tree.tenant, tree.root)
        first = self.seqs.get(partition, 0) + 1
        for seq, posting in enumerate(journal.postings, first):
            self.entries.append((partition, seq, posting))
            self.seqs[partition] = seq
        return rp.Applied(
            transaction_id(partition, EPOCH, first), partition, EPOCH, self.seqs[partition]
        )

    # -- reserve and burn ----------------------------------------------------------------------

    def reserve(self, tree: Tree, operation: op.Reserve, facts: Facts) -> rp.Reply:
        """See `op.Reserve`."""
        self._known(tree, operation.account)
        journal = Journal()
        placed = place(journal, tree, operation, facts.mode, EntryKind.HOLD, facts.now_ms)
        if not isinstance(placed, Placed):
            return rp.ReserveReply(placed, rp.Applied())
        hold = HoldRecord(
            facts.new_id,
            operation.account,
            operation.feature,
            facts.mode,
            facts.now_ms,
            facts.now_ms + operation.ttl_ms,
            placed.lines,
            placed.counts,
        )
        tree.holds[hold.hold] = hold
        self.hold_account[tree.tenant, hold.hold] = operation.account
        state = tree.accounts[operation.account]
        state.open_holds += 1
        lines = tuple(_held_line(state, line) for line in placed.lines)
        applied = self._write(tree, journal)
        return rp.ReserveReply(
            placed.decision, applied, hold.hold, lines, hold.expires_ms, tuple(placed.warnings)
        )

    def burn(self, tree: Tree, operation: op.Burn, facts: Facts) -> rp.Reply:
        """See `op.Burn`."""
        self._known(tree, operation.account)
        journal = Journal()
        placed = place(journal, tree, operation, facts.mode, EntryKind.BURN, facts.now_ms)
        if not isinstance(placed, Placed):
            return rp.BurnReply(placed, rp.Applied())
        state = tree.accounts[operation.account]
        lines = tuple(_burned_line(state, line) for line in placed.lines)
        return rp.BurnReply(
            placed.decision, self._write(tree, journal), lines, tuple(placed.warnings)
        )

    # -- settlement ----------------------------------------------------------------------------

    def commit(self, tree: Tree, operation: op.Commit, facts: Facts) -> rp.Reply:
        """See `op.Commit`."""
        hold = tree.holds.get(operation.hold)
        if hold is None:
            return self._commit_late(tree, operation, facts)
        amounts = _actual_amounts(hold.lines, operation)
        held = [line.held for line in hold.lines]
        if operation.overage is op.Overage.REJECT and any(
            a > h for a, h in zip(amounts, held, strict=True)
        ):
            return _overage_rejected(hold.mode, rp.HoldState.OPEN, hold.expires_ms)
        expires_ms = _captured_until(hold, operation, facts.now_ms)
        plans = [
            settle.plan_line(
                tree, hold.account, line, amount, not operation.final, hold.mode, operation.overage
            )
            for line, amount in zip(hold.lines, amounts, strict=True)
        ]
        captured = sum(line.captured for line in hold.lines)
        nothing = operation.final and captured == 0 and sum(amounts) == 0
        kind = EntryKind.RELEASE if nothing else EntryKind.COMMIT
        journal = Journal()
        lines = [
            settle.settle_line(journal, tree, hold.account, plan, kind, facts.now_ms)
            for plan in plans
        ]
        warnings = self._count_settlement(tree, hold, lines, nothing, facts.now_ms)
        hold.expires_ms = expires_ms
        if operation.final:
            due.close_hold(journal, tree, hold, kind)
        elif not journal.postings:
            journal.posting(kind, hold.account, hold.lines[0].credit_type)
        applied = self._write(tree, journal)
        state = rp.HoldState.OPEN
        if operation.final:
            state = rp.HoldState.RELEASED if nothing else rp.HoldState.COMMITTED
            self._end(tree, hold.hold, state, hold.lines, applied)
        decision = rp.Decision(rp.Outcome.GRANTED, hold.mode)
        expires = 0 if operation.final else expires_ms
        return rp.CommitReply(
            decision, applied, state, tuple(lines), False, expires, tuple(warnings)
        )

    def _count_settlement(
        self, tree: Tree, hold: HoldRecord, lines: list[rp.SettledLine], nothing: bool, now_ms: int
    ) -> list[rp.Warning]:
        """Gives back what was not used, counts what was used above the hold."""
        path, warnings = tree.path(hold.account), list[rp.Warning]()
        limits.settle_counters(path, now_ms)
        for line in lines:
            unused = line.returned
            limits.give_back(tree.accounts, hold.counts, line.credit_type, unused, now_ms)
            if line.overage:
                warnings += limits.count_use(
                    path, hold.feature, line.credit_type, line.overage, now_ms
                )[1]
        if nothing:
            limits.give_back(tree.accounts, hold.counts, "", 1, now_ms)
        return warnings

    def _commit_late(self, tree: Tree, operation: op.Commit, facts: Facts) -> rp.Reply:
        late = self.late.get((tree.tenant, operation.hold))
        if late is None or late.until_ms <= facts.now_ms:
            raise self._gone(tree, operation.hold, facts.now_ms, committing=True)
        amounts = _actual_late(late, operation)
        if operation.overage is op.Overage.REJECT and any(
            amount > line.requested for amount, line in zip(amounts, late.lines, strict=True)
        ):
            return _overage_rejected(late.mode, rp.HoldState.EXPIRED, 0)
        overflows = [
            settle.plan_overflow(
                tree, late.account, line.credit_type, amount, late.mode, operation.overage
            )
            for line, amount in zip(late.lines, amounts, strict=True)
        ]
        journal = Journal()
        settled = []
        for line, amount, overflow in zip(late.lines, amounts, overflows, strict=True):
            plan = settle.LinePlan(HoldLine(line.credit_type, 0, []), [], [], [], overflow)
            over = max(0, amount - line.requested)
            receipt = settle.settle_line(
                journal, tree, late.account, plan, EntryKind.LATE_COMMIT, facts.now_ms
            )
            settled.append(_late_receipt(receipt, over))
            line.requested = max(0, line.requested - amount)
            line.captured += amount
        warnings = self._count_late(tree, late, settled, facts.now_ms)
        if not journal.postings:
            journal.posting(EntryKind.LATE_COMMIT, late.account, late.lines[0].credit_type)
        applied = self._write(tree, journal)
        state = rp.HoldState.EXPIRED
        if operation.final:
            state = rp.HoldState.COMMITTED
            del self.late[tree.tenant, operation.hold]
            self._end(tree, operation.hold, state, late.lines, applied)
        decision = rp.Decision(rp.Outcome.GRANTED, late.mode)
        return rp.CommitReply(decision, applied, state, tuple(settled), True, 0, tuple(warnings))

    def _count_late(
        self, tree: Tree, late: LateHold, lines: list[rp.SettledLine], now_ms: int
    ) -> list[rp.Warning]:
        path, warnings = tree.path(late.account), list[rp.Warning]()
        limits.settle_counters(path, now_ms)
        for line in lines:
            if line.burned:
                warnings += limits.count_use(
                    path, late.feature, line.credit_type, line.burned, now_ms
                )[1]
        return warnings

    def release(self, tree: Tree, operation: op.Release, facts: Facts) -> rp.Reply:
        """See `op.Release`."""
        hold = tree.holds.get(operation.hold)
        if hold is None:
            raise self._gone(tree, operation.hold, facts.now_ms, committing=False)
        plans = [
            settle.plan_line(tree, hold.account, line, 0, False, hold.mode, op.Overage.CHARGE)
            for line in hold.lines
        ]
        journal, kind = Journal(), EntryKind.RELEASE
        lines = [
            settle.settle_line(journal, tree, hold.account, plan, kind, facts.now_ms)
            for plan in plans
        ]
        untouched = not any(line.captured for line in hold.lines)
        self._count_settlement(tree, hold, lines, untouched, facts.now_ms)
        due.close_hold(journal, tree, hold, kind)
        applied = self._write(tree, journal)
        self._end(tree, hold.hold, rp.HoldState.RELEASED, hold.lines, applied)
        return rp.ReleaseReply(rp.Decision(rp.Outcome.GRANTED, hold.mode), applied, tuple(lines))

    def extend(self, tree: Tree, operation: op.Extend, facts: Facts) -> rp.Reply:
        """See `op.Extend`."""
        hold = tree.holds.get(operation.hold)
        if hold is None:
            raise self._gone(tree, operation.hold, facts.now_ms, committing=False)
        hold.expires_ms = _extended(hold, operation.ttl_ms, facts.now_ms)
        journal = Journal()
        journal.posting(EntryKind.EXTEND, hold.account, hold.lines[0].credit_type)
        applied = self._write(tree, journal)
        return rp.ExtendReply(rp.Decision(rp.Outcome.GRANTED, hold.mode), applied, hold.expires_ms)

    def _end(
        self, tree: Tree, hold: str, state: rp.HoldState, lines: list[HoldLine], applied: rp.Applied
    ) -> None:
        committed = ",".join(f"{line.credit_type}={line.captured}" for line in lines)
        self.ended[tree.tenant, hold] = Ended(state, committed, applied.transaction_id)

    def _gone(self, tree: Tree, hold: str, now_ms: int, *, committing: bool) -> HoldfastError:
        """Why a hold cannot be settled or extended."""
        ended = self.ended.get((tree.tenant, hold))
        late = self.late.get((tree.tenant, hold))
        if ended is None and late is not None and late.until_ms > now_ms:
            return HoldfastError(Reason.HOLD_EXPIRED, "the hold expired and gave its credits back")
        if ended is None:
            return HoldfastError(Reason.HOLD_NOT_FOUND, "no such hold")
        if committing and ended.state is rp.HoldState.COMMITTED:
            return HoldfastError(
                Reason.HOLD_ALREADY_COMMITTED,
                "the hold was committed",
                committed=ended.committed,
                transaction_id=ended.transaction_id,
            )
        return HoldfastError(
            Reason.HOLD_ALREADY_SETTLED, "the hold was settled", state=ended.state.name
        )

    # -- everything else -----------------------------------------------------------------------

    def grant(self, tree: Tree, operation: op.Grant, facts: Facts) -> rp.Reply:
        """See `op.Grant`."""
        self._known(tree, operation.account)
        journal, path = Journal(), tree.path(operation.account)
        repaid = grants.give_grant(journal, path, operation.terms, facts.new_id, facts.now_ms)
        applied = self._write(tree, journal)
        return rp.GrantReply(
            facts.new_id, repaid, _figures(path[0], operation.terms.credit_type), applied
        )

    def revoke(self, tree: Tree, operation: op.Revoke, facts: Facts) -> rp.Reply:
        """See `op.Revoke`."""
        state, journal = self._known(tree, operation.account), Journal()
        revoked = grants.revoke_grant(journal, state, operation.grant_id)
        applied = self._write(tree, journal)
        return rp.RevokeReply(
            revoked.revoked, revoked.still_held, _figures(state, revoked.credit_type), applied
        )

    def refund(self, plan: grants.RefundPlan, tenant: str, now_ms: int) -> rp.Reply:
        """A refund whose parts somebody read from the ledger; see `op.Refund`."""
        root = self.root_of[tenant, plan.account]
        tree, journal = self.trees[tenant, root], Journal()
        self._pass_time(tree, now_ms)
        done = grants.apply_refund(journal, tree.accounts, plan, now_ms)
        state = tree.accounts[plan.account]
        applied = self._write(tree, journal)
        state.last_refund_seq = applied.seq
        lines = (
            rp.RefundedLine(
                credit_type,
                r.refunded,
                r.debt,
                r.unenforced,
                available(state, credit_type),
                tuple(r.shares),
            )
            for credit_type, r in done.items()
        )
        return rp.RefundReply(applied, tuple(lines))

    def create_account(self, tree: Tree, operation: op.CreateAccount, facts: Facts) -> rp.Reply:
        """See `op.CreateAccount`."""
        known = self.root_of.get((operation.tenant, operation.account))
        if known is not None and known != tree.root:
            raise HoldfastError(
                Reason.ACCOUNT_ALREADY_EXISTS,
                "an account of this name exists",
                account=operation.account,
            )
        root = tree.root if operation.terms.parent else operation.account
        tree.root = root
        state = accounts.create_account(
            tree, operation.account, operation.terms, facts.offsets, facts.now_ms
        )
        self.trees[operation.tenant, root] = tree
        self.root_of[operation.tenant, operation.account] = root
        return self._account_reply(tree, state)

    def update_account(self, tree: Tree, operation: op.UpdateAccount, facts: Facts) -> rp.Reply:
        """See `op.UpdateAccount`; `terms` are complete and `expected_version` is set here."""
        state = self._known(tree, operation.account)
        accounts.update_account(
            tree, state, operation.terms, facts.offsets, operation.expected_version or state.version
        )
        return self._account_reply(tree, state)

    def _account_reply(self, tree: Tree, state: AccountState) -> rp.Reply:
        journal = Journal()
        journal.posting(EntryKind.ACCOUNT, state.account, "")
        applied = self._write(tree, journal)
        account = rp.Account(state.account, tree.root, state.terms, state.version, state.created_ms)
        return rp.AccountReply(account, applied)

    def book_unenforced(self, tree: Tree, operation: op.BookUnenforced, facts: Facts) -> rp.Reply:
        """See `op.BookUnenforced`."""
        state, journal = self._known(tree, operation.account), Journal()
        for line in operation.lines:
            draws = [Draw(state.account, "unenforced", line.amount)]
            check_room([state], line.credit_type, draws)
        for line in operation.lines:
            journal.book(
                EntryKind.UNENFORCED, state, line.credit_type, "unenforced", "burned", line.amount
            )
        return rp.BookReply(self._write(tree, journal))

    def expire_due(self, tree: Tree, operation: op.ExpireDue, facts: Facts) -> rp.Reply:
        """See `op.ExpireDue`; time has passed before this is called."""
        return rp.ExpireReply(0, 0, due.next_due_ms(tree))

    def balance(self, tree: Tree, operation: op.GetBalance, facts: Facts) -> rp.Reply:
        """See `op.GetBalance`."""
        state = self._known(tree, operation.account)
        path = tree.path(operation.account)
        limits.settle_counters(path, facts.now_ms)
        names = sorted(name for name in {*_credit_types(path)} if name)
        uses = tuple(
            limits.use_of(above, counter, facts.now_ms)
            for above in path
            for counter in above.counters
        )
        lines = tuple(_credit_balance(path, name) for name in names)
        return rp.BalanceReply(operation.account, lines, uses, state.open_holds, facts.now_ms)

    def _known(self, tree: Tree, account: str) -> AccountState:
        if account not in tree.accounts:
            raise HoldfastError(
                Reason.ACCOUNT_NOT_FOUND, "no such account; create it first", account=account
            )
        return tree.accounts[account]


def _replayed(record: Record, operation: op.Operation) -> rp.Reply:
    if record.operation == operation:
        return record.reply
    raise HoldfastError(Reason.IDEMPOTENCY_KEY_REUSED, "the key was used with other content")


def _held_line(state: AccountState, line: HoldLine) -> rp.HeldLine:
    return rp.HeldLine(
        line.credit_type,
        line.requested,
        line.held,
        line.part("debt"),
        line.part("unenforced"),
        available(state, line.credit_type),
    )


def _burned_line(state: AccountState, line: HoldLine) -> rp.SettledLine:
    shares = settle.Shares()
    for draw in line.draws:
        shares.add(draw, "burned")
    debt, unenforced = line.part("debt"), line.part("unenforced")
    there = available(state, line.credit_type)
    return rp.SettledLine(
        line.credit_type, line.held, 0, 0, debt, unenforced, 0, there, shares.as_tuple()
    )


def _actual_amounts(lines: list[HoldLine], operation: op.Commit) -> list[int]:
    """The actual amount of each line of the hold; a final Commit burns as held what it does not
    name.
    """
    named = _named_amounts([line.credit_type for line in lines], operation.lines)
    return [
        _actual(line.held, named.get(line.credit_type, "unnamed"), operation.final)
        for line in lines
    ]


def _actual_late(late: LateHold, operation: op.Commit) -> list[int]:
    named = _named_amounts([line.credit_type for line in late.lines], operation.lines)
    return [
        _actual(line.requested, named.get(line.credit_type, "unnamed"), operation.final)
        for line in late.lines
    ]


def _actual(held: int, named: int | str | None, final: bool) -> int:
    if isinstance(named, int):
        return named
    return held if final or named is None else 0


def _named_amounts(known: list[str], lines: Sequence[op.CommitLine]) -> dict[str, int | None]:
    for line in lines:
        if line.credit_type not in known:
            raise HoldfastError(
                Reason.LINE_UNKNOWN,
                "the hold has no such credit type",
                credit_type=line.credit_type,
            )
    return {line.credit_type: line.amount for line in lines}


def _captured_until(hold: HoldRecord, operation: op.Commit, now_ms: int) -> int:
    if operation.final or not operation.ttl_ms:
        return hold.expires_ms
    return _extended(hold, operation.ttl_ms, now_ms)


def _extended(hold: HoldRecord, ttl_ms: int, now_ms: int) -> int:
    """The new end of a hold, within its maximum age."""
    latest = hold.placed_ms + HOLD_AGE_MS_MAX
    if now_ms >= latest:
        raise HoldfastError(
            Reason.HOLD_MAXIMUM_AGE,
            "the hold cannot live longer; place a new one",
            maximum_age_ms=HOLD_AGE_MS_MAX,
        )
    return min(now_ms + ttl_ms, latest)


def _overage_rejected(mode: op.Mode, state: rp.HoldState, expires_ms: int) -> rp.Reply:
    decision = rp.Decision(rp.Outcome.DENIED, mode, Reason.OVERAGE_REJECTED)
    return rp.CommitReply(decision, rp.Applied(), state, (), False, expires_ms)


def _late_receipt(receipt: rp.SettledLine, over: int) -> rp.SettledLine:
    """A late Commit draws everything anew, so its overage is what passes the hold, not what was
    drawn.
    """
    return rp.SettledLine(
        receipt.credit_type,
        receipt.burned,
        0,
        over,
        receipt.debt,
        receipt.unenforced,
        0,
        receipt.available_after,
        receipt.grants,
    )


def _figures(state: AccountState, credit_type: str) -> rp.Buckets:
    return state.credit(credit_type).figures()


def _credit_types(path: list[AccountState]) -> list[str]:
    own = [name for state in path for name in state.credits]
    return own + [name for state in path for name in state.terms.overdraft_limits]


def _credit_balance(path: list[AccountState], credit_type: str) -> rp.CreditBalance:
    credit = path[0].credits.get(credit_type)
    if credit is None:
        return rp.CreditBalance(credit_type, rp.Buckets(), spendable(path, credit_type), 0)
    shown = [
        *credit.grants,
        *sorted(credit.pending, key=lambda grant: (grant.effective_ms, grant.grant_id)),
    ]
    lines = tuple(
        rp.GrantBalance(g.grant_id, g.remaining, g.held, g.priority, g.effective_ms, g.expires_ms)
        for g in shown
    )
    return rp.CreditBalance(
        credit_type, credit.figures(), spendable(path, credit_type), credit.version, lines
    )


_HANDLERS: dict[type, Callable[..., rp.Reply]] = {
    op.Reserve: World.reserve,
    op.Burn: World.burn,
    op.Commit: World.commit,
    op.Release: World.release,
    op.Extend: World.extend,
    op.Grant: World.grant,
    op.Revoke: World.revoke,
    op.CreateAccount: World.create_account,
    op.UpdateAccount: World.update_account,
    op.BookUnenforced: World.book_unenforced,
    op.ExpireDue: World.expire_due,
    op.GetBalance: World.balance,
}
