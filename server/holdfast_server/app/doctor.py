"""What must be true of the stores and the machine for Holdfast to keep its promises.

Each check is a pure function of facts; it says what was found, and what to do about it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from holdfast_server.app.certificates import check_certificates
from holdfast_server.app.credentials import open_authenticator
from holdfast_server.app.deployment import read_token_keys
from holdfast_server.app.durability import not_given
from holdfast_server.app.evidence import open_evidence
from holdfast_server.app.problem import Problem
from holdfast_server.engine.evictions import ADVICE, POLICY
from holdfast_server.engine.inspection import StoreFacts, inspect_stores
from holdfast_server.engine.levels import Levels
from holdfast_server.engine.stores import open_store
from holdfast_server.errors import HoldfastError
from holdfast_server.ledger.inspection import LedgerFacts, inspect_ledger
from holdfast_server.ledger.migrate import MigrationError
from holdfast_server.settings import Settings, SettingsError, check_serving, strangers

#: The oldest Postgres that the ledger's SQL is run on.
POSTGRES_VERSION_MIN = 160_000
#: First releases without the flaws in script execution published in October 2025, by release line.
SOFTWARE_FLOORS = {
    "valkey": ((7, 2, 11), (8, 0, 6), (8, 1, 4), (9, 0, 0)),
    "redis": ((7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
}
#: Share of maxmemory that may be in use: scripts of a burst need room, and so does a rewrite.
MEMORY_SHARE_MAX = 0.75
#: How far clocks may differ: expiry and calendar limits are judged by the store's clock, token
#: lifetimes by ours.
CLOCK_SKEW_MS_MAX = 1_000
#: Free bytes beyond what the spool may take: policies, notes, room for logs.
DISK_BYTES_SPARE = 67_108_864
#: Connections of the flusher, of a sweeper and of commands like this one.
CONNECTIONS_RESERVED = 16
#: Roles that connections step down to.
ROLES = frozenset({"holdfast_flusher", "holdfast_reader", "holdfast_control"})

#: What accounts and holds are packed as, where the store lets them be (server/README.md, Memory).
PACKED_VALUE_BYTES_WANTED = 512
#: More entries than that are found faster in a table than in one piece of memory.
PACKED_ENTRIES_WANTED = 32


class Health(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `advice` is empty when it is as it should be."""

    name: str
    health: Health
    found: str
    advice: str = ""


async def examine(settings: Settings) -> list[Check]:
    """Every check that can be made; where a store does not answer, that is the one about it."""
    return [
        *check_variables(os.environ),
        *check_settings(settings),
        *check_tls(settings),
        *(await _examine_credentials(settings)),
        *(await _examine_store(settings)),
        *(await _examine_ledger(settings)),
        check_evidence(settings),
        *check_machine(settings.state_dir, settings.spool_bytes_max),
    ]


def check_variables(environment: Mapping[str, str]) -> Iterator[Check]:
    """Whether everything that looks like a setting is one."""
    for stranger in strangers(environment):
        yield Check("settings", Health.WARNING, stranger, "correct its name, or unset it")


def check_settings(settings: Settings) -> Iterator[Check]:
    """What must hold before a port is opened, and what callers would get there."""
    yield _serving_check(settings)
    if settings.kill or settings.kill_file.exists():
        advice = "nobody is denied; `holdfast kill off` when the trouble is over"
        yield Check("kill switch", Health.WARNING, "on", advice)


def _serving_check(settings: Settings) -> Check:
    try:
        check_serving(settings)
    except SettingsError as error:
        return Check("serving", Health.BAD, str(error), "change that setting, else serve refuses")
    if settings.development:
        advice = "only for a laptop: anybody on this machine may do everything"
        return Check("serving", Health.WARNING, "development mode", advice)
    return Check("serving", Health.OK, f"{settings.host}:{settings.port}")


