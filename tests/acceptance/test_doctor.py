"""`holdfast doctor`: what is wrong is found, and the advice says what to do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from holdfast_server import embedded
from holdfast_server.app.doctor import (
    Check,
    Health,
    check_durability,
    check_ledger,
    check_machine,
    check_partitions,
    check_settings,
    check_store,
    check_variables,
    examine,
)
from holdfast_server.embedded import Server
from holdfast_server.engine.inspection import StoreFacts
from holdfast_server.ledger.inspection import LedgerFacts
from holdfast_server.settings import read, variable_of
from tests.support.server import RunningService, call, call_json, environment

STORE = StoreFacts(
    place="",
    software="valkey",
    version="9.1.2",
    role="master",
    maxmemory_policy="noeviction",
    maxmemory=1 << 30,
    used_memory=1 << 20,
    append_only=True,
    append_only_healthy=True,
    replicas=0,
    append_fsync="everysec",
    packed_value_bytes_max=512,
    packed_entries_max=32,
    backlog_seconds=0,
    clock_ahead_ms=3,
)
LEDGER = LedgerFacts(
    version_number=180_006,
    version="18.6",
    fsync=True,
    full_page_writes=True,
    synchronous_commit="on",
    connections_max=100,
    connections=5,
    in_recovery=False,
    superuser=False,
    roles=frozenset({"holdfast_flusher", "holdfast_reader", "holdfast_control"}),
    clock_ahead_ms=-3,
    pending=(),
    partitions=256,
    quarantined=0,
    rewritten=0,
)


def found(checks: Iterator[Check] | list[Check]) -> dict[str, Check]:
    """The checks that are not as they should be, by name."""
    return {check.name: check for check in checks if check.health is not Health.OK}


def test_good_stores_give_no_advice() -> None:
    for checks in (check_store(STORE), check_ledger(LEDGER, 4, 4)):
        assert all(check.health is Health.OK and not check.advice for check in checks)


@pytest.mark.parametrize(
    ("change", "name", "health"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy", Health.BAD),
        ({"packed_value_bytes_max": 64}, "hash-max-listpack-value", Health.WARNING),
        ({"packed_entries_max": 512}, "hash-max-listpack-entries", Health.WARNING),
        ({"backlog_seconds": 3_600}, "repl-backlog-ttl", Health.WARNING),
        ({"append_only": False}, "appendonly", Health.BAD),
        ({"append_only_healthy": False}, "appendonly", Health.BAD),
        ({"append_fsync": "no"}, "appendonly", Health.BAD),
        ({"role": "slave"}, "store role", Health.BAD),
        ({"maxmemory": 0}, "maxmemory", Health.WARNING),
        ({"used_memory": 1 << 30}, "maxmemory", Health.BAD),
        ({"clock_ahead_ms": 1_001}, "store clock", Health.BAD),
        ({"clock_ahead_ms": -1_001}, "store clock", Health.BAD),
        ({"version": "8.1.3"}, "valkey version", Health.BAD),
        ({"version": "6.2.21"}, "valkey version", Health.BAD),
        ({"software": "redis", "version": "7.4.5"}, "redis version", Health.BAD),
    ],
)
def test_store_findings(change: dict[str, Any], name: str, health: Health) -> None:
    bad = found(check_store(dataclasses.replace(STORE, **change)))
    assert list(bad) == [name]
    assert bad[name].health is health
    assert bad[name].advice


def test_durability_that_is_demanded_and_cannot_be_given() -> None:
    demanding = read({"HOLDFAST_COMMIT_DURABILITY_MIN": "replicated"})
    replicated = dataclasses.replace(STORE, replicas=1)
    check = check_durability(demanding, [replicated, STORE])
    assert check.health is Health.BAD
    assert check.found == "MEMORY, FSYNCED, LEDGER; no REPLICATED with 0 of 1 replicas"
    assert "commit_durability_min" in check.advice
    assert check_durability(demanding, [replicated, replicated]).health is Health.OK
    forgetful = dataclasses.replace(STORE, append_only=False)
    assert "no FSYNCED" in check_durability(read({}), [forgetful]).found


@pytest.mark.parametrize("version", ["7.2.11", "8.0.6", "8.1.4", "9.0.0", "9.1.2"])
def test_repaired_versions_are_good(version: str) -> None:
    assert not found(check_store(dataclasses.replace(STORE, version=version)))


@pytest.mark.parametrize(
    ("change", "name", "health"),
    [
        ({"version_number": 150_010}, "postgres version", Health.BAD),
        ({"fsync": False}, "fsync", Health.BAD),
        ({"full_page_writes": False}, "full_page_writes", Health.BAD),
        ({"synchronous_commit": "off"}, "synchronous_commit", Health.BAD),
        ({"in_recovery": True}, "postgres role", Health.BAD),
        ({"superuser": True}, "roles", Health.WARNING),
        ({"roles": frozenset()}, "roles", Health.WARNING),
        ({"pending": ("0002_pre_x.sql",)}, "schema", Health.BAD),
        ({"connections_max": 20}, "connections", Health.BAD),
        ({"quarantined": 1}, "quarantine", Health.BAD),
        ({"rewritten": 2}, "append-only", Health.BAD),
        ({"clock_ahead_ms": 1_001}, "ledger clock", Health.BAD),
    ],
)
def test_ledger_findings(change: dict[str, Any], name: str, health: Health) -> None:
    bad = found(check_ledger(dataclasses.replace(LEDGER, **change), 4, 4))
    assert list(bad) == [name]
    assert bad[name].health is health
    assert bad[name].advice


def test_partitions_must_be_those_recorded() -> None:
    chosen, by_default = read({"HOLDFAST_PARTITIONS": "16"}), read({})
    assert check_partitions(chosen, 256).health is Health.BAD
    assert check_partitions(chosen, 16).health is Health.OK
    assert check_partitions(chosen, 0).health is Health.OK
    assert check_partitions(by_default, 16).health is Health.OK


def test_settings_that_serve_refuses_and_a_kill_switch_that_is_on(tmp_path: Path) -> None:
    assert found(check_settings(read({})))["serving"].health is Health.BAD
    killed = {"HOLDFAST_DEVELOPMENT": "1", "HOLDFAST_STATE_DIR": str(tmp_path)}
    (tmp_path / "KILL").touch()
    bad = found(check_settings(read(killed)))
    assert {name: check.health for name, check in bad.items()} == {
        "serving": Health.WARNING,
        "kill switch": Health.WARNING,
    }


def test_a_kill_switch_is_found_whatever_else_is_wrong(tmp_path: Path) -> None:
    killed = {"HOLDFAST_KILL": "1", "HOLDFAST_STATE_DIR": str(tmp_path)}
    bad = found(check_settings(read(killed)))
    assert {name: check.health for name, check in bad.items()} == {
        "serving": Health.BAD,
        "kill switch": Health.WARNING,
    }


@pytest.mark.parametrize(
    ("setting", "content", "why"),
    [
        ("tokens_file", None, "No such file or directory"),
        ("tokens_file", "junk", "Expecting value"),
        ("tokens_file", '[{"subject": "a"}]', "record 1 lacks a valid subject, tenant or roles"),
        ("jwt_jwks", None, "No such file or directory"),
        ("jwt_jwks", "{}", "a key set must have a list"),
        ("token_keys_file", "{}", "it should be"),
    ],
)
async def test_credentials_that_cannot_be_judged_are_named(
    tmp_path: Path, setting: str, content: str | None, why: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content)
    variables = {"HOLDFAST_STATE_DIR": str(tmp_path), variable_of(setting): str(path)}
    if setting == "jwt_jwks":
        variables |= {"HOLDFAST_JWT_ISSUER": "us", "HOLDFAST_JWT_AUDIENCE": "holdfast"}
    (check,) = [each for each in await examine(read(variables)) if each.name == "credentials"]
    assert check.health is Health.BAD
    assert str(path) in check.found
    assert why in check.found


def test_a_variable_that_was_mistyped_is_found() -> None:
    bad = found(check_variables({"HOLDFAST_COMIT_DURABILITY_MIN": "ledger"}))
    assert bad["settings"].health is Health.WARNING
    assert "HOLDFAST_COMMIT_DURABILITY_MIN is one" in bad["settings"].found
    assert not found(check_variables({"HOLDFAST_PORT": "1"}))


def test_state_dir_is_looked_for_where_it_will_be(tmp_path: Path) -> None:
    (check,) = check_machine(tmp_path / "not" / "yet", 1)
    assert (check.name, check.health) == ("disk of state_dir", Health.OK)
    (check,) = check_machine(tmp_path, 1 << 60)
    assert check.health is Health.BAD
    (tmp_path / "file").touch()
    bad = found(check_machine(tmp_path / "file" / "state", 1))
    assert bad["state_dir"].health is Health.BAD


def test_running_service_is_fine(holdfast_server: RunningService) -> None:
    checks = call_json(["doctor"], holdfast_server.environment)
    bad = {each["name"]: each for each in checks if each["health"] == "BAD"}
    # The machine that runs the tests may be short of disk.
    bad.pop("disk of state_dir", None)
    assert not bad
    assert {"maxmemory-policy", "fsync", "schema", "partitions"} <= {x["name"] for x in checks}


def _wrong_policy(server: Server) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")


def _no_log(server: Server) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.config_set("appendonly", "no")


@pytest.mark.parametrize(
    ("break_it", "name", "advice"),
    [
        (_wrong_policy, "maxmemory-policy", "CONFIG SET maxmemory-policy noeviction"),
        (_no_log, "appendonly", "CONFIG SET appendonly yes"),
        (Server.stop, "store", "HOLDFAST_REDIS_URL"),
    ],
)
def test_wrong_hot_store_is_found(
    break_it: Callable[[Server], None],
    name: str,
    advice: str,
    holdfast_server: RunningService,
    tmp_path: Path,
) -> None:
    with embedded.start_valkey(tmp_path / "valkey") as server:
        break_it(server)
        variables = environment(server.url, holdfast_server.postgres_url, tmp_path)
        done = call(["doctor"], variables)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"BAD   {name} ")]
    assert advice in line


def test_schema_that_lacks_migrations_is_found(
    holdfast_server: RunningService, postgres_url: str, tmp_path: Path
) -> None:
    variables = environment(holdfast_server.redis_url, postgres_url, tmp_path)
    checks = [line for line in call(["doctor"], variables).stdout.splitlines() if "schema" in line]
    assert len(checks) == 1
    assert "run `holdfast migrate`" in checks[0]


@pytest.mark.parametrize(
    ("name", "variable", "url"),
    [
        ("ledger", "HOLDFAST_POSTGRES_URL", "postgresql://u:hunter%zz2@h/x"),
        ("store", "HOLDFAST_REDIS_URL", "redis://:hunter2@h:hunter2"),
        ("store", "HOLDFAST_REDIS_URL", "redis://:hunter2@h?hunter2=1"),
    ],
)
def test_url_that_cannot_be_read_is_named_without_its_password(
    name: str, variable: str, url: str
) -> None:
    done = call(["doctor", "--json"], {variable: url, "HOME": "/"})
    found = {each["name"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert found[name]["health"] == "BAD"
    assert f"{variable} is no URL" in found[name]["found"]
    assert "hunter" not in done.stdout + done.stderr
