"""`holdfast chaos`: breaks a service of its own under load, and says what did not hold."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from holdfast_server.app.lifeline import sigterm_as_interrupt
from holdfast_server.app.problem import Problem
from holdfast_server.chaos.plan import Fault, plan_faults
from holdfast_server.chaos.report import Options, Report
from holdfast_server.chaos.run import Listener, run
from holdfast_server.cli.options import json_option
from holdfast_server.cli.output import print_facts, print_json
from holdfast_server.embedded import EmbeddedError, temporary_folder

#: What a run tells a listener, in order.
PHASES = ("starting", "breaking", "checking")
#: Violations shown to a person; the JSON object has all that were kept.
VIOLATIONS_SHOWN_MAX = 10


@click.command()
@click.option("--seed", type=int, help="Which faults, when; by default a new one each time.")
@click.option(
    "--seconds",
    default=60.0,
    type=click.FloatRange(5, 86_400),
    show_default=True,
    help="How long things go wrong.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keeps stores, log and history.jsonl here; a new folder.",
)
@json_option
def chaos(seed: int | None, seconds: float, data: Path | None, as_json: bool) -> None:
    """Kill, stop, cut and delay everything under load, then verify that nothing was lost.

    It starts stores and a service of its own and touches nothing else. A run that fails names its
    seed and commit: with both it can be repeated.
    """
    chosen = random.randrange(1, 1_000_000) if seed is None else seed
    options = Options(chosen, seconds)
    with sigterm_as_interrupt(), _folder(data) as folder, _progress(options) as listener:
        try:
            report = asyncio.run(run(folder, options, listener))
        except EmbeddedError as error:
            raise Problem(str(error)) from error
    _show(report, as_json)
    if not report.holds:
        raise click.exceptions.Exit(1)


@contextlib.contextmanager
def _folder(data: Path | None) -> Iterator[Path]:
    if data is not None:
        data.mkdir(parents=True, exist_ok=False)
        yield data.resolve()
        return
    with temporary_folder("holdfast-chaos-") as folder:
        yield folder


@contextlib.contextmanager
def _progress(options: Options) -> Iterator[Listener]:
    columns = TextColumn("{task.description:<10}"), BarColumn(), TextColumn("{task.fields[note]}")
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        total = len(plan_faults(options.seed, options.seconds)) + len(PHASES)
        task = progress.add_task("starting", total=total, note=f"seed {options.seed}")

        def phase(name: str) -> None:
            progress.update(task, description=name, advance=1)

        def fault(each: Fault) -> None:
            progress.update(task, advance=1, note=f"{each.kind} for {each.lasts_s:.1f} s")

        yield Listener(phase, fault)


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    facts = {
        "acknowledged": f"{report.acked:,}",
        "lost, applied twice": f"{report.lost:,}, {report.duplicated:,}",
        "faults": ", ".join(f"{kind} {count}" for kind, count in report.faults.items()),
        "without an answer": f"{report.attempts.get('info', 0):,}",
        "all ended after": f"{report.recovered_s} s",
        "seed, commit": f"{report.seed}, {report.commit}",
        "everything holds": "yes" if report.holds else "no",
    }
    print_facts(facts, report, as_json=False)
    for violation in report.violations[:VIOLATIONS_SHOWN_MAX]:
        click.echo(f"does not hold: {violation}")
    if not report.holds:
        click.echo(f"again: holdfast chaos --seed {report.seed} --seconds {report.seconds:g}")
