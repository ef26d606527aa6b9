"""Builds the concrete objects of a process. Nothing else builds them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from holdfast_server.api.accounts import AccountService
from holdfast_server.api.allowance import Allowance
from holdfast_server.api.balance import Awaiter, BalanceService
from holdfast_server.api.control import ControlService
from holdfast_server.api.dispatch import Bounds, Dispatcher
from holdfast_server.api.grants import GrantService
from holdfast_server.api.ledger import LedgerService
from holdfast_server.api.methods import Service
from holdfast_server.api.page_token import PageTokens
from holdfast_server.api.server import ApiServer
from holdfast_server.api.submission import Submission
from holdfast_server.api.transport import Certificates, Endpoint
from holdfast_server.app.credentials import open_authenticator
from holdfast_server.app.deployment import make_signer, page_key
from holdfast_server.app.durability import least_durabilities
from holdfast_server.app.process import Process
from holdfast_server.control.auditor import Auditor
from holdfast_server.control.config import ConfigCache
from holdfast_server.control.due_search import DueSearch
from holdfast_server.control.durability import Durable, Promises, Wait
from holdfast_server.control.evictor import EvictionLimits, Evictor
from holdfast_server.control.former_homes import FormerHomes
from holdfast_server.control.gate import Gate
from holdfast_server.control.hot_trees import HotTrees
from holdfast_server.control.hydration import HydrationLimits, Hydrator
from holdfast_server.control.operations import Operations
from holdfast_server.control.passage import Passage
from holdfast_server.control.policies import Policies
from holdfast_server.control.reconcile import Reconciler
from holdfast_server.control.snapshot_audit import SnapshotAudit
from holdfast_server.control.snapshots import SnapshotKeeper
from holdfast_server.control.spool import Spool
from holdfast_server.control.warm_up import WarmUp
from holdfast_server.domain.operation import Durability
from holdfast_server.domain.submit import Attempter
from holdfast_server.domain.token import TokenSigner
from holdfast_server.engine.accounts import AccountReader
from holdfast_server.engine.backlog import entries_waiting
from holdfast_server.engine.barrier import Barrier, mark_of
from holdfast_server.engine.batcher import Batcher, Calls, Limits
from holdfast_server.engine.directory import Directory
from holdfast_server.engine.due_notes import DueNotes
from holdfast_server.engine.engine import Engine, Parts
from holdfast_server.engine.former_keys import FormerKeys
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.levels import StoreLevels
from holdfast_server.engine.roots import Roots
from holdfast_server.engine.scripts import load
from holdfast_server.engine.store import Store
from holdfast_server.engine.tree_store import TreeStore
from holdfast_server.engine.trees import TreeReader
from holdfast_server.engine.watermark import Watermarks
from holdfast_server.ledger.records import CreditType
from holdfast_server.ledger.store import Ledger
from holdfast_server.settings import Settings
from holdfast_server.telemetry.names import Hydrated

#: Name of the spool in the state directory.
SPOOL_FOLDER = "spool"


@dataclass(frozen=True, slots=True)
class Decider:
    """What decides: the engine, and the parts of it that others ask as well."""

    engine: Engine
    batcher: Batcher
    directory: Directory
    signer: TokenSigner
    hydrator: Hydrator


def build_decider(process: Process) -> Decider:
    """The engine over the hot store."""
    settings, store, keys = process.settings, process.store, process.keys
    limits = Limits(
        batch_operations=settings.batch_operations_max,
        queue_operations=settings.queue_operations_max,
        outbox_entries=settings.outbox_entries_hard,
    )
    signer = make_signer(process.facts)
    calls = Calls(
        store,
        keys,
        load("apply"),
        longest_window_ms(process.config),
        clock_ms=store.clock.expected_ms,
        learn_epochs=process.epochs.refresh,
    )
    batcher = Batcher(calls, limits, process.metrics, process.tracing)
    directory = Directory(store, keys)
    accounts = AccountReader(store, keys, signer, clock_ms=store.clock.expected_ms)
    hydrator = Hydrator(
        process.ledger,
        TreeStore(store, keys),
        process.metrics,
        HydrationLimits(names_per_second=settings.hydrate_accounts_per_second),
        SnapshotKeeper(process.ledger, process.metrics),
    )
    roots = Roots(directory, hydrator)
    parts = Parts(
        batcher, roots, accounts, keys, signer, process.config, process.epochs.acknowledged
    )
    engine = Engine(parts)
    return Decider(engine, batcher, directory, signer, hydrator)


def build_operations(process: Process, decider: Decider) -> Operations:
    """What decides with both stores."""
    watermarks = Watermarks(process.store, process.keys)
    return Operations(decider.engine, process.ledger, watermarks, process.config)


def build_reconciler(store: Store, keys: Keys, ledger: Ledger) -> tuple[Reconciler, TreeReader]:
    """What compares the hot store with the ledger, and what it reads trees with."""
    reader = TreeReader(store, keys)
    return Reconciler(reader, ledger, Watermarks(store, keys)), reader


def build_auditor(process: Process) -> Auditor:
    """What does so for ever."""
    reconciler, reader = build_reconciler(process.store, process.keys, process.ledger)
    trees = process.settings.audit_trees_per_second
    return Auditor(reconciler, reader, process.ledger, process.metrics, trees)


def build_evictor(process: Process) -> Evictor:
    """What makes room in the hot store."""
    store, keys, settings = process.store, process.keys, process.settings
    return Evictor(
        TreeStore(store, keys),
        TreeReader(store, keys),
        Watermarks(store, keys),
        EvictionLimits(settings.evict_idle_ms, settings.evict_memory_percent),
        process.metrics,
    )


def build_due_search(process: Process) -> DueSearch:
    """What finds out what is due in partitions that were rebuilt."""
    keys = process.keys
    return DueSearch(process.ledger, DueNotes(process.store, keys), keys)


def build_warm_up(process: Process, decider: Decider) -> WarmUp:
    """What brings back trees that were in use when their partition was rebuilt."""
    hydrator = decider.hydrator.beside(Hydrated.WARM_UP)
    trees = TreeStore(process.store, process.keys)
    clock_ms = process.store.clock.expected_ms

    async def wants_memory() -> bool:
        return await trees.memory_percent() >= process.settings.evict_memory_percent

    return WarmUp(process.ledger, hydrator, process.keys, wants_memory, clock_ms)


def build_hot_trees(process: Process) -> HotTrees:
    """What keeps snapshots of trees that are always in use."""
    return HotTrees(process.ledger, SnapshotKeeper(process.ledger, process.metrics))


def build_snapshot_audit(process: Process) -> SnapshotAudit:
    """What makes sure that snapshots are right."""
    return SnapshotAudit(process.ledger, process.metrics)


def build_former_homes(process: Process) -> FormerHomes:
    """What removes the hot state that was given up long ago."""
    former = FormerKeys(process.store, process.keys)
    return FormerHomes(process.ledger, former, lambda: time.time_ns() // 1_000_000)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for durability, and what that needs."""

    durable: Durable
    levels: StoreLevels
    barriers: Sequence[Barrier]

    async def close(self) -> None:
        """Closes the connections that are waited on."""
        for barrier in self.barriers:
            await barrier.close()


