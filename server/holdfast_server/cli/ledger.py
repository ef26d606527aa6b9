"""`holdfast ledger`: what was recorded, and whether it still is what was recorded."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from rich.progress import Progress

from holdfast import Buckets, Client, CreditBalanceAt, Durability, Entry, Explanation
from holdfast_server.app.evidence import read_anchors
from holdfast_server.app.export import CSV_COLUMNS, read_lines, to_json, to_row
from holdfast_server.app.problem import Problem
from holdfast_server.app.stores import known_partitions, open_ledger
from holdfast_server.cli.checkpoints import public_key_option
from holdfast_server.cli.connection import Connection, client_command, connection_options
from holdfast_server.cli.options import json_option, limit_option, read_settings
from holdfast_server.cli.output import (
    Column,
    console,
    newest,
    print_facts,
    print_json,
    print_rows,
    show_time,
)
from holdfast_server.cli.values import INSTANT
from holdfast_server.domain.checkpoint import Anchors, Vouched
from holdfast_server.domain.entry import parse_transaction_id
from holdfast_server.ledger.records import RecordedEntry
from holdfast_server.ledger.store import Ledger
from holdfast_server.ledger.verify import UnreadableEntry, verify_entries


def _change(name: str) -> Column[Entry]:
    def text(each: Entry) -> str:
        change = getattr(each.delta, name)
        return f"{change:+d}" if change else ""

    return Column(name, text, figure=True)


_ENTRY_COLUMNS = (
    Column[Entry]("time", lambda each: show_time(each.event_time_ms)),
    Column[Entry]("transaction", lambda each: each.transaction_id),
    Column[Entry]("kind", lambda each: each.kind.name),
    Column[Entry]("type", lambda each: each.credit_type),
    *map(_change, ("available", "held", "burned", "debt", "unenforced", "expired", "revoked")),
    Column[Entry]("available after", lambda each: str(each.after.available), figure=True),
    Column[Entry]("actor", lambda each: each.actor),
    Column[Entry]("caller", lambda each: each.caller),
    Column[Entry]("trace", lambda each: each.trace_id[:8]),
)


def _at(name: str) -> Column[CreditBalanceAt]:
    return Column(name, lambda each: str(getattr(each.buckets, name)), figure=True)


_AT_COLUMNS = (
    Column[CreditBalanceAt]("type", lambda each: each.credit_type),
    *map(_at, ("available", "held", "burned", "expired", "revoked")),
    *map(_at, ("granted", "debt", "unenforced")),
    Column[CreditBalanceAt]("version", lambda each: str(each.version), figure=True),
)


@click.group()
def ledger() -> None:
    """Ledger: every state change, in order, for ever."""


@ledger.command("list")
@click.argument("account")
@click.option("--credit-type", default="", help="Only this one.")
@click.option("--from", "from_ms", type=INSTANT, default=0, help="At or after this instant.")
@click.option("--to", "to_ms", type=INSTANT, default=0, help="Before this instant.")
@limit_option
@client_command
def list_entries(client: Client, as_json: bool, account: str, limit: int, **options: Any) -> None:
    """List an account's entries, newest first."""
    entries = client.list_entries(account, **options)
    print_rows(newest(entries, limit), _ENTRY_COLUMNS, as_json=as_json)


@ledger.command()
@click.argument("subject")
@click.option("--credit-type", default="credits", show_default=True, help="Of an account.")
@click.option("--at", "instant_ms", type=INSTANT, default=0, help="Of an account; default: now.")
@client_command
def explain(client: Client, as_json: bool, subject: str, **options: Any) -> None:
    """Show the entries behind a transaction (such as 17-1-42) or an account's balance."""
    if parse_transaction_id(subject):
        explanation = client.explain(subject)
    else:
        explanation = client.explain(account=subject, **options)
    if as_json:
        print_json(explanation)
    else:
        _print_explanation(explanation)