def check_tls(settings: Settings) -> Iterator[Check]:
    """Certificates and keys, where there are any: callers must be able to accept them."""
    if settings.tls_certificate is None:
        return
    try:
        flaws = check_certificates(settings)
    except Problem as problem:
        yield Check("tls", Health.BAD, str(problem), "correct it, else serve refuses")
        return
    for flaw in flaws:
        health = Health.BAD if flaw.is_bad else Health.WARNING
        yield Check(flaw.setting, health, flaw.found, flaw.advice)
    if not flaws:
        yield Check("tls", Health.OK, f"{settings.tls_certificate} and its key belong together")


def check_evidence(settings: Settings) -> Check:
    """Whether somebody outside of the database can say how the ledger was."""
    if not settings.checkpoint_place:
        advice = "set HOLDFAST_CHECKPOINT_PLACE: else a ledger that was cut off is not noticed"
        return Check("checkpoints", Health.WARNING, "nowhere", advice)
    try:
        open_evidence(settings)
    except ValueError as error:
        return Check("checkpoints", Health.BAD, str(error), "correct it, else flush does not start")
    return Check("checkpoints", Health.OK, "place and key are as they should be")


def check_store(facts: StoreFacts) -> Iterator[Check]:
    """The hot store: it must not forget, and must be the one that is written to."""
    yield _version_check(facts)
    yield _expect("store role", facts.role, "master", "give the URL of the primary")
    yield _expect("maxmemory-policy", facts.maxmemory_policy, POLICY, ADVICE)
    yield _memory_check(facts)
    if not facts.append_only:
        advice = "CONFIG SET appendonly yes, and in its configuration: else a restart forgets"
        yield Check("appendonly", Health.BAD, "no", advice)
    elif not facts.append_only_healthy:
        yield Check("appendonly", Health.BAD, "the last write failed", "look at the store's disk")
    elif facts.append_fsync == "no":
        advice = "CONFIG SET appendfsync everysec: else a crash of the machine loses minutes"
        yield Check("appendonly", Health.BAD, "fsync no", advice)
    else:
        yield Check("appendonly", Health.OK, f"fsync {facts.append_fsync or 'unknown'}")
    yield _packed_value_check(facts)
    yield _packed_entries_check(facts)
    yield _backlog_check(facts)
    yield _clock_check("store clock", facts.clock_ahead_ms)


def check_durability(settings: Settings, facts: Sequence[StoreFacts]) -> Check:
    """Which durability can be given; one that is demanded and cannot is a fault."""
    replicas = min(each.replicas for each in facts)
    levels = Levels(replicas, replicas, all(each.append_only for each in facts))
    found = levels.said(settings.durability_replicas)
    if missing := not_given(settings, levels):
        advice = f"add replicas or an append-only file, or lower {', '.join(missing)}"
        return Check("durability", Health.BAD, found, advice)
    return Check("durability", Health.OK, found)


def _packed_value_check(facts: StoreFacts) -> Check:
    limit = facts.packed_value_bytes_max
    if 0 < limit < PACKED_VALUE_BYTES_WANTED:
        advice = f"CONFIG SET hash-max-listpack-value {PACKED_VALUE_BYTES_WANTED}: it saves memory"
        return Check("hash-max-listpack-value", Health.WARNING, str(limit), advice)
    return Check("hash-max-listpack-value", Health.OK, str(limit or "unknown"))


def _packed_entries_check(facts: StoreFacts) -> Check:
    limit = facts.packed_entries_max
    if limit > PACKED_ENTRIES_WANTED:
        advice = f"CONFIG SET hash-max-listpack-entries {PACKED_ENTRIES_WANTED}: it saves time"
        return Check("hash-max-listpack-entries", Health.WARNING, str(limit), advice)
    return Check("hash-max-listpack-entries", Health.OK, str(limit or "unknown"))


def _backlog_check(facts: StoreFacts) -> Check:
    seconds = facts.backlog_seconds
    advice = "CONFIG SET repl-backlog-ttl 0: else all is fenced for a moment when replicas are away"
    if seconds:
        return Check("repl-backlog-ttl", Health.WARNING, str(seconds), advice)
    return Check("repl-backlog-ttl", Health.OK, "0, or no replicas")


