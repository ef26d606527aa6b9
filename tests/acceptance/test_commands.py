"""The commands that talk to a service, run as people and scripts run them."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis

import holdfast_server
from holdfast import new_key
from holdfast_server.cli.root import PIPE_CLOSED
from holdfast_server.settings import RULES
from tests.support.server import RunningService, call, call_json, command, eventually, run

CREDITS = "credits"


@pytest.fixture
def account(holdfast_server: RunningService) -> str:
    """A new account with 1,000 credits."""
    name = f"cli-{new_key()}"
    call_json(["credit-type", "create", CREDITS], holdfast_server.environment)
    call_json(["account", "create", name], holdfast_server.environment)
    call_json(["grant", "give", name, "1000", "--source", "purchase"], holdfast_server.environment)
    return name


#: What is the same in all names of one hold: 18 bytes say its kind, its key and which it is.
HOLD_CHARACTERS = 24


def one(arguments: list[str], service: RunningService) -> Any:
    """The one object that a command prints."""
    (found,) = call_json(arguments, service.environment)
    return found


def credit(account: str, service: RunningService) -> Any:
    """What an account has of its one credit type."""
    (found,) = one(["balance", account], service)["credits"]
    return found


def test_account_with_every_term(holdfast_server: RunningService, account: str) -> None:
    below = f"{account}-below"
    limit = "id=daily,maximum=5,credit-type=credits,window=day,enforcement=soft,warn=50/90"
    terms = ["--parent", account, "--name", "Below", "--zone", "Europe/Berlin", "--limit", limit]
    terms += ["--overdraft", "credits=7", "--label", "plan=pro"]
    created = one(["account", "create", below, *terms], holdfast_server)
    assert created["root"] == account
    assert created["overdraft_limits"] == {CREDITS: 7}
    assert created["labels"] == {"plan": "pro"}
    (found,) = created["limits"]
    assert (found["maximum"], found["enforcement"], found["warn_percents"]) == (5, "SOFT", [50, 90])
    assert one(["account", "get", below], holdfast_server) == created
    listing = ["account", "list", "--parent", account]
    listed = eventually(
        lambda: call_json(listing, holdfast_server.environment), "the ledger has the account"
    )
    assert [each["account"] for each in listed] == [below]
    change = ["--name", "Other", "--limit", "none", "--label", "none"]
    changed = one(["account", "update", below, *change], holdfast_server)
    assert (changed["display_name"], changed["zone"]) == ("Other", "Europe/Berlin")
    assert (changed["limits"], changed["labels"]) == ([], {})
    assert changed["overdraft_limits"] == {CREDITS: 7}


def test_frozen_account_denies_until_unfrozen(
    holdfast_server: RunningService, account: str
) -> None:
    assert one(["account", "freeze", account], holdfast_server)["status"] == "FROZEN"
    denied = call(["burn", account, "1"], holdfast_server.environment)
    assert denied.returncode == 1
    assert denied.stdout.startswith("DENIED ACCOUNT_FROZEN")
    one(["account", "unfreeze", account], holdfast_server)
    assert one(["burn", account, "1"], holdfast_server)["decision"]["outcome"] == "GRANTED"
    assert one(["account", "close", account], holdfast_server)["status"] == "CLOSED"


def test_grant_is_listed_and_revoked(holdfast_server: RunningService, account: str) -> None:
    given = one(["grant", "give", account, "credits=50", "--expires-in", "30d"], holdfast_server)
    listed = call_json(["grant", "list", account], holdfast_server.environment)
    assert [each["terms"]["amount"] for each in listed] == [50, 1000]
    assert listed[0]["terms"]["expires_at_ms"] > listed[0]["granted_at_ms"]
    revoked = one(["grant", "revoke", account, given["grant_id"]], holdfast_server)
    assert (revoked["revoked"], revoked["buckets"]["available"]) == (50, 1000)


def test_hold_from_place_to_refund(holdfast_server: RunningService, account: str) -> None:
    placed = one(["hold", "place", account, "100", "--ttl", "10m"], holdfast_server)
    hold = placed["hold_id"]
    assert credit(account, holdfast_server)["buckets"]["held"] == 100
    listed = call_json(["hold", "list", account], holdfast_server.environment)
    (shown,) = listed
    assert shown["hold_id"][:HOLD_CHARACTERS] == hold[:HOLD_CHARACTERS]
    one(["hold", "extend", shown["hold_id"], "--ttl", "20m"], holdfast_server)
    part = one(["hold", "commit", hold, "30", "--keep-open"], holdfast_server)
    assert (part["state"], part["lines"][0]["burned"]) == ("OPEN", 30)
    rest = one(["hold", "commit", hold, "20"], holdfast_server)
    assert (rest["state"], rest["lines"][0]["returned"]) == ("COMMITTED", 50)
    again = call(["hold", "release", hold], holdfast_server.environment)
    assert again.returncode == 1
    assert again.stderr.startswith("holdfast: HOLD_ALREADY_SETTLED")
    transaction = rest["applied"]["transaction_id"]
    refund = ["refund", transaction, "15", "--reason", "quality"]
    assert one(refund, holdfast_server)["lines"][0]["refunded"] == 15
    assert credit(account, holdfast_server)["buckets"]["burned"] == 35


def test_release_gives_back(holdfast_server: RunningService, account: str) -> None:
    placed = one(["hold", "place", account, "100"], holdfast_server)
    released = one(["hold", "release", placed["hold_id"], "--reason", "gone"], holdfast_server)
    assert released["lines"][0]["returned"] == 100


def test_denial_says_what_would_help(holdfast_server: RunningService, account: str) -> None:
    denied = call(["hold", "place", account, "1001"], holdfast_server.environment)
    assert denied.returncode == 1
    assert denied.stdout.startswith("DENIED INSUFFICIENT_CREDITS")
    assert len(denied.stderr.splitlines()) == 1


def test_mode_is_set_and_reaches_every_worker(
    holdfast_server: RunningService, account: str
) -> None:
    scope = ["--account", account]
    setting = [*scope, "--reason", "test", "--expires-in", "1h"]
    changed = one(["mode", "set", "shadow", *setting], holdfast_server)
    assert (changed["mode"], changed["version"], changed["reason"]) == ("SHADOW", 1, "test")
    assert changed["expires_at_ms"] > changed["changed_at_ms"]
    assert one(["mode", "get", *scope], holdfast_server) == changed

    def shadow_answers() -> bool:
        holds = [call(["burn", account, "2000"], holdfast_server.environment) for _ in range(8)]
        return all(done.stdout.startswith("GRANTED_SHADOW") for done in holds)

    eventually(shadow_answers, "whichever worker answers has applied it")
    listed = call_json(["mode", "list"], holdfast_server.environment)
    assert {"kind": "ACCOUNT", "value": account} in [each["scope"] for each in listed]
    stale = call(
        ["mode", "set", "enforce", *scope, "--reason", "x", "--expected-version", "7"],
        holdfast_server.environment,
    )
    assert stale.returncode == 1
    assert stale.stderr.startswith("holdfast: CONFIG_VERSION_CONFLICT")


def test_fleet_shows_every_process(holdfast_server: RunningService) -> None:
    def roles() -> list[str] | None:
        found = one(["fleet"], holdfast_server)["processes"]
        roles = sorted(each["role"] for each in found)
        return roles if len(roles) == len(holdfast_server.processes) else None

    expected = ["flusher", "sweeper", "worker", "worker"]
    assert eventually(roles, "every process has reported") == expected


def test_ledger_lists_explains_and_looks_back(
    holdfast_server: RunningService, account: str
) -> None:
    burned = one(["burn", account, "40", "--feature", "chat"], holdfast_server)
    transaction = burned["applied"]["transaction_id"]

    def newest() -> Any:
        listed = call_json(["ledger", "list", account, "--limit", "1"], holdfast_server.environment)
        return listed[0] if listed and listed[0]["kind"] == "BURN" else None

    entry = eventually(newest, "the ledger has the burn")
    assert (entry["transaction_id"], entry["delta"]["burned"]) == (transaction, 40)
    assert one(["ledger", "await", transaction], holdfast_server) == {"durability": "LEDGER"}
    asked = ["ledger", "await", transaction, "--durability", "replicated"]
    refused = call(asked, holdfast_server.environment)
    assert refused.returncode == 1
    assert "cannot give REPLICATED" in refused.stderr
    explained = one(["ledger", "explain", transaction], holdfast_server)
    assert [each["feature"] for each in explained["entries"]] == ["chat"]
    balance = one(["ledger", "explain", account], holdfast_server)
    assert balance["closing"]["available"] == 960
    assert one(["ledger", "at", account, "2000-01-01"], holdfast_server)["credits"] == []
    text = call(["ledger", "explain", account], holdfast_server.environment).stdout
    assert "after:  960 available" in text


def test_ledger_is_verified_three_ways(
    holdfast_server: RunningService, account: str, tmp_path: Path
) -> None:
    assert one(["ledger", "verify"], holdfast_server)["ok"]
    offline = one(["ledger", "verify", "--offline"], holdfast_server)
    assert offline["ok"]
    assert offline["entries"] > 0
    file = tmp_path / "export.jsonl"
    exported = call(
        ["ledger", "export", "jsonl", "--output", str(file)], holdfast_server.environment
    )
    assert exported.returncode == 0, exported.stderr
    assert one(["ledger", "verify", "--file", str(file)], holdfast_server)["ok"]

    lines = file.read_text().splitlines()
    last = json.loads(lines[-1])
    last["account"] = "somebody-else"
    file.write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    broken = call(["ledger", "verify", "--file", str(file)], holdfast_server.environment)
    assert broken.returncode == 1
    assert "chain: partition" in broken.stdout
    assert "look who changed it" in broken.stderr


def test_both_stores_are_reconciled(holdfast_server: RunningService, account: str) -> None:
    everything = one(["reconcile"], holdfast_server)
    assert everything["ok"]
    assert everything["agree"] > 0
    assert one(["reconcile", "--account", account], holdfast_server)["agree"] == 1
    findings = call_json(["reconcile", "--findings"], holdfast_server.environment)
    assert [each for each in findings if account in str(each)] == []
    unknown = call(["reconcile", "--account", "nobody"], holdfast_server.environment)
    assert unknown.returncode == 1
    assert "no account nobody" in unknown.stderr


def test_drift_ends_with_1(holdfast_server: RunningService, account: str) -> None:
    """The account's row is taken away, and put back, as somebody with a shell could do it."""
    with redis.Redis.from_url(holdfast_server.redis_url) as client:
        (key,) = client.scan_iter(match=f"*:t:default/{account}")
        row = client.hget(key, f"a{account}")
        assert isinstance(row, bytes)
        client.hdel(key, f"a{account}")
        drift = call(["reconcile", "--account", account], holdfast_server.environment)
        client.hset(key, f"a{account}", row)

    assert drift.returncode == 1
    assert "runbook" in drift.stderr
    assert "available" in drift.stdout
    assert one(["reconcile", "--account", account], holdfast_server)["ok"]