@ledger.command()
@click.argument("account")
@click.argument("instant_ms", metavar="INSTANT", type=INSTANT)
@client_command
def at(client: Client, as_json: bool, account: str, instant_ms: int) -> None:
    """Show an account's balance as it was at an instant, such as 2026-01-31T12:00:00Z."""
    balance = client.balance_at(account, instant_ms=instant_ms)
    if as_json:
        print_json(balance)
        return
    print_rows(balance.credits, _AT_COLUMNS, as_json=False)
    if balance.as_of_ms:
        complete = f"\nThe ledger is complete up to {show_time(balance.as_of_ms)}"
        console().print(f"{complete}; what expired in the seconds before may not be booked yet.")


@ledger.command("await")
@click.argument("transaction_id")
@click.option(
    "--durability",
    type=click.Choice([each.name.lower() for each in Durability if each]),
    default="ledger",
    show_default=True,
)
@client_command
def await_durable(client: Client, as_json: bool, transaction_id: str, durability: str) -> None:
    """Wait until a transaction (such as 17-1-42) will last; status 1 where that takes too long."""
    wanted = Durability[durability.upper()]
    reached = client.await_durable(transaction_id, wanted)
    facts = {"durability": reached.name}
    print_facts(facts, facts, as_json=as_json)
    if reached < wanted:
        raise Problem(f"only {reached.name} so far: look at `holdfast doctor`, and try again")


@ledger.command()
@click.option("--partition", "partitions", type=int, multiple=True, help="Only this. Repeatable.")
@click.option("--offline", is_flag=True, help="Ask Postgres itself, without the service.")
@click.option("--postgres-url", help="With --offline. Or HOLDFAST_POSTGRES_URL.")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Verify an export (jsonl) instead, with nothing but the file.",
)
@click.option(
    "--checkpoints",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="With --offline or --file: what the ledger must still have. Repeatable.",
)
@public_key_option
@connection_options
@json_option
def verify(
    connection: Connection, as_json: bool, partitions: tuple[int, ...], **where: Any
) -> None:
    """Check hash chain, sequence, versions, conservation, holds, keys and terms of grants and
    accounts; status 1 where one fails.

    With --checkpoints also that nothing is missing at the end, which a chain alone cannot show.
    A file says nothing about keys and terms. What answers to retries say, policies and credit types
    are not looked at.
    """
    if where["file"] and (where["offline"] or partitions):
        raise click.UsageError("a --file is verified whole, and without Postgres")
    anchors = _anchors(where)
    vouched = anchors.vouched if anchors else {}
    if where["file"]:
        report: Any = _verify_file(where["file"], vouched)
    elif where["offline"]:
        report = asyncio.run(_verify_offline(where["postgres_url"], partitions, vouched))
    else:
        with connection.open() as client:
            report = client.verify(partitions)
    flaws = anchors.flaws if anchors else ()
    ok = report.ok and not flaws
    if as_json:
        print_json(
            {
                "ok": ok,
                "entries": report.entries,
                "violations": report.violations,
                "checkpoints": anchors.checkpoints if anchors else 0,
                "flaws": flaws,
            }
        )
    else:
        _print_violations(report, anchors)
    if not ok:
        raise Problem("the ledger is not what was recorded: keep it as it is, look who changed it")


@ledger.command()
@click.argument("format", type=click.Choice(["csv", "jsonl"]))
@click.option("--partition", "partitions", type=int, multiple=True, help="Only this. Repeatable.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: stdout.")
@click.option("--postgres-url", help="Or HOLDFAST_POSTGRES_URL.")
def export(
    format: str, partitions: tuple[int, ...], output: Path | None, postgres_url: str | None
) -> None:
    """Write every entry, partition by partition in order, from Postgres itself."""
    write = _write_csv if format == "csv" else _write_jsonl
    with _opened_output(output) as stream:
        try:
            count = asyncio.run(_export(postgres_url, partitions, write(stream)))
        except UnreadableEntry as error:
            raise Problem(
                f"{error}, and nothing behind it was exported: `holdfast ledger verify --offline` "
                "says what else was changed; export other partitions with --partition"
            ) from error
    print(f"{count} entries", file=sys.stderr)


def _print_explanation(explanation: Explanation) -> None:
    has_balance = explanation.opening != Buckets() or explanation.closing != Buckets()
    if has_balance:
        console().print(f"before: {_figures(explanation.opening)}\n")
    print_rows(explanation.entries, _ENTRY_COLUMNS, as_json=False)
    if has_balance:
        console().print(f"\nafter:  {_figures(explanation.closing)}")


