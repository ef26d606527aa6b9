"""Arguments that have a form of their own: names, amounts, times, labels, limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import click

from holdfast import Limit, LimitEnforcement, LimitUnit, LimitWindow
from holdfast_server.domain.amount import parse_amount
from holdfast_server.errors import HoldfastError

Parsed = TypeVar("Parsed")

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)")
_ENFORCEMENTS = {each.name.lower(): each for each in LimitEnforcement if each}
_WINDOWS = {
    "day": LimitWindow.CALENDAR_DAY,
    "month": LimitWindow.CALENDAR_MONTH,
    "sliding": LimitWindow.SLIDING,
    "burst": LimitWindow.BURST,
}


def form(name: str, parse: Callable[[str], object]) -> Callable[[object], object]:
    """An argument's type for click: `name` stands in help texts, `parse` reads a text.

    What `parse` raises becomes a usage error in its own words.
    """

    def convert(value: object) -> object:
        # A default is given as it shall be.
        if not isinstance(value, str):
            return value
        try:
            return parse(value)
        except HoldfastError as error:
            raise click.BadParameter(f"{value!r}: {error.message}") from error
        except ValueError as error:
            raise click.BadParameter(f"{value!r}: {error}") from error

    convert.__name__ = name
    return convert


def or_none(convert: Callable[[object], object]) -> Callable[[object], object]:
    """The same type, which also takes the word none: for lists that can be made empty."""

    def either(value: object) -> object:
        return None if value == "none" else convert(value)

    either.__name__ = convert.__name__
    return either


def parse_text(text: str) -> str:
    """A name or an address. What is no UTF-8 arrives in surrogates, which no store has. Raises
    ValueError.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("give it in UTF-8") from None
    return text


def parse_duration_ms(text: str) -> int:
    """Milliseconds of "500ms", "90s", "15m", "24h" or "30d". Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("give a number with ms, s, m, h or d, such as 90s")
    return int(match[1]) * _UNITS_MS[match[2]]


def parse_instant_ms(text: str) -> int:
    """Milliseconds since the Unix epoch of an ISO 8601 date or time; UTC where it names no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("give a date or time such as 2026-01-31 or 2026-01-31T12:00:00Z") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def parse_line(text: str) -> tuple[str, int]:
    """Credit type and amount of "TYPE=AMOUNT"; the type is empty for a bare amount."""
    credit_type, _, amount = text.rpartition("=")
    return credit_type, parse_amount(amount)


def parse_used(text: str) -> tuple[str, int]:
    """As `parse_line`, where nothing is an amount, too."""
    credit_type, _, amount = text.rpartition("=")
    return credit_type, parse_amount(amount, minimum=0)


def parse_pair(text: str) -> tuple[str, str]:
    """Name and value of "NAME=VALUE"."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError("give NAME=VALUE")
    return name, value


def parse_limit(text: str) -> Limit:
    """A limit such as "id=daily,maximum=1000,credit-type=credits,window=day" (see LIMIT_HELP)."""
    fields = dict(parse_pair(part) for part in text.split(","))
    credit_type = fields.pop("credit-type", "")
    fields.setdefault("enforcement", "hard")
    limit = Limit(
        limit_id=_required(fields, "id"),
        unit=LimitUnit.AMOUNT if credit_type else LimitUnit.REQUESTS,
        window=_chosen(fields, "window", _WINDOWS),
        maximum=parse_amount(_required(fields, "maximum"), field="maximum"),
        enforcement=_chosen(fields, "enforcement", _ENFORCEMENTS),
        credit_type=credit_type,
        feature=fields.pop("feature", ""),
        window_ms=parse_duration_ms(fields.pop("length", "0ms")),
        warn_percents=tuple(int(part) for part in fields.pop("warn", "").split("/") if part),
    )
    if fields:
        raise ValueError(f"a limit has no {min(fields)}")
    return limit


LIMIT_HELP = (
    "id=ID,maximum=N,window=day|month|sliding|burst[,length=DURATION][,credit-type=TYPE]"
    "[,feature=ID][,enforcement=hard|soft][,warn=80/95]; without credit-type it counts requests. "
    "Or none. Repeatable."
)

TEXT = form("text", parse_text)
AMOUNT = form("amount", parse_amount)
LINE = form("amount", parse_line)
USED = form("amount", parse_used)
DURATION = form("duration", parse_duration_ms)
INSTANT = form("instant", parse_instant_ms)
PAIR = form("name=value", parse_pair)
LIMIT = form("limit", parse_limit)


def amounts_of(lines: Iterable[tuple[str, int]], credit_type: str) -> Mapping[str, int]:
    """Amounts per credit type; a bare amount is of `credit_type`. Refuses a type named twice."""
    amounts: dict[str, int] = {}
    for named, amount in lines:
        if (named or credit_type) in amounts:
            raise click.BadParameter(f"{named or credit_type} is named twice")
        amounts[named or credit_type] = amount
    return amounts


def _required(fields: dict[str, str], name: str) -> str:
    if name not in fields:
        raise ValueError(f"a limit needs {name}")
    return fields.pop(name)


def _chosen(fields: dict[str, str], name: str, choices: Mapping[str, Parsed]) -> Parsed:
    value = _required(fields, name)
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)}")
    return choices[value]
