"""Reads the settings of a process, checks them, and shows them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from holdfast_server.settings.model import RULES, Settings
from holdfast_server.settings.rules import Rule, SettingsError, is_loopback, redacted

#: What every variable begins with.
PREFIX = "HOLDFAST_"
#: Variables of ours that are no settings: of clients, benchmarks and tests.
_OTHERS = frozenset(
    PREFIX + name
    for name in ("TARGET", "TENANT", "TOKEN", "TLS_CA", "FAILPOINTS", "BENCH_PROFILES")
)
#: Bytes of one setting's text: longer ones are a mistake and would flood the log.
VALUE_BYTES_MAX = 4_096


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `holdfast settings`. `value` and `default` are text, with secrets taken out."""

    name: str
    variable: str
    value: str
    default: str
    #: "default", "environment" or "flag".
    origin: str
    unit: str
    allowed: str
    meaning: str


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return RULES[name].variable or PREFIX + name.upper()


def read(environment: Mapping[str, str], flags: Mapping[str, object] | None = None) -> Settings:
    """The settings of a process: defaults, then `environment`, then `flags`.

    `flags` maps names of settings to values or their text; None counts as absent.
    Raises `SettingsError` for the first value that is not allowed, and for an unknown flag.
    """
    given = _given(environment, flags or {})
    values = {name: _parsed(name, text) for name, (text, _) in given.items()}
    if "state_dir" not in values:
        values["state_dir"] = _default_state_dir(environment)
    values.setdefault("kill_file", Path(str(values["state_dir"])) / "KILL")
    origins = {name: origin for name, (_, origin) in given.items()}
    arguments: dict[str, Any] = {**values, "origins": origins}
    settings = Settings(**arguments)
    _check_together(settings)
    return settings


def strangers(environment: Mapping[str, str]) -> list[str]:
    """Which variables begin like settings and are none, each in a line with what may be meant.

    They are no error: another version, or who starts the process, may have put them there.
    """
    known = {variable_of(name) for name in RULES}
    named = {name for name in environment if name.startswith(PREFIX)} - known - _OTHERS
    return [f"{name} is no setting{_guess(name, known)}" for name in sorted(named)]


def _guess(name: str, known: Iterable[str]) -> str:
    # Without what all of them begin with, by which all are alike.
    bare = [each.removeprefix(PREFIX) for each in known]
    near = get_close_matches(name.removeprefix(PREFIX), bare, n=1)
    return f"; {PREFIX}{near[0]} is one" if near else ""


def describe(settings: Settings) -> list[Row]:
    """Every setting with its value and where that came from; secrets are taken out."""
    defaults = {item.name: item.default for item in fields(Settings)}
    return [_row(settings, name, rule, defaults[name]) for name, rule in RULES.items()]


def check_serving(settings: Settings) -> None:
    """What must hold before a port is opened. Raises `SettingsError`."""
    if not is_loopback(settings.host):
        if settings.development:
            _refuse("host", settings.host, "a loopback address while `development` is on")
        if settings.tls_certificate is None:
            _refuse("host", settings.host, "a loopback address without `tls_certificate`")
    if not settings.development and settings.tokens_file is None and not settings.jwt_issuer:
        _refuse("tokens_file", "", "a path, or set `jwt_issuer`, or `development` on a laptop")
    if not settings.development and settings.tls_certificate is None:
        _refuse("tls_certificate", "", "a path, or set `development` on a laptop")


def _given(
    environment: Mapping[str, str], flags: Mapping[str, object]
) -> dict[str, tuple[str, str]]:
    unknown = flags.keys() - RULES.keys()
    if unknown:
        raise SettingsError(f"there is no setting {min(unknown)}")
    given: dict[str, tuple[str, str]] = {}
    for name in RULES:
        if environment.get(variable_of(name), "") != "":
            given[name] = (environment[variable_of(name)], "environment")
        if flags.get(name) is not None:
            given[name] = (_text_of(flags[name]), "flag")
    return given


def _parsed(name: str, text: str) -> object:
    rule = RULES[name]
    if len(os.fsencode(text)) > VALUE_BYTES_MAX:
        raise SettingsError(f"{variable_of(name)} is longer than {VALUE_BYTES_MAX} bytes")
    try:
        return rule.parse(text.strip())
    except ValueError:
        _refuse(name, text, rule.allowed)


def _refuse(name: str, text: str, allowed: str) -> NoReturn:
    shown = redacted(text) if RULES[name].secret else text
    raise SettingsError(f"{variable_of(name)} is {shown!r}; allowed is {allowed}") from None


def _default_state_dir(environment: Mapping[str, str]) -> Path:
    try:
        base = environment.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        _refuse("state_dir", "", "a path, which this user without a home must give")
    return Path(base) / "holdfast"


def _check_together(settings: Settings) -> None:
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        _refuse("tls_key", str(settings.tls_key or ""), "a path just when `tls_certificate` is one")
    if settings.jwt_issuer and not (settings.jwt_audience and settings.jwt_jwks):
        _refuse("jwt_issuer", settings.jwt_issuer, "a text with `jwt_audience` and `jwt_jwks`")
    if settings.checkpoint_place and settings.checkpoint_key_file is None:
        _refuse("checkpoint_key_file", "", "a path while `checkpoint_place` is set")
    if settings.outbox_entries_soft > settings.outbox_entries_hard:
        soft = str(settings.outbox_entries_soft)
        _refuse("outbox_entries_soft", soft, "at most `outbox_entries_hard`")


def _row(settings: Settings, name: str, rule: Rule, default: object) -> Row:
    return Row(
        name=name,
        variable=variable_of(name),
        value=_shown(getattr(settings, name), rule),
        default=_shown(default, rule),
        origin=settings.origins.get(name, "default"),
        unit=rule.unit,
        allowed=rule.allowed,
        meaning=rule.meaning,
    )


def _text_of(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _shown(value: object, rule: Rule) -> str:
    if value is None or value == Path():
        return ""
    text = str(value).lower() if isinstance(value, bool) else _text_of(value)
    return redacted(text) if rule.secret else text
