"""Random histories on the real engine and on the plain Python twin: every answer agrees.

After each step all balances are compared; at the end every entry of every outbox, and that the
entries add up to what lies in the store (I13). This is the test
of I1, I2, I3, I4, I5, I6, I7, I8 and I27: the twin asserts conservation and bounds in each posting,
decides in the order of the sequence numbers, and the engine must agree with it to the unit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast_server.control.refunds import plan_refund
from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.errors import HoldfastError
from tests.support.burned import burned_by
from tests.support.drawn import (
    CREDIT_TYPES,
    TREE,
    account_limits,
    account_terms,
    accounts,
    actual_lines,
    amounts,
    features,
    fits,
    modes,
    overages,
    overdrafts,
    small,
    spending_lines,
    statuses,
    ttls,
)
from tests.support.pair import Pair, Real, build
from tests.support.retold import check_grants, check_use

TENANT = "t"


class Oracle(RuleBasedStateMachine):
    """Holds the engine against the twin."""

    real: Real
    loop: asyncio.AbstractEventLoop
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.empty()
        self.real = build(self.url, partitions=3)
        self.pair = Pair(self.real)
        self.holds: list[str] = []
        self.grants: list[tuple[str, str]] = []
        self.waiting: list[op.Operation] = []
        self.past: list[op.Operation] = []
        self.burns: list[str] = []
        self.keys = 0

    def empty(self) -> None:
        """Every history begins with nothing."""
        with redis.Redis.from_url(self.url) as client:
            client.flushdb()

    def key(self) -> str:
        self.keys += 1
        return f"key-{self.keys}"

    def recent_hold(self, data: st.DataObject) -> str:
        """Mostly one that may still be open."""
        return data.draw(st.sampled_from([*self.holds, *self.holds[-4:] * 4]))

    def run(self, *operations: op.Operation) -> list[Any]:
        answers = self.loop.run_until_complete(self.pair.submit(operations))
        for operation, answer in zip(operations, answers, strict=True):
            self.past.append(operation)
            if isinstance(answer, rp.ReserveReply) and answer.hold:
                self.holds.append(answer.hold)
            if isinstance(answer, rp.GrantReply) and isinstance(operation, op.Grant):
                self.grants.append((operation.account, answer.grant_id))
            if isinstance(answer, rp.CommitReply | rp.BurnReply) and answer.applied.seq:
                self.burns.append(answer.applied.transaction_id)
        return answers

    @initialize(data=st.data())
    def create_accounts(self, data: st.DataObject) -> None:
        for account, parent in TREE.items():
            terms = data.draw(account_terms(parent))
            self.run_with_offsets(op.CreateAccount(TENANT, account, terms, self.key()))
        for account in ("org", "user", "task", "solo"):
            for credit_type in CREDIT_TYPES:
                given = op.GrantTerms(credit_type, 300, op.GrantSource.PLAN, 2)
                self.give(account, given)

    def give(self, account: str, terms: op.GrantTerms) -> None:
        self.run(op.Grant(TENANT, account, terms, self.key()))

    def run_with_offsets(self, operation: op.CreateAccount) -> None:
        """The twin is told the offsets that the engine computes from the zone."""
        self.pair.zones[operation.account] = operation.terms.zone
        self.run(operation)

    @rule(ms=st.sampled_from([1, 300, 999, 1_000, 2_500, 61_000, 3_600_000, 90_000_000]))
    def time_passes(self, ms: int) -> None:
        self.real.clock.now_ms += ms

    @rule(mode=modes)
    def mode_changes(self, mode: op.Mode) -> None:
        self.real.mode.now = mode

    @rule(account=accounts, amount=amounts, data=st.data())
    def grant(self, account: str, amount: int, data: st.DataObject) -> None:
        now_ms = self.real.clock.now_ms
        terms = op.GrantTerms(
            data.draw(st.sampled_from(CREDIT_TYPES)),
            amount,
            op.GrantSource.PURCHASE,
            data.draw(st.integers(-1, 1)),
            now_ms + data.draw(st.sampled_from([0, 0, 0, 1_500, 5_000])),
            data.draw(st.sampled_from([0, 0, now_ms + 1_500, now_ms + 3_000, now_ms + 100_000])),
            data.draw(st.integers(0, 1)),
            "EUR",
            repay_debt=data.draw(st.booleans()),
        )
        self.give(account, terms)

    @rule(account=accounts, lines=spending_lines(), ttl_ms=ttls, feature=features, fit=fits)
    def reserve(
        self, account: str, lines: tuple[op.Line, ...], ttl_ms: int, feature: str, fit: op.Fit
    ) -> None:
        self.run(op.Reserve(TENANT, account, lines, ttl_ms, self.key(), feature, {}, fit))

    @rule(account=accounts, lines=spending_lines(), feature=features, fit=fits)
    def burn(self, account: str, lines: tuple[op.Line, ...], feature: str, fit: op.Fit) -> None:
        self.run(op.Burn(TENANT, account, lines, self.key(), feature, {}, fit))

    @rule(data=st.data(), lines=actual_lines(), final=st.booleans(), overage=overages)
    def commit(
        self,
        data: st.DataObject,
        lines: tuple[op.CommitLine, ...],
        final: bool,
        overage: op.Overage,
    ) -> None:
        if self.holds:
            hold = self.recent_hold(data)
            ttl_ms = data.draw(st.sampled_from([0, 1_000, 60_000]))
            self.run(op.Commit(TENANT, hold, self.key(), lines, final, ttl_ms, overage))

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.holds:
            hold = self.recent_hold(data)
            self.run(op.Release(TENANT, hold, self.key()))

    @rule(data=st.data(), ttl_ms=ttls)
    def extend(self, data: st.DataObject, ttl_ms: int) -> None:
        if self.holds:
            hold = self.recent_hold(data)
            self.run(op.Extend(TENANT, hold, ttl_ms, self.key()))

    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        if self.grants:
            account, grant_id = data.draw(st.sampled_from(self.grants))
            self.run(op.Revoke(TENANT, account, grant_id, self.key()))

    @rule(
        data=st.data(),
        goodwill_ttl_ms=st.sampled_from([0, 0, 2_000]),
        asked=st.dictionaries(st.sampled_from(CREDIT_TYPES), small, max_size=2),
    )
    def refund(self, data: st.DataObject, goodwill_ttl_ms: int, asked: dict[str, int]) -> None:
        """As the ledger would have been read; `tests/engine/test_refund.py` asks the ledger."""
        if not self.burns:
            return
        name = data.draw(st.sampled_from(self.burns))
        burned = burned_by(self.loop.run_until_complete(self.real.entries()), name)
        lines = tuple(op.RefundLine(credit_type, amount) for credit_type, amount in asked.items())
        operation = op.Refund(TENANT, name, self.key(), lines, "test", goodwill_ttl_ms)
        try:
            plan = plan_refund(operation, burned) if burned else None
        except HoldfastError:
            return
        if plan:
            self.loop.run_until_complete(self.pair.refund(operation, plan))

    @rule(account=accounts, amount=small)
    def book_unenforced(self, account: str, amount: int) -> None:
        self.run(op.BookUnenforced(TENANT, account, (op.Line("ai", amount),), self.key()))

    @rule(
        account=accounts,
        status=statuses,
        limits=account_limits(),
        overdraft=overdrafts,
        fields=st.sets(st.sampled_from(["status", "limits", "overdraft_limits"]), min_size=1),
    )
    def update(
        self,
        account: str,
        status: op.AccountStatus,
        limits: tuple[op.Limit, ...],
        overdraft: dict[str, int],
        fields: set[str],
    ) -> None:
        """The twin takes all terms: those that are not named stay."""
        root = self.pair.world.root_of[TENANT, account]
        now = self.pair.world.trees[TENANT, root].accounts[account].terms
        wanted: dict[str, Any] = {"status": status, "limits": limits, "overdraft_limits": overdraft}
        terms = replace(now, **{name: wanted[name] for name in fields})
        self.run(op.UpdateAccount(TENANT, account, terms, frozenset(fields), self.key()))

    @rule(account=st.sampled_from(["pair", "task", "key", "user"]), parent=accounts)
    def move(self, account: str, parent: str) -> None:
        now = self.pair.world.trees[TENANT, "org"].accounts[account].terms
        terms = replace(now, parent=parent)
        self.run(op.UpdateAccount(TENANT, account, terms, frozenset({"parent"}), self.key()))

    @rule(root=st.sampled_from(["org", "solo"]))
    def expire(self, root: str) -> None:
        self.run(op.ExpireDue(TENANT, root))

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """I7: the same key with the same content gets the same answer, denials included."""
        keyed = [each for each in self.past if getattr(each, "key", "")]
        if keyed:
            self.run(data.draw(st.sampled_from(keyed)))

    @rule(data=st.data(), amount=small)
    def reuse_key(self, data: st.DataObject, amount: int) -> None:
        """I8: the same key with other content is refused."""
        burns = [each for each in self.past if isinstance(each, op.Burn)]
        if burns:
            burn = data.draw(st.sampled_from(burns))
            self.run(replace(burn, lines=(op.Line("ai", amount + 500),)))

    @rule(data=st.data(), size=st.integers(2, 8))
    def batch(self, data: st.DataObject, size: int) -> None:
        """Several callers' operations in one script call are decided as if one after the other."""
        self.run(*(self.any_operation(data) for _ in range(size)))

    def any_operation(self, data: st.DataObject) -> op.Operation:
        """One on an account, or on a hold if there is any."""
        account, key = data.draw(accounts), self.key()
        lines = (op.Line(data.draw(st.sampled_from(CREDIT_TYPES)), data.draw(small)),)
        given = op.GrantTerms(lines[0].credit_type, lines[0].amount, op.GrantSource.PLAN)
        if not self.holds or data.draw(st.booleans()):
            choices: list[op.Operation] = [
                op.Reserve(TENANT, account, lines, data.draw(ttls), key),
                op.Burn(TENANT, account, lines, key),
                op.Grant(TENANT, account, given, key),
                *self.past[-2:],
            ]
        else:
            hold, final = self.recent_hold(data), data.draw(st.booleans())
            choices = [
                *[op.Commit(TENANT, hold, key, final=final)] * 3,
                op.Release(TENANT, hold, key),
                op.Extend(TENANT, hold, data.draw(ttls), key),
            ]
        return data.draw(st.sampled_from(choices))

    @invariant()
    def balances_agree(self) -> None:
        self.loop.run_until_complete(self.pair.check_balances())

    async def check_retold(self) -> None:
        """Entries say of grants and limits what there is."""
        entries = await self.real.entries()
        check_grants(entries)
        for tree in self.pair.world.trees.values():
            check_use(entries, tree, self.real.clock.now_ms)

    def teardown(self) -> None:
        try:
            self.loop.run_until_complete(self.pair.check_entries())
            self.loop.run_until_complete(self.pair.check_figures())
            self.loop.run_until_complete(self.check_retold())
        finally:
            self.loop.run_until_complete(self.real.store.close())


