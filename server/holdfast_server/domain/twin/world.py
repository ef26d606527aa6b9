"""The twin's front: one operation after the other, each under its key."""

from __future__ import annotations

from collections.abc import Callable

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.entry import EntryKind
from holdfast_server.domain.twin import accounts, due, ending, grants, limits, settle
from holdfast_server.domain.twin.draw import available, check_room, spendable
from holdfast_server.domain.twin.journal import Journal
from holdfast_server.domain.twin.memory import Facts, LateHold, Memory, Record
from holdfast_server.domain.twin.reserve import Placed, place
from holdfast_server.domain.twin.state import AccountState, Draw, HoldLine, HoldRecord, Tree
from holdfast_server.errors import HoldfastError, Reason


class World(Memory):
    """Decides operations."""

    def submit(self, operation: op.Operation, facts: Facts) -> rp.Reply:
        """Decides one operation. Raises `HoldfastError` where the engine answers one."""
        tree = self.tree_of(operation)
        self.pass_time(tree, facts.now_ms)
        key = getattr(operation, "key", "")
        place_of_key = (operation.tenant, type(operation), key)
        if key and place_of_key in self.records:
            return _replayed(self.records[place_of_key], operation)
        reply = _HANDLERS[type(operation)](self, tree, operation, facts)
        if key:
            self.records[place_of_key] = Record(operation, reply)
        return reply

    def reserve(self, tree: Tree, operation: op.Reserve, facts: Facts) -> rp.Reply:
        """See `op.Reserve`."""
        self.known(tree, operation.account)
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
        applied = self.write(tree, journal)
        return rp.ReserveReply(
            placed.decision, applied, hold.hold, lines, hold.expires_ms, tuple(placed.warnings)
        )

    def burn(self, tree: Tree, operation: op.Burn, facts: Facts) -> rp.Reply:
        """See `op.Burn`."""
        self.known(tree, operation.account)
        journal = Journal()
        placed = place(journal, tree, operation, facts.mode, EntryKind.BURN, facts.now_ms)
        if not isinstance(placed, Placed):
            return rp.BurnReply(placed, rp.Applied())
        state = tree.accounts[operation.account]
        lines = tuple(_burned_line(state, line) for line in placed.lines)
        return rp.BurnReply(
            placed.decision, self.write(tree, journal), lines, tuple(placed.warnings)
        )

    def grant(self, tree: Tree, operation: op.Grant, facts: Facts) -> rp.Reply:
        """See `op.Grant`."""
        self.known(tree, operation.account)
        journal, path = Journal(), tree.path(operation.account)
        repaid = grants.give_grant(journal, path, operation.terms, facts.new_id, facts.now_ms)
        given = tree.tenant, operation.account, facts.new_id
        self.given[given] = operation.terms.credit_type
        applied = self.write(tree, journal)
        return rp.GrantReply(
            facts.new_id, repaid, _figures(path[0], operation.terms.credit_type), applied
        )

    def revoke(self, tree: Tree, operation: op.Revoke, facts: Facts) -> rp.Reply:
        """See `op.Revoke`."""
        state, journal = self.known(tree, operation.account), Journal()
        given = self.given.get((tree.tenant, operation.account, operation.grant_id))
        revoked = grants.revoke_grant(journal, state, operation.grant_id, given)
        applied = self.write(tree, journal)
        state.last_refund_seq = applied.seq
        return rp.RevokeReply(
            revoked.revoked, revoked.still_held, _figures(state, revoked.credit_type), applied
        )

    def refund(self, plan: grants.RefundPlan, tenant: str, now_ms: int) -> rp.Reply:
        """A refund whose parts somebody read from the ledger; see `op.Refund`."""
        root = self.root_of[tenant, plan.account]
        tree, journal = self.trees[tenant, root], Journal()
        self.pass_time(tree, now_ms)
        done = grants.apply_refund(journal, tree.accounts, plan, now_ms)
        state = tree.accounts[plan.account]
        applied = self.write(tree, journal)
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

    def recover(self, operation: op.Commit, lost: LateHold, facts: Facts) -> rp.Reply:
        """A Commit of a hold that was lost with the store; see `ending.recover`."""
        tree = self.trees[operation.tenant, self.root_of[operation.tenant, lost.account]]
        self.pass_time(tree, facts.now_ms)
        return ending.recover(self, tree, operation, lost, facts)

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
        state = self.known(tree, operation.account)
        accounts.update_account(
            tree,
            state,
            operation.terms,
            facts.offsets,
            operation.expected_version or state.version,
            facts.now_ms,
        )
        return self._account_reply(tree, state)

    def _account_reply(self, tree: Tree, state: AccountState) -> rp.Reply:
        journal = Journal()
        journal.posting(EntryKind.ACCOUNT, state.account, "")
        applied = self.write(tree, journal)
        account = rp.Account(state.account, tree.root, state.terms, state.version, state.created_ms)
        return rp.AccountReply(account, applied)

    def book_unenforced(self, tree: Tree, operation: op.BookUnenforced, facts: Facts) -> rp.Reply:
        """See `op.BookUnenforced`."""
        state, journal = self.known(tree, operation.account), Journal()
        for line in operation.lines:
            draws = [Draw(state.account, "unenforced", line.amount)]
            check_room([state], line.credit_type, draws)
        for line in operation.lines:
            journal.book(
                EntryKind.UNENFORCED, state, line.credit_type, "unenforced", "burned", line.amount
            )
        return rp.BookReply(self.write(tree, journal))

    def expire_due(self, tree: Tree, operation: op.ExpireDue, facts: Facts) -> rp.Reply:
        """See `op.ExpireDue`; time has passed before this is called."""
        return rp.ExpireReply(0, 0, due.next_due_ms(tree))

    def balance(self, tree: Tree, operation: op.GetBalance, facts: Facts) -> rp.Reply:
        """See `op.GetBalance`."""
        state = self.known(tree, operation.account)
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


def _figures(state: AccountState, credit_type: str) -> rp.Buckets:
    return state.credit(credit_type).figures()


def _credit_types(path: list[AccountState]) -> list[str]:
    own = [name for state in path for name in state.credits]
    return own + [name for state in path for name in state.terms.overdraft_limits]


def _credit_balance(path: list[AccountState], credit_type: str) -> rp.CreditBalance:
    credit = path[0].credits.get(credit_type)
    there = spendable(path, credit_type) if all(map(_is_active, path)) else 0
    if credit is None:
        return rp.CreditBalance(credit_type, rp.Buckets(), there, 0)
    shown = [
        *credit.grants,
        *sorted(credit.pending, key=lambda grant: (grant.effective_ms, grant.grant_id)),
    ]
    lines = tuple(
        rp.GrantBalance(g.grant_id, g.remaining, g.held, g.priority, g.effective_ms, g.expires_ms)
        for g in shown
    )
    return rp.CreditBalance(credit_type, credit.figures(), there, credit.version, lines)


def _is_active(state: AccountState) -> bool:
    return state.terms.status is op.AccountStatus.ACTIVE


_HANDLERS: dict[type, Callable[..., rp.Reply]] = {
    op.Reserve: World.reserve,
    op.Burn: World.burn,
    op.Commit: ending.commit,
    op.Release: ending.release,
    op.Extend: ending.extend,
    op.Grant: World.grant,
    op.Revoke: World.revoke,
    op.CreateAccount: World.create_account,
    op.UpdateAccount: World.update_account,
    op.BookUnenforced: World.book_unenforced,
    op.ExpireDue: World.expire_due,
    op.GetBalance: World.balance,
}
