"""What commands print: tables for people, JSON lines for machines."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import click
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table

Row = TypeVar("Row")

#: Characters of the widest table.
WIDTH_MAX = 10_000
#: What a terminal obeys in place of showing it; a line break is harmless.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


@dataclasses.dataclass(frozen=True)
class Column(Generic[Row]):
    """One column of a table: its heading, and the text it shows of a row."""

    heading: str
    text: Callable[[Row], str]
    #: Figures stand to the right, so that digits of one weight are below each other.
    figure: bool = False
    #: Prose may be broken into lines on a terminal; ids and figures never.
    prose: bool = False


def plain(value: object) -> object:
    """The value as JSON has it: enums by name, bytes in hexadecimal digits, paths as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    match value:
        case Enum():
            return value.name
        case bytes():
            return value.hex()
        case Path():
            return str(value)
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case tuple() | list() | set() | frozenset():
            return [plain(item) for item in value]
        case _:
            return value


def print_json(value: object) -> None:
    """One JSON object on a line of its own."""
    click.echo(json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False))


def newest(rows: Iterable[Row], limit: int) -> Iterable[Row]:
    """The first `limit` of them, 0 for all; nothing beyond is asked for."""
    return islice(rows, limit or None)


def print_rows(rows: Iterable[Row], columns: Sequence[Column[Row]], *, as_json: bool) -> None:
    """Rows as a table, or each as a JSON object."""
    if as_json:
        for row in rows:
            print_json(row)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify: JustifyMethod = "right" if column.figure else "left"
        table.add_column(column.heading, justify=justify, no_wrap=not column.prose)
    for row in rows:
        table.add_row(*(_inert(column.text(row)) for column in columns))
    if table.row_count:
        _print_whole(table)
    else:
        click.echo("Nothing.")


def print_facts(facts: Mapping[str, object], value: object, *, as_json: bool) -> None:
    """One thing: its facts by name for people, `value` for machines."""
    if as_json:
        print_json(value)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, fact in facts.items():
        if fact not in ("", None):
            table.add_row(f"{name}:", _inert(str(fact)))
    _print_whole(table)


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Lets the command line end as it does without rich, which would end it as an error."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output for people. Nothing in a text is taken for markup: ids come from outside."""
    return _Output(markup=False, emoji=False, highlight=False, soft_wrap=True)


def _inert(text: str) -> str:
    """A text without power over the terminal: reasons, names and labels come from callers."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _print_whole(table: Table) -> None:
    """Prints a table as wide as it must be: an id that was cut short cannot be copied."""
    for column in table.columns:
        if column.no_wrap:
            # Else it counts as narrow as its longest word.
            column.min_width = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
    wide = console()
    width = wide.measure(table, options=wide.options.update(width=WIDTH_MAX))
    wide.width = max(wide.width, width.minimum if wide.is_terminal else width.maximum)
    wide.print(table)


def show_time(instant_ms: int) -> str:
    """An instant in UTC, or empty for 0."""
    if not instant_ms:
        return ""
    moment = datetime.fromtimestamp(instant_ms / 1000, UTC)
    return moment.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")


def show_duration(milliseconds: int) -> str:
    """A length of time in the largest unit that leaves it whole, such as "90s" or "15m"."""
    for unit, length_ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if milliseconds and milliseconds % length_ms == 0:
            return f"{milliseconds // length_ms}{unit}"
    return f"{milliseconds}ms"