def check_ledger(facts: LedgerFacts, workers: int, connections_each: int) -> Iterator[Check]:
    """The ledger: a commit must last, the schema must be ours, connections must suffice."""
    new_enough = facts.version_number >= POSTGRES_VERSION_MIN
    health = Health.OK if new_enough else Health.BAD
    yield Check("postgres version", health, facts.version, "" if new_enough else "use 16 or newer")
    if facts.in_recovery:
        yield Check("postgres role", Health.BAD, "standby", "give the URL of the primary")
    for name, on in (("fsync", facts.fsync), ("full_page_writes", facts.full_page_writes)):
        advice = "" if on else "turn it on: else a crash of the machine corrupts the ledger"
        yield Check(name, Health.OK if on else Health.BAD, "on" if on else "off", advice)
    lasting = facts.synchronous_commit != "off"
    advice = "" if lasting else "set it to on: else commits are lost that were reported"
    health = Health.OK if lasting else Health.BAD
    yield Check("synchronous_commit", health, facts.synchronous_commit, advice)
    yield _roles_check(facts)
    yield _schema_check(facts)
    yield _connections_check(facts, workers, connections_each)
    if facts.quarantined:
        advice = "entries that could not be recorded: look at holdfast.quarantine"
        yield Check("quarantine", Health.BAD, f"{facts.quarantined} entries", advice)
    if facts.rewritten:
        advice = "somebody with all privileges wrote to the ledger: run `holdfast verify --offline`"
        yield Check("append-only", Health.BAD, f"{facts.rewritten} rows changed or gone", advice)
    yield _clock_check("ledger clock", facts.clock_ahead_ms)


def check_partitions(settings: Settings, recorded: int) -> Check:
    """The number of partitions is fixed once a deployment has started."""
    asked = settings.partitions if "partitions" in settings.origins else recorded
    if recorded and asked != recorded:
        advice = f"set HOLDFAST_PARTITIONS to {recorded}, or unset it"
        return Check("partitions", Health.BAD, f"{recorded} recorded, {asked} set", advice)
    found = f"{recorded} recorded" if recorded else "not started yet"
    return Check("partitions", Health.OK, found)


def check_machine(state_dir: Path, spool_bytes_max: int) -> Iterator[Check]:
    """The disk that spool and policy cache are on."""
    place = next(path for path in (state_dir, *state_dir.parents) if path.exists())
    free = shutil.disk_usage(place).free
    enough = free >= spool_bytes_max + DISK_BYTES_SPARE
    yield Check(
        "disk of state_dir",
        Health.OK if enough else Health.BAD,
        f"{free >> 20} MiB free",
        "" if enough else "make room: bypassed work is kept there until it is booked",
    )
    if not place.is_dir() or not os.access(place, os.W_OK):
        advice = "let this user write there, or set HOLDFAST_STATE_DIR"
        yield Check("state_dir", Health.BAD, f"{place} is not writable", advice)


async def _examine_credentials(settings: Settings) -> list[Check]:
    try:
        await open_authenticator(settings)
        if settings.token_keys_file:
            read_token_keys(settings.token_keys_file)
    except Problem as problem:
        return [Check("credentials", Health.BAD, str(problem), "correct it, else nothing starts")]
    given = (settings.tokens_file, settings.jwt_issuer, settings.token_keys_file)
    found = ", ".join(str(each) for each in given if each)
    return [Check("credentials", Health.OK, found)] if found else []


async def _examine_store(settings: Settings) -> list[Check]:
    if not settings.redis_url:
        return [Check("store", Health.BAD, "no URL", "set HOLDFAST_REDIS_URL")]
    try:
        # What cannot even be opened is wrong, and not away.
        await open_store(settings.redis_url).close()
        found = await inspect_stores(settings.redis_url)
    except SettingsError as error:
        return [Check("store", Health.BAD, str(error), "correct it, else nothing starts")]
    except HoldfastError as error:
        return [Check("store", Health.BAD, "away", error.message)]
    # Of several masters each is told apart by its place.
    checks = [
        replace(check, name=f"{check.name} {facts.place}".rstrip())
        for facts in found
        for check in check_store(facts)
    ]
    return [*checks, check_durability(settings, found)]