#: Histories of the suite, and their length. A larger profile runs what it says.
EXAMPLES_MIN = 200
STEPS = 25


@pytest.mark.timeout(0)
def test_the_engine_agrees_with_the_twin(valkey_url: str) -> None:
    """At least 200 random histories; `--hypothesis-profile=long` runs thousands."""
    run_histories(Oracle, valkey_url, EXAMPLES_MIN)


#: A fault that one history in ten shows stays hidden from so many once in 10^18 runs.
EXAMPLES_UNTIL_FOUND = 400


def find_fault(oracle: type[Oracle], url: str, *others: type[Exception]) -> None:
    """The negative control: histories until one shows what the check is there for, by a failed
    assertion or one of the others.
    """
    with pytest.raises((AssertionError, *others)):
        run_histories(oracle, url, EXAMPLES_UNTIL_FOUND, [Phase.generate])


def run_histories(
    oracle: type[Oracle], url: str, examples_min: int, phases: Sequence[Phase] = tuple(Phase)
) -> None:
    """So many random histories, or as many as a larger profile says."""
    profile = settings.default
    assert profile is not None
    thorough = profile.max_examples > EXAMPLES_MIN
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    with asyncio.Runner() as runner:
        machine = type("Machine", (oracle,), {"url": url, "loop": runner.get_loop()})
        machine.TestCase.settings = settings(  # type: ignore[attr-defined]
            deadline=None,
            phases=phases,
            suppress_health_check=checks,
            max_examples=profile.max_examples if thorough else examples_min,
            stateful_step_count=profile.stateful_step_count if thorough else STEPS,
        )
        machine.TestCase().runTest()  # type: ignore[attr-defined]
