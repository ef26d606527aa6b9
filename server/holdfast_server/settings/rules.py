"""The rules of settings: how a text is parsed, what is allowed, and what is printed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})

#: What a URL begins with.
_SCHEME = re.compile(r"[A-Za-z0-9+.-]+://")
#: Parameters of a URL that prove something: passwords, and what object stores sign URLs with.
_SECRET = re.compile(r"(?i)((?:password|credential|token|signature|sig)=)[^&\s]*")


class SettingsError(ValueError):
    """A setting has a value that is not allowed. The message names it, its value and what is."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What there is to know about one setting besides its name and default.

    `parse` raises ValueError for a text that is not allowed; `allowed` says in words what is.
    """

    meaning: str
    parse: Callable[[str], object]
    allowed: str
    unit: str = ""
    #: Holds a secret, which is never printed.
    secret: bool = False
    #: The variable, where it is not the prefix and the name.
    variable: str = ""


def setting(default: object, rule: Rule) -> Any:
    """A field of the settings with its rule."""
    return field(default=default, metadata={"rule": rule})


def integer(default: int, bounds: tuple[int, int], unit: str, meaning: str) -> Any:
    """A whole number between `bounds`, both included."""
    allowed = f"{bounds[0]} to {bounds[1]}"
    return setting(default, Rule(meaning, partial(_parse_integer, bounds), allowed, unit))


def ratio(default: float, meaning: str) -> Any:
    """A share of one."""
    return setting(default, Rule(meaning, _parse_ratio, "0 to 1"))


def switch(default: bool | None, meaning: str) -> Any:
    """Yes or no; None means that another setting decides."""
    return setting(default, Rule(meaning, _parse_switch, "true or false"))


def emergency(meaning: str) -> Any:
    """A switch that any text turns on, except the words for no.

    In an emergency nobody looks up the spelling, and a process that refuses to start helps nobody.
    """
    rule = Rule(meaning, _parse_emergency, "anything; 0, false, no and off mean no")
    return setting(False, rule)


def text(default: str, meaning: str, allowed: str = "any text") -> Any:
    """A text that is checked where it is used."""
    return setting(default, Rule(meaning, _parse_text, allowed))


def choice(default: str, choices: tuple[str, ...], meaning: str, variable: str = "") -> Any:
    """One of a few words."""
    rule = Rule(meaning, partial(_parse_choice, choices), ", ".join(choices), variable=variable)
    return setting(default, rule)


def least_durability(method: str) -> Any:
    """The least durability of the answers to a method."""
    levels = ("memory", "fsynced", "replicated", "ledger")
    return choice("memory", levels, f"The least durability of {method}, whatever is asked.")


def choices(default: tuple[str, ...], allowed: tuple[str, ...], meaning: str) -> Any:
    """Some of a few words, separated by commas."""
    rule = Rule(meaning, partial(_parse_choices, allowed), "some of " + ", ".join(allowed))
    return setting(default, rule)


def url(schemes: tuple[str, ...], meaning: str) -> Any:
    """A URL, which may hold a password and is therefore never printed whole."""
    allowed = "a URL that begins with " + " or ".join(f"{scheme}://" for scheme in schemes)
    return setting("", Rule(meaning, partial(_parse_url, schemes), allowed, secret=True))


def path(meaning: str) -> Mapping[str, Rule]:
    """The metadata of a path; a path is not looked at before it is used."""
    return {"rule": Rule(meaning, Path, "a path")}


def redacted(value: str) -> str:
    """A URL without what stands before its last `@` and without secrets in its query.

    Nothing is shown of a text that is no URL: who knows what in it is the password.
    """
    scheme = _SCHEME.match(value)
    if scheme is None:
        return value and "***"
    _, at, place = value.rpartition("@")
    return _SECRET.sub(r"\1***", f"{scheme[0]}***@{place}" if at else value)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse_integer(bounds: tuple[int, int], value: str) -> int:
    number = int(value)
    if not bounds[0] <= number <= bounds[1]:
        raise ValueError
    return number


def _parse_ratio(value: str) -> float:
    number = float(value)
    # Written so that "nan" fails too.
    if not 0.0 <= number <= 1.0:
        raise ValueError
    return number


def _parse_switch(value: str) -> bool:
    if value.lower() not in _TRUE | _FALSE:
        raise ValueError
    return value.lower() in _TRUE


def _parse_emergency(value: str) -> bool:
    return value.lower() not in _FALSE


def _parse_choice(allowed: tuple[str, ...], value: str) -> str:
    if value not in allowed:
        raise ValueError
    return value


def _parse_choices(allowed: tuple[str, ...], value: str) -> tuple[str, ...]:
    return tuple(_parse_choice(allowed, part.strip()) for part in value.split(","))


def _parse_text(value: str) -> str:
    # What is no UTF-8 arrives in surrogates. A path may well be so; a name or an address may not.
    value.encode()
    return value


def _parse_url(schemes: tuple[str, ...], value: str) -> str:
    if value.partition("://")[0] not in schemes or "://" not in value:
        raise ValueError
    return _parse_text(value)