def build_waiting(process: Process, decider: Decider, operations: Operations) -> Waiting:
    """What answers once it will last."""
    settings, levels = process.settings, StoreLevels(process.store)
    barriers = {
        level: Barrier(
            process.store,
            process.keys,
            mark_of(level, settings.durability_replicas),
        )
        for level in (Durability.FSYNCED, Durability.REPLICATED)
    }
    waits: dict[Durability, Wait] = {**barriers, Durability.LEDGER: operations.watermarks}
    promises = Promises(levels, settings.durability_replicas, least_durabilities(settings))
    durable = Durable(
        operations,
        promises,
        waits,
        decider.engine,
        process.keys.epochs,
        process.epochs.refresh,
        process.metrics,
    )
    return Waiting(durable, levels, list(barriers.values()))


def build_gate(process: Process, decider: Decider, inner: Attempter, spool: Spool) -> Gate:
    """What stands before all that: kill switch, and policies for a store that is away."""
    passage = Passage(process.config, decider.directory, decider.signer, spool, process.metrics)
    return Gate(inner, process.kill, passage)


def open_spool(process: Process) -> Spool:
    """The spool of this process. Raises OSError."""
    settings = process.settings
    return Spool(
        settings.state_dir / SPOOL_FOLDER,
        settings.spool_bytes_max,
        settings.spool_records_max,
        process.metrics,
    )


async def build_server(
    process: Process, decider: Decider, gate: Gate, awaiter: Awaiter
) -> ApiServer:
    """The gRPC server, not yet listening."""
    settings = process.settings
    authenticator = await open_authenticator(settings)
    dispatcher = Dispatcher(
        authenticator,
        Allowance(settings.tenant_operations_per_second, time.monotonic_ns),
        Bounds(settings.deadline_ms_max, settings.concurrent_rpcs_max),
        process.metrics,
        process.tracing,
    )
    services = _services(process, decider, Submission(gate, process.metrics), awaiter)
    return ApiServer(_endpoint(settings), services, authenticator, dispatcher)


def longest_window_ms(config: ConfigCache) -> Callable[[], int]:
    """For how long the store remembers idempotency keys: as long as any tenant wants it.

    Computed when the policies change: it is asked before every script call.
    """
    known: tuple[int, int] | None = None

    def window_ms() -> int:
        nonlocal known
        if known is None or known[0] != config.version:
            windows = (each.idempotency_window_ms for each in config.policies().counting(0))
            known = config.version, max(windows, default=0)
        return max(known[1], config.idempotency_window_ms(""))

    return window_ms


def _services(
    process: Process, decider: Decider, submission: Submission, awaiter: Awaiter
) -> list[Service]:
    ledger, pages = process.ledger, PageTokens(page_key(process.facts))
    policies = Policies(ledger, process.config)
    return [
        BalanceService(submission, decider.engine, awaiter, pages),
        AccountService(submission, decider.engine, ledger, _CreditTypes(policies, ledger), pages),
        GrantService(submission, ledger, pages),
        LedgerService(ledger, pages, process.facts.partitions),
        ControlService(policies, ledger, pages, _waiting_entries(process)),
    ]


def _waiting_entries(process: Process) -> Callable[[], Awaitable[int]]:
    return lambda: entries_waiting(process.store, process.keys)


def _endpoint(settings: Settings) -> Endpoint:
    return Endpoint(
        host=settings.host,
        port=settings.port,
        certificates=_certificates(settings),
        development=settings.development,
        share_port=True,
        reflection=settings.reflection_enabled,
        message_bytes_max=settings.message_bytes_max,
    )


def _certificates(settings: Settings) -> Certificates | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


@dataclass(frozen=True, slots=True)
class _CreditTypes:
    """Credit types as the API asks: changed through `Policies`, read from the ledger."""

    policies: Policies
    ledger: Ledger

    async def create_credit_type(
        self, tenant: str, credit_type: CreditType, created_by: str
    ) -> CreditType:
        """See `Policies.create_credit_type`."""
        return await self.policies.create_credit_type(tenant, credit_type, created_by)

    async def list_credit_types(self, tenant: str) -> list[CreditType]:
        """See `Ledger.list_credit_types`."""
        return await self.ledger.list_credit_types(tenant)