def test_export_as_csv_adds_up(holdfast_server: RunningService, account: str) -> None:
    done = call(["ledger", "export", "csv"], holdfast_server.environment)
    rows = [row for row in csv.DictReader(io.StringIO(done.stdout)) if row["account"] == account]
    assert [row["kind"] for row in rows] == ["ACCOUNT", "GRANT"]
    assert sum(int(row["delta_available"]) for row in rows) == 1000


@pytest.mark.parametrize(
    "arguments",
    [
        ["balance"],
        ["hold", "place", "somebody", "1.5"],
        ["hold", "place", "somebody", "1", "credits=2"],
        ["hold", "extend", "some-hold", "--ttl", "soon"],
        ["ledger", "at", "somebody", "yesterday"],
        ["account", "create", "somebody", "--limit", "maximum=1"],
        ["account", "create", "x", "--limit", "id=a,maximum=1,window=day,enforcement=medium"],
        ["mode", "set", "off", "--reason", "x", "--account", "a", "--feature", "b"],
        ["no-such-command"],
    ],
)
def test_wrong_use_ends_with_2(arguments: list[str]) -> None:
    done = call(arguments, os.environ)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Usage: ")


def test_error_is_one_line_with_status_1(holdfast_server: RunningService) -> None:
    done = call(["balance", "nobody", "--json"], holdfast_server.environment)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("holdfast: ACCOUNT_NOT_FOUND")


