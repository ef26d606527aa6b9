"""The engine on a real Valkey and the plain Python twin, given the same operations.

`Pair.submit` sends a list of operations to both, compares every answer, and keeps what later
operations need. The store's clock is the test's: the scripts are the build that takes the time as
an
argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.entry import BY_TIME, Entry
from holdfast_server.domain.figures import contradictions, differences
from holdfast_server.domain.operation import Caller, Mode, Operation
from holdfast_server.domain.packed import to_entry
from holdfast_server.domain.token import TokenSigner
from holdfast_server.domain.twin.grants import RefundPlan
from holdfast_server.domain.twin.memory import Facts
from holdfast_server.domain.twin.world import World
from holdfast_server.domain.zones import offsets_of
from holdfast_server.engine.accounts import AccountReader
from holdfast_server.engine.batcher import Batcher, Calls, Limits
from holdfast_server.engine.cold import Absent, Brought, Hydration, Name, Outcome
from holdfast_server.engine.directory import Directory
from holdfast_server.engine.engine import Engine, Parts
from holdfast_server.engine.item import Flag
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.outbox import OutboxEntry, unpack
from holdfast_server.engine.request import NeedsLedger, Request
from holdfast_server.engine.roots import Roots
from holdfast_server.engine.scripts import Clock, load
from holdfast_server.engine.store import Store
from holdfast_server.engine.stores import open_store
from holdfast_server.engine.tree_store import TreeStore
from holdfast_server.engine.trees import TreeReader
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.tracing import Tracing
from tests.support.arming import arm
from tests.support.figures import sums

START_MS = 1_800_000_000_000
GENERATION_MS = 900_000
SIGNER = TokenSigner({1: b"k" * 32}, 1)
CALLER = Caller("tester", "0" * 31 + "1", "0" * 15 + "1")


class OneMode:
    """An `Enforcement` that answers the mode it was last told."""

    def __init__(self) -> None:
        self.now = Mode.ENFORCE

    def mode(
        self, tenant: str, account: str, root: str, credit_types: Sequence[str], feature: str
    ) -> Mode:
        return self.now

    def idempotency_window_ms(self, tenant: str) -> int:
        return GENERATION_MS

    def knows_credit_type(self, tenant: str, credit_type: str) -> bool:
        return True


@dataclass(slots=True)
class Window:
    """How long idempotency keys are remembered."""

    generation_ms: int = GENERATION_MS

    def __call__(self) -> int:
        return self.generation_ms


class NothingCold:
    """A `Hydration` without a ledger: what the store does not know does not exist."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._trees = TreeStore(store, keys)

    async def bring(self, names: Sequence[Name]) -> dict[Name, Outcome]:
        found = await self._trees.look(names)
        return {
            name: Brought(name[1]) if each.is_stored else Absent(-1) for name, each in found.items()
        }


class NoRecorder:
    """Takes figures and forgets them."""

    def queued(self, operations: int) -> None:
        return None

    def batch(self, operations: int, seconds: float) -> None:
        return None


class TestClock:
    """The time that the scripts are told."""

    __test__ = False

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms


@dataclass(frozen=True, slots=True)
class Real:
    """An engine with everything below it."""

    store: Store
    keys: Keys
    engine: Engine
    directory: Directory
    mode: OneMode
    clock: TestClock
    window: Window
    batcher: Batcher

    async def decide(self, operations: Sequence[Operation], *, checked: bool = True) -> list[Any]:
        """Answers operations as if the ledger knew none of their keys."""
        requests = [Request(operation, checked=checked) for operation in operations]
        return await self.engine.decide(CALLER, requests)

    async def entries(self) -> list[Entry]:
        """Everything in the outboxes, partition by partition."""
        found = []
        for partition in range(self.keys.partitions):
            name = self.keys.outbox(partition, 1)
            rows: Any = await self.store.client.xrange(name)
            for stream_id, fields in rows:
                epoch, seq = stream_id.decode().split("-")
                raw = OutboxEntry(partition, int(epoch), int(seq), fields[b"e"])
                found.append(to_entry(unpack(raw)))
        return found


def build(
    url: str,
    *,
    partitions: int = 8,
    limits: Limits | None = None,
    clock: Clock = Clock.ARGUMENT,
    tracing: Tracing | None = None,
    hydration: Callable[[Store, Keys], Hydration] = NothingCold,
    armed_at: str = "",
) -> Real:
    """An engine on the store at `url`, which is armed for it.

    `armed_at` leads there without a proxy: one of this loop would not answer while it is armed.
    """
    store, keys, mode, test_clock = open_store(url), Keys(partitions), OneMode(), TestClock()
    script, window = load("apply", clock), Window()
    told = test_clock if clock is Clock.ARGUMENT else store.clock.expected_ms
    calls = Calls(store, keys, script, window, clock, told)
    batcher = Batcher(calls, limits or Limits(), NoRecorder(), tracing)
    directory = Directory(store, keys)
    parts = Parts(
        batcher,
        Roots(directory, hydration(store, keys)),
        AccountReader(store, keys, SIGNER, clock, told),
        keys,
        SIGNER,
        mode,
    )
    arm(armed_at or url, keys)
    return Real(store, keys, Engine(parts), directory, mode, test_clock, window, batcher)


