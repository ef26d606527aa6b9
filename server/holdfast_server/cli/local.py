"""`holdfast up`, `demo` and `replay`: everything on this machine, with nothing installed before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from holdfast import AsyncClient, GrantSource
from holdfast_server import embedded
from holdfast_server.app.lifeline import run_interruptible, sigterm_as_interrupt, stop_event
from holdfast_server.app.problem import Problem
from holdfast_server.app.process import start_logging
from holdfast_server.app.supervisor import Serving, running
from holdfast_server.background import cancel
from holdfast_server.cli.options import json_option, read_settings, settings_options
from holdfast_server.cli.output import print_json
from holdfast_server.ledger.migrate import migrate
from holdfast_server.settings import RULES, Settings, variable_of
from holdfast_server.workload.report import Report
from holdfast_server.workload.run import CONCURRENCY_DEFAULT, Options, run
from holdfast_server.workload.trace import TraceError, TraceRow, generate_trace, read_trace

#: Requests of a demo: enough for every kind of answer, in about a minute on two cores.
DEMO_REQUESTS = 20_000
#: Entries that may wait for the ledger where nobody flushes: the most that can be set.
ENTRIES_WAITING_MAX = 100_000_000
#: What `holdfast up` gives its account, once.
UP_ACCOUNT = "demo"
UP_CREDIT_TYPE = "credits"
UP_AMOUNT = 1_000

Result = TypeVar("Result")


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the data stays between runs; ~/.local/share/holdfast by default.",
)
@settings_options
@json_option
def up(data: Path | None, as_json: bool, **flags: Any) -> None:
    """Run Holdfast on this machine, with stores of its own, and print how to call it."""
    folder = data or Path.home() / ".local" / "share" / "holdfast"

    async def wait(service: LocalService) -> None:
        await _prepare_account(service.serving.target)
        _print_up(service.serving, folder, as_json)
        await service.stopping.wait()

    with sigterm_as_interrupt(), _stores(folder, flags) as settings:
        run_interruptible(_serve(settings, wait))


@click.command()
@click.option(
    "--requests",
    default=DEMO_REQUESTS,
    type=click.IntRange(1),
    show_default=True,
    help="How many to make.",
)
@click.option("--seed", default=1, show_default=True, help="The same seed, the same requests.")
@settings_options
@json_option
def demo(requests: int, seed: int, as_json: bool, **flags: Any) -> None:
    """Run traffic like a product's through a whole service, and verify what it left behind.

    Settings are those of the flags alone: variables may lead to stores that others use.
    """
    rows = generate_trace(requests, seed)
    _report(_drive_locally(_Job(rows, Options(seed=seed), as_json), flags), as_json)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--target", help="A running service; by default one is started for this.")
@click.option("--token", envvar="HOLDFAST_TOKEN", default="", help="Better HOLDFAST_TOKEN.")
@click.option(
    "--speed",
    default=0.0,
    type=click.FloatRange(0),
    help="So many times faster than recorded; 0: when answered.",
)
@click.option(
    "--concurrency", default=CONCURRENCY_DEFAULT, type=click.IntRange(1), show_default=True
)
@click.option("--seed", default=1, show_default=True, help="Chooses accounts and outcomes.")
@settings_options
@json_option
def replay(file: Path, target: str | None, token: str, as_json: bool, **flags: Any) -> None:
    """Replay a trace (TIMESTAMP,ContextTokens,GeneratedTokens) as requests, and verify.

    With --target, both stores of that service must be named too: the verification reads them.
    Without it, settings are those of the flags alone, as in the demo.
    """
    try:
        rows = read_trace(file)
    except TraceError as error:
        raise Problem(f"{file}: {error}") from error
    options = Options(flags.pop("concurrency"), flags.pop("seed"), flags.pop("speed"))
    job = _Job(rows, options, as_json)
    if target is None:
        _report(_drive_locally(job, flags), as_json)
        return
    settings = read_settings(flags)
    if not (settings.redis_url and settings.postgres_url):
        raise Problem("give --redis-url and --postgres-url of that service, to verify it by them")
    _report(asyncio.run(_drive(target, token, settings, job)), as_json)


@dataclass(frozen=True, slots=True)
class LocalService:
    """A service that runs, its settings, and when it shall end."""

    serving: Serving
    settings: Settings
    stopping: asyncio.Event


@dataclass(frozen=True, slots=True)
class _Job:
    """What a demo or replay is to run, and how to show it."""

    rows: Sequence[TraceRow]
    options: Options
    as_json: bool


@dataclass(frozen=True, slots=True)
class _Command:
    """One command to try, and what it shows."""

    what: str
    text: str


def run_locally(
    flags: dict[str, Any],
    use: Callable[[LocalService], Awaitable[Result]],
    *,
    workers_only: bool = False,
) -> Result:
    """Starts everything for this run alone, and leaves nothing behind. Settings are those of the
    flags: what the environment says is about another service, whose stores would be used, and whose
    folder and evidence would be mixed with those of this run.
    """
    for name in RULES:
        os.environ.pop(variable_of(name), None)
    defaults: dict[str, object] = {"port": 0, "metrics_port": 0}
    if workers_only:
        # Without a flusher nothing ever reaches the ledger, and what waits must not stop holds.
        defaults["outbox_entries_hard"] = ENTRIES_WAITING_MAX

    async def unless_stopped(service: LocalService) -> Result:
        return await _unless_stopped(use(service), service.stopping)

    with (
        sigterm_as_interrupt(),
        embedded.temporary_folder("holdfast-") as folder,
        _stores(folder, flags, **defaults) as settings,
    ):
        return run_interruptible(_serve(settings, unless_stopped, workers_only))


def _drive_locally(job: _Job, flags: dict[str, Any]) -> Report:
    async def drive(service: LocalService) -> Report:
        return await _drive(service.serving.target, "", service.settings, job)

    return run_locally(flags, drive)


async def _drive(target: str, token: str, settings: Settings, job: _Job) -> Report:
    console = Console(stderr=job.as_json)
    urls = settings.postgres_url, settings.redis_url
    try:
        return await run(target, token, *urls, job.rows, job.options, console)
    except TimeoutError as error:
        raise Problem(str(error)) from error


@contextlib.contextmanager
def _stores(folder: Path, flags: dict[str, Any], **defaults: object) -> Iterator[Settings]:
    """Both stores, those that were not given started below `folder`, and settings for a laptop."""
    defaults |= {"development": True, "log_level": "warning", "state_dir": folder / "state"}
    given = read_settings(flags)
    missing = {name: value for name, value in defaults.items() if name not in given.origins}
    folder.mkdir(parents=True, exist_ok=True)
    urls = {"redis_url": given.redis_url or None, "postgres_url": given.postgres_url or None}
    try:
        servers = embedded.start(folder, **urls)
    except embedded.EmbeddedError as error:
        raise Problem(str(error)) from error
    with servers:
        settings = read_settings(
            {**flags, **missing},
            redis_url=servers.redis_url,
            postgres_url=servers.postgres_url,
        )
        start_logging(settings, "supervisor")
        yield settings


async def _serve(
    settings: Settings,
    use: Callable[[LocalService], Awaitable[Result]],
    workers_only: bool = False,
) -> Result:
    stopping = stop_event()
    await migrate(settings.postgres_url)
    async with running(settings, stopping, workers_only=workers_only) as serving:
        if stopping.is_set():
            raise click.Abort
        return await use(LocalService(serving, settings, stopping))


async def _unless_stopped(work: Awaitable[Result], stopping: asyncio.Event) -> Result:
    task = asyncio.ensure_future(work)
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not task.done():
        await cancel(task)
        raise click.Abort
    return task.result()


async def _prepare_account(target: str) -> None:
    """Defines the credit type, the account and its grant; a second run finds them there.

    The keys never change, so the grant is given once for ever.
    """
    async with AsyncClient(target) as client:
        await client.create_credit_type(UP_CREDIT_TYPE)
        await client.create_account(UP_ACCOUNT, key="holdfast-up-account")
        await client.grant(
            UP_ACCOUNT, UP_AMOUNT, source=GrantSource.PROMOTION, key="holdfast-up-grant"
        )


def _print_up(serving: Serving, folder: Path, as_json: bool) -> None:
    commands = _commands(serving.target)
    if as_json:
        texts = [command.text for command in commands]
        print_json({"target": serving.target, "data": folder, "commands": texts})
        return
    click.echo(
        f"Holdfast serves {serving.target}, without TLS and credentials, to this machine only.\n"
        f"The account {UP_ACCOUNT} was given {UP_AMOUNT} {UP_CREDIT_TYPE}. In another terminal:\n"
    )
    for command in commands:
        click.echo(f"# {command.what}\n{command.text}\n")
    click.echo(f"The data is in {folder}. Ctrl-C stops everything.")


def _commands(target: str) -> list[_Command]:
    program = (
        "import holdfast\n"
        f'with holdfast.Client("{target}") as client:\n'
        f'    with client.hold("{UP_ACCOUNT}", 100, feature="chat") as hold:\n'
        "        hold.commit(80)  # what the work really took\n"
        f'    print(client.balance("{UP_ACCOUNT}").spendable("{UP_CREDIT_TYPE}"))'
    )
    return [
        _Command("What it has", f"{_holdfast()} balance {UP_ACCOUNT} --target {target}"),
        _Command("Set 100 aside and use 80, in Python", f"{_python()} -c {shlex.quote(program)}"),
        _Command(
            "Any gRPC client: the service describes itself by reflection",
            f"""grpcurl -plaintext -d '{{"account": "{UP_ACCOUNT}"}}' {target} """
            "holdfast.v1.BalanceService/Balance",
        ),
    ]


def _holdfast() -> str:
    """How to call this command from another terminal."""
    if shutil.which("holdfast"):
        return "holdfast"
    beside = Path(sys.executable).with_name("holdfast")
    return shlex.quote(str(beside)) if beside.exists() else f"{_python()} -m holdfast_server"


def _python() -> str:
    return shlex.quote(sys.executable)


def _report(report: Report, as_json: bool) -> None:
    if as_json:
        click.echo(report.as_json())
    if not report.ok:
        raise click.exceptions.Exit(1)