@pytest.mark.parametrize("arguments", [["balance", "demo"], ["ledger", "verify"]])
def test_no_service_says_how_to_start_one(arguments: list[str]) -> None:
    done = call(arguments, {**os.environ, "HOLDFAST_TARGET": "127.0.0.1:1"})
    assert done.returncode == 1
    assert done.stderr.startswith("holdfast: no service answers; start one with `holdfast up`")


def test_settings_say_where_they_come_from() -> None:
    variables = {**os.environ, "HOLDFAST_WORKERS": "3", "HOLDFAST_POSTGRES_URL": "postgres://u:p@h"}
    rows = call_json(["settings", "--port", "7555"], variables)
    found = {str(row["name"]): row for row in rows}
    assert (found["port"]["value"], found["port"]["origin"]) == ("7555", "flag")
    assert (found["workers"]["value"], found["workers"]["origin"]) == ("3", "environment")
    assert found["log_level"]["origin"] == "default"
    assert "u:p" not in str(found["postgres_url"])
    assert all(row["meaning"] and row["allowed"] for row in rows)
    wrong = call(["settings", "--port", "70000"], os.environ)
    assert (wrong.returncode, wrong.stderr) == (
        1,
        "holdfast: HOLDFAST_PORT is '70000'; allowed is 0 to 65535\n",
    )


