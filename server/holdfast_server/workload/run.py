"""One run from beginning to end: set up who asks, send the trace, wait for rest, audit, report."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress

from holdfast import AccountStatus, AsyncClient, Durability, new_key
from holdfast_server.workload.checks.audit import Audit, Auditor
from holdfast_server.workload.drive import Driver, Pace
from holdfast_server.workload.history import History
from holdfast_server.workload.population import (
    CREDITS,
    PREMIUM,
    AccountPlan,
    GrantPlan,
    Population,
    plan_population,
)
from holdfast_server.workload.report import Report, make_progress, make_report, show_report
from holdfast_server.workload.trace import TraceRow

#: Requests under way at once: enough to keep two cores busy, few enough that none waits long.
CONCURRENCY_DEFAULT = 48
#: Connections: servers that share a port are balanced by connection.
CONNECTIONS = 8
#: Accounts set up at once.
SETUP_CONCURRENCY = 64
#: How long a call may take in all: a run that meets a restart goes on afterwards.
TIMEOUT_MS = 30_000


@dataclass(frozen=True)
class Options:
    """How to run. `speed`: requests arrive so many times faster than recorded; 0: when answered."""

    concurrency: int = CONCURRENCY_DEFAULT
    seed: int = 1
    speed: float = 0.0


@dataclass(frozen=True, slots=True)
class Scene:
    """What all parts of a run share."""

    clients: Sequence[AsyncClient]
    population: Population
    history: History
    progress: Progress

    def client(self, number: int) -> AsyncClient:
        """Spreads work over the connections."""
        return self.clients[number % len(self.clients)]


async def run(  # noqa: PLR0913, PLR0917
    target: str,
    token: str,
    postgres_url: str,
    redis_url: str,
    requests: Sequence[TraceRow],
    options: Options,
    console: Console,
) -> Report:
    """Drives the service at `target` and audits it through both stores. Shows it on `console`.

    The credential needs the roles spender, reader, granter and tenant-admin. Raises HoldfastError
    when the accounts cannot be set up, and TimeoutError when the service does not come to rest.
    """
    population = plan_population(f"run-{secrets.token_hex(4)}", len(requests), options.seed)
    history = History()
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                AsyncClient(target, token=token, credit_type=CREDITS, timeout_ms=TIMEOUT_MS)
            )
            for _ in range(CONNECTIONS)
        ]
        scene = Scene(clients, population, history, stack.enter_context(make_progress(console)))
        await _set_up(scene)
        drive_s = await _drive(scene, requests, options)
        auditor = Auditor(clients[0], postgres_url, redis_url, population.accounts)
        audit = await _audit(scene, auditor)
    report = make_report(history, audit, len(requests), drive_s)
    show_report(report, console)
    return report


async def _set_up(scene: Scene) -> None:
    """Creates credit types, then accounts level by level, each with its grants."""
    accounts = len(scene.population.accounts)
    task = scene.progress.add_task("accounts and grants", total=accounts, note="")
    for credit_type in (CREDITS, PREMIUM):
        await scene.client(0).create_credit_type(credit_type)
    slots = asyncio.Semaphore(SETUP_CONCURRENCY)

    async def set_up(number: int, plan: AccountPlan) -> None:
        async with slots:
            await _set_up_account(scene.client(number), plan, scene.history)
        scene.progress.advance(task)

    for level in scene.population.levels:
        try:
            async with asyncio.TaskGroup() as group:
                for number, plan in enumerate(level):
                    group.create_task(set_up(number, plan))
        except ExceptionGroup as several:
            # All of them failed for the same reason, so the first says enough.
            raise several.exceptions[0] from several


async def _set_up_account(client: AsyncClient, plan: AccountPlan, history: History) -> None:
    key = new_key()
    created = await client.create_account(
        plan.account,
        parent=plan.parent,
        overdraft_limits={CREDITS: plan.overdraft} if plan.overdraft else None,
        limits=plan.limits,
        key=key,
    )
    history.kept("CreateAccount", key, created, 0)
    for grant in plan.grants:
        await _grant(client, plan.account, grant, history)
    if plan.frozen:
        key = new_key()
        frozen = await client.update_account(plan.account, status=AccountStatus.FROZEN, key=key)
        history.kept("UpdateAccount", key, frozen, 0)


async def _grant(client: AsyncClient, account: str, plan: GrantPlan, history: History) -> None:
    key, now_ms = new_key(), time.time_ns() // 1_000_000
    result = await client.grant(
        account,
        plan.amount,
        source=plan.source,
        credit_type=plan.credit_type,
        priority=plan.priority,
        effective_at_ms=now_ms + plan.delay_ms if plan.delay_ms else 0,
        expires_at_ms=now_ms + plan.lifetime_ms if plan.lifetime_ms else 0,
        cost_amount=plan.cost,
        cost_currency="USD" if plan.cost else "",
        reason_code="workload",
        key=key,
        # Thousands of grants at once: the audit will see whether the ledger has them.
        durability=Durability.MEMORY,
    )
    # Credits that only become effective later are granted by the service itself, then.
    history.kept("Grant", key, result, 0 if plan.delay_ms else plan.amount)


async def _drive(scene: Scene, requests: Sequence[TraceRow], options: Options) -> float:
    """Sends the trace; answers how many seconds that took."""
    history, progress = scene.history, scene.progress
    task = progress.add_task("requests", total=len(requests), note="")

    def done(count: int) -> None:
        note = f"{history.granted:,} granted, {history.denied:,} denied"
        progress.update(task, advance=count, note=note)

    users = [user.account for user in scene.population.users]
    driver = Driver(scene.clients, users, options.seed, history)
    started_s = time.perf_counter()
    await driver.run(requests, Pace(options.concurrency, options.speed), done)
    return time.perf_counter() - started_s


async def _audit(scene: Scene, auditor: Auditor) -> Audit:
    note = "waiting for holds to expire, then reading everything"
    task = scene.progress.add_task("audit", total=1, note=note)
    audit = await auditor.audit(scene.history)
    scene.progress.update(task, advance=1, note=f"{audit.ledger_rows:,} ledger rows")
    return audit