async def _examine_ledger(settings: Settings) -> list[Check]:
    if not settings.postgres_url:
        return [Check("ledger", Health.BAD, "no URL", "set HOLDFAST_POSTGRES_URL")]
    try:
        facts = await inspect_ledger(settings.postgres_url)
    except HoldfastError as error:
        return [Check("ledger", Health.BAD, "away", error.message)]
    except SettingsError as error:
        return [Check("ledger", Health.BAD, str(error), "correct it, else nothing starts")]
    except MigrationError as error:
        return [Check("schema", Health.BAD, str(error), "run the version that made it")]
    checks = check_ledger(facts, settings.worker_count, settings.postgres_connections_max)
    return [*checks, check_partitions(settings, facts.partitions)]


def _expect(name: str, found: str, wanted: str, advice: str) -> Check:
    good = found == wanted
    return Check(name, Health.OK if good else Health.BAD, found, "" if good else advice)


def _version_check(facts: StoreFacts) -> Check:
    name = f"{facts.software} version"
    version = tuple(int(part) for part in facts.version.split(".")[:3] if part.isdigit())
    floors = SOFTWARE_FLOORS[facts.software]
    # The floor of the newest line that is not above this version.
    line = [floor for floor in floors if floor[:2] <= version[:2]]
    if line and version >= line[-1]:
        return Check(name, Health.OK, facts.version)
    wanted = ".".join(map(str, line[-1] if line else floors[0]))
    return Check(name, Health.BAD, facts.version, f"use {wanted} or newer: flaws in scripts")


def _memory_check(facts: StoreFacts) -> Check:
    used = f"{facts.used_memory >> 20} MiB used"
    if facts.maxmemory == 0:
        advice = "set it below what the machine has: else the kernel may end the store"
        return Check("maxmemory", Health.WARNING, f"none, {used}", advice)
    full = facts.used_memory > MEMORY_SHARE_MAX * facts.maxmemory
    advice = "raise it: when it is full, every decision is an error" if full else ""
    found = f"{facts.maxmemory >> 20} MiB, {used}"
    return Check("maxmemory", Health.BAD if full else Health.OK, found, advice)


def _clock_check(name: str, ahead_ms: int) -> Check:
    skewed = abs(ahead_ms) > CLOCK_SKEW_MS_MAX
    found = f"{abs(ahead_ms)} ms {'ahead of' if ahead_ms > 0 else 'behind'} ours"
    advice = "let NTP set the clocks of both machines" if skewed else ""
    return Check(name, Health.BAD if skewed else Health.OK, found, advice)


def _roles_check(facts: LedgerFacts) -> Check:
    missing = sorted(ROLES - facts.roles)
    if missing:
        advice = "let a user with CREATEROLE migrate, so that connections can step down to them"
        return Check("roles", Health.WARNING, f"without {', '.join(missing)}", advice)
    if facts.superuser:
        advice = "connect as a user that is only a member of the holdfast roles"
        return Check("roles", Health.WARNING, "connected as a superuser", advice)
    return Check("roles", Health.OK, "least privilege")


def _schema_check(facts: LedgerFacts) -> Check:
    if not facts.pending:
        return Check("schema", Health.OK, "current")
    return Check("schema", Health.BAD, f"lacks {facts.pending[0]}", "run `holdfast migrate`")


def _connections_check(facts: LedgerFacts, workers: int, connections_each: int) -> Check:
    needed = workers * (connections_each + 2) + CONNECTIONS_RESERVED
    found = f"{facts.connections} of {facts.connections_max} in use, at most {needed} wanted here"
    enough = facts.connections_max >= needed
    advice = "" if enough else "raise max_connections, or lower HOLDFAST_POSTGRES_CONNECTIONS_MAX"
    return Check("connections", Health.OK if enough else Health.BAD, found, advice)