def test_tables_are_not_cut(holdfast_server: RunningService, account: str) -> None:
    """An id that was shortened cannot be given to the next command."""
    placed = one(["hold", "place", account, "1"], holdfast_server)
    words = call(["hold", "list", account], holdfast_server.environment).stdout.split()
    (shown,) = [word for word in words if word.startswith(placed["hold_id"][:HOLD_CHARACTERS])]
    assert one(["hold", "release", shown], holdfast_server)["lines"][0]["returned"] == 1


def test_every_setting_is_used() -> None:
    """A setting that nothing reads would be believed all the same."""
    sources = Path(holdfast_server.__file__).parent.rglob("*.py")
    text = "\n".join(path.read_text() for path in sources if path.parent.name != "settings")
    indirect = {"workers": "worker_count", "reflection": "reflection_enabled"}
    unused = [name for name in RULES if f"settings.{indirect.get(name, name)}" not in text]
    # The failpoints look at the variable themselves, since they are there before any setting.
    assert unused == ["environment"]


def test_failpoints_are_refused_in_production(holdfast_server: RunningService) -> None:
    point = {"HOLDFAST_FAILPOINTS": "flusher.after_read=error", "HOLDFAST_PORT": "0"}
    done = run(["serve"], {**holdfast_server.environment, **point})
    assert done.returncode == 1
    assert "HOLDFAST_FAILPOINTS is set, but HOLDFAST_ENV is not test" in done.stderr


def test_export_that_fails_leaves_the_one_before(
    holdfast_server: RunningService, tmp_path: Path
) -> None:
    file = tmp_path / "ledger.jsonl"
    export = ["ledger", "export", "jsonl", "--output", str(file)]
    assert call(export, holdfast_server.environment).returncode == 0
    before = file.read_bytes()
    away = call([*export, "--postgres-url", "postgresql://127.0.0.1:1/x"], {})
    assert (away.returncode, file.read_bytes()) == (1, before)
    assert list(tmp_path.iterdir()) == [file]


def test_export_goes_where_no_file_can_be_replaced(holdfast_server: RunningService) -> None:
    export = ["ledger", "export", "csv", "--output", os.devnull]
    assert call(export, holdfast_server.environment).returncode == 0
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize(
    "arguments",
    [
        ["ledger", "export", "csv", "--output", "/nowhere/ledger.csv"],
        ["chaos", "--data", "/"],
        ["up", "--data", "/dev/null/data"],
    ],
)
def test_place_that_cannot_be_written_is_named_in_one_line(arguments: list[str]) -> None:
    done = call(arguments, {"HOME": "/", "HOLDFAST_POSTGRES_URL": "postgresql://127.0.0.1:1/x"})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"holdfast: {arguments[-1]}")


@pytest.mark.parametrize("arguments", [["settings"], ["settings", "--json"]])
def test_reader_that_goes_away_is_no_error(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as output:
        done = subprocess.run(
            command(*arguments), stdout=output, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (PIPE_CLOSED, b"")


@pytest.mark.parametrize("arguments", [["settings"], ["settings", "--json"]])
def test_output_that_finds_no_space_is_an_error_of_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as output:
        done = subprocess.run(
            command(*arguments), stdout=output, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "holdfast: No space left on device: make some and run it again\n"


@pytest.mark.parametrize(
    "arguments",
    [["migrate"], ["serve"], ["flush"], ["ledger", "export", "csv"], ["recovery", "status"]],
)
@pytest.mark.parametrize("url", ["postgresql://u:hunter%zz2@h/x", "postgresql://h/x?hunter%zz2=1"])
def test_ledger_url_that_cannot_be_read_is_named_without_its_password(
    arguments: list[str], url: str, tmp_path: Path
) -> None:
    variables = {"HOLDFAST_REDIS_URL": "redis://127.0.0.1:1", "HOLDFAST_DEVELOPMENT": "1"}
    variables |= {"HOLDFAST_POSTGRES_URL": url, "HOLDFAST_PORT": "0", "HOLDFAST_METRICS_PORT": "0"}
    done = run(arguments, {**os.environ, **variables, "HOLDFAST_STATE_DIR": str(tmp_path)})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("holdfast: HOLDFAST_POSTGRES_URL is no URL")
    assert "hunter" not in line