def _figures(buckets: Buckets) -> str:
    names = ("available", "held", "burned", "expired", "revoked", "granted", "debt", "unenforced")
    return ", ".join(f"{getattr(buckets, name)} {name}" for name in names)


def _anchors(where: dict[str, Any]) -> Anchors | None:
    if not where["checkpoints"]:
        if where["public_keys"]:
            raise click.UsageError("a --public-key judges --checkpoints: give those as well")
        return None
    if not (where["file"] or where["offline"]):
        raise click.UsageError("--checkpoints are compared with --offline or with a --file")
    anchors = read_anchors(where["checkpoints"], where["public_keys"])
    if not anchors.checkpoints:
        raise Problem("there are no checkpoints in these files")
    return anchors


def _print_violations(report: Any, anchors: Anchors | None) -> None:
    flaws = anchors.flaws if anchors else ()
    beside = f" against {anchors.checkpoints} checkpoints" if anchors else ""
    state = "all is well" if report.ok and not flaws else "BROKEN"
    console().print(f"{report.entries} entries checked{beside}: {state}.")
    for flaw in flaws:
        console().print(f"checkpoint {flaw.number}: {flaw.message}")
    for violation in report.violations:
        place = f"partition {violation.partition}, entry {violation.seq}"
        console().print(f"{violation.check}: {place}: {violation.message}")


def _verify_file(path: Path, vouched: Mapping[int, Vouched]) -> Any:
    with path.open(encoding="utf-8") as lines:
        try:
            return verify_entries(read_lines(lines), vouched)
        except ValueError as error:
            raise Problem(f"{path}: {error}") from error


@asynccontextmanager
async def _opened(postgres_url: str | None) -> AsyncIterator[Ledger]:
    settings = read_settings({"postgres_url": postgres_url})
    async with open_ledger(settings) as ledger:
        yield ledger


async def _verify_offline(
    postgres_url: str | None, partitions: tuple[int, ...], vouched: Mapping[int, Vouched]
) -> Any:
    async with _opened(postgres_url) as ledger:
        count = len(await ledger.flushed())
        chosen = known_partitions(partitions, count)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("partitions", total=len(chosen) or count)
            return await ledger.verify(
                chosen or None,
                vouched=vouched,
                on_progress=lambda *_: progress.advance(task),
            )


async def _export(
    postgres_url: str | None, partitions: tuple[int, ...], write: Callable[[RecordedEntry], None]
) -> int:
    count = 0
    async with _opened(postgres_url) as ledger:
        there = await ledger.flushed()
        chosen = known_partitions(partitions or there, len(there))
        with Progress(console=Console(stderr=True), transient=True) as progress:
            for partition in progress.track(chosen, description="partitions"):
                async with aclosing(ledger.stream_entries(partition)) as entries:
                    async for recorded in entries:
                        write(recorded)
                        count += 1
    return count


@contextmanager
def _opened_output(path: Path | None) -> Iterator[TextIO]:
    """In UTF-8, whatever the locale: an export is read elsewhere."""
    try:
        if path is None:
            if isinstance(sys.stdout, TextIOWrapper):
                sys.stdout.reconfigure(encoding="utf-8")
            yield sys.stdout
        elif path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8", newline="") as stream:
                yield stream
        else:
            with _opened_file(path.resolve()) as stream:
                yield stream
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Problem(f"{path or 'standard output'}: {error.strerror}") from error


@contextmanager
def _opened_file(path: Path) -> Iterator[TextIO]:
    """A file that has its name once it is whole: an export that fails leaves the one before."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("w", encoding="utf-8", newline="") as stream:
            if path.exists():
                shutil.copymode(path, partial)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_csv(stream: TextIO) -> Callable[[RecordedEntry], None]:
    writer = csv.writer(stream)
    writer.writerow(CSV_COLUMNS)
    return lambda recorded: writer.writerow(to_row(recorded))


def _write_jsonl(stream: TextIO) -> Callable[[RecordedEntry], None]:
    def write(recorded: RecordedEntry) -> None:
        stream.write(json.dumps(to_json(recorded)) + "\n")

    return write