class Pair:
    """The engine and its twin."""

    def __init__(self, real: Real) -> None:
        self.real = real
        self.world = World(real.keys.partition)
        #: The zone of each account: the twin is told the offsets that the engine computes.
        self.zones: dict[str, str] = {}

    async def submit(self, operations: Sequence[Operation]) -> list[rp.Reply | HoldfastError]:
        """Gives a batch to the engine, then one by one to the twin, and compares the answers."""
        decided = await self.real.decide(operations)
        pairs = zip(operations, decided, strict=True)
        answers = [await self._with_ledger(operation, answer) for operation, answer in pairs]
        for operation, answer in zip(operations, answers, strict=True):
            expected = self._twin(operation, answer)
            assert comparable(answer) == comparable(expected), (operation, answer, expected)
        return answers

    async def _with_ledger(self, operation: Operation, answer: Any) -> Any:
        """The answer to a Revoke of a grant that only the ledger would know."""
        if not isinstance(answer, NeedsLedger) or not isinstance(operation, op.Revoke):
            return answer
        name = operation.tenant, operation.account, operation.grant_id
        if (given := self.world.given.get(name)) is None:
            return answer
        request = Request(operation, checked=True, spent_grant=given)
        (answer,) = await self.real.engine.decide(CALLER, [request])
        return answer

    def _twin(self, operation: Operation, answer: object) -> rp.Reply | HoldfastError:
        zone = self.zones.get(getattr(operation, "account", ""), "")
        facts = Facts(
            self.real.clock.now_ms,
            self.real.mode.now,
            new_id=_new_id(answer),
            offsets=offsets_of(zone),
        )
        try:
            return self.world.submit(_plain(operation), facts)
        except HoldfastError as error:
            return error

    async def refund(self, operation: op.Refund, plan: RefundPlan) -> Any:
        """A refund whose parts somebody read from the ledger."""
        request = Request(operation, checked=True, refund=plan)
        (answer,) = await self.real.engine.decide(CALLER, [request])
        expected: rp.Reply | HoldfastError
        try:
            expected = self.world.refund(plan, operation.tenant, self.real.clock.now_ms)
        except HoldfastError as error:
            expected = error
        assert comparable(answer) == comparable(expected), (operation, answer, expected)
        return answer

    async def check_balances(self) -> None:
        """Every bucket, grant, limit and version of every account is the same in both."""
        accounts = list(self.world.root_of)
        await self.submit([op.GetBalance(tenant, account) for tenant, account in accounts])

    async def check_entries(self) -> None:
        """The outboxes hold exactly the twin's postings, in order."""
        found = [_posting_of(entry) for entry in await self.real.entries()]
        expected = sorted(self.world.entries, key=lambda row: (row[0], row[1]))
        assert found == [
            (
                partition,
                seq,
                posting.kind,
                posting.account,
                posting.credit_type,
                posting.version,
                posting.delta_figures(),
                posting.after,
                posting.grant_postings(),
                posting.at_ms,
            )
            for partition, seq, posting in expected
        ]

    async def check_figures(self) -> None:
        """The entries add up to what lies in the store, tree by tree."""
        reader, entries = TreeReader(self.real.store, self.real.keys), await self.real.entries()
        for tenant, root in self.world.trees:
            accounts = {
                account for (_, account), found in self.world.root_of.items() if found == root
            }
            hot = await reader.read(tenant, root)
            assert hot.figures is not None
            added_up = sums([entry for entry in entries if entry.account in accounts])
            assert differences(hot.figures, added_up) == []
            assert contradictions(hot.figures) == []


def hold_id(token: str, tenant: str = "t") -> str:
    """The id inside a hold's token."""
    read = SIGNER.read(tenant, token)
    assert read is not None
    return read.hold.hex()


def comparable(answer: object) -> object:
    """An answer without what only the engine has: tokens become ids, sentences are left out."""
    if isinstance(answer, HoldfastError):
        return answer.reason
    if isinstance(answer, NeedsLedger):
        # The twin has no ledger: it does not know the hold or the grant either.
        is_grant = answer.flag is Flag.GRANT_GONE
        return Reason.GRANT_NOT_FOUND if is_grant else Reason.HOLD_NOT_FOUND
    assert not isinstance(answer, Exception)
    changed: dict[str, Any] = {}
    if isinstance(answer, rp.ReserveReply) and len(answer.hold) > 32:
        changed["hold"] = hold_id(answer.hold)
    if hasattr(answer, "applied"):
        changed["applied"] = replace(answer.applied, replayed=False)
    if isinstance(answer, rp.ExpireReply):
        # The engine only knows a lower bound of when the next thing is due.
        changed |= {"holds": 0, "grants": 0, "next_due_ms": 0}
    return replace(answer, **changed) if changed else answer  # type: ignore[type-var]


def _plain(operation: Operation) -> Operation:
    if isinstance(operation, op.Commit | op.Release | op.Extend):
        return replace(operation, hold=hold_id(operation.hold, operation.tenant))
    return operation


def _new_id(answer: object) -> str:
    """The id that the engine drew for a new hold or grant."""
    if isinstance(answer, rp.ReserveReply) and answer.hold:
        return hold_id(answer.hold)
    return answer.grant_id if isinstance(answer, rp.GrantReply) else "0" * 32


def _posting_of(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.partition,
        entry.seq,
        entry.kind,
        entry.account,
        entry.credit_type,
        entry.version,
        entry.delta,
        entry.after,
        entry.grants,
        entry.event_ms if entry.kind in BY_TIME else None,
    )
