"""A whole service that keeps evidence elsewhere, and an auditor who has nothing but files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast_server import embedded
from tests.support.server import call, call_json, environment, serving


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_export_that_was_cut_off_is_noticed(tmp_path: Path) -> None:
    """From a key to a verdict. The last checkpoint is made when the service ends."""
    key, evidence = tmp_path / "key.pem", tmp_path / "checkpoints.jsonl"
    public, export = tmp_path / "public.pem", tmp_path / "ledger.jsonl"
    with embedded.start(tmp_path / "stores", redis_url=None, postgres_url=None) as stores:
        base = environment(stores.redis_url, stores.postgres_url, tmp_path / "state")
        made = call_json(["checkpoint", "key", str(key)], base)[0]
        public.write_text(made["public_key"])
        variables = {
            **base,
            "HOLDFAST_CHECKPOINT_PLACE": evidence.as_uri(),
            "HOLDFAST_CHECKPOINT_KEY_FILE": str(key),
        }
        with serving(variables) as service:
            for command in (
                ["credit-type", "create", "credits"],
                ["account", "create", "ada"],
                ["grant", "give", "ada", "1000", "--source", "purchase"],
                ["burn", "ada", "40"],
            ):
                call_json(command, service.environment)
            assert service.stop() == 0
        checks = {each["name"]: each for each in call_doctor(variables)}
        assert checks["checkpoints"]["health"] == "OK"
        proof = ["--checkpoints", str(evidence), "--public-key", str(public)]
        (whole,) = call_json(["verify", "--offline", *proof], variables)
        assert (whole["ok"], whole["checkpoints"]) == (True, 1)
        done = call(["ledger", "export", "jsonl", "--output", str(export)], variables)
        assert done.returncode == 0, done.stderr

    judge = ["verify", "--file", str(export), *proof]
    assert call_json(judge, {})[0]["entries"] == whole["entries"] > 2
    listed = call_json(["checkpoint", "list", str(evidence)], {})
    assert [each["key_id"] for each in listed] == [made["key_id"]]
    sound = call_json(["checkpoint", "verify", str(evidence), *proof[2:]], {})
    assert (sound[0]["ok"], sound[0]["last"]) == (True, 1)

    lines = export.read_text().splitlines()
    export.write_text("\n".join(lines[:-1]) + "\n")
    assert call_json(["verify", "--file", str(export)], {})[0]["ok"]
    cut = call(judge, {})
    assert cut.returncode == 1
    assert "vouches for entries up to" in cut.stdout

    forged = json.loads(evidence.read_text())
    forged["tips"][0][2] -= 1
    evidence.write_text(json.dumps(forged) + "\n")
    changed = call(["checkpoint", "verify", str(evidence), *proof[2:]], {})
    assert changed.returncode == 1
    assert "signature is wrong" in changed.stdout


def call_doctor(variables: dict[str, str]) -> list[dict[str, str]]:
    """What `doctor` says, whatever it thinks of this machine."""
    return [json.loads(line) for line in call(["doctor", "--json"], variables).stdout.splitlines()]


def test_a_place_without_a_key_is_refused(tmp_path: Path) -> None:
    variables = {"HOLDFAST_CHECKPOINT_PLACE": (tmp_path / "x").as_uri()}
    refused = call(["doctor"], variables)
    assert refused.returncode == 1
    assert "HOLDFAST_CHECKPOINT_KEY_FILE" in refused.stderr


def test_a_place_that_is_forbidden_is_said_to_be(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    assert call(["checkpoint", "key", str(key)], {}).returncode == 0
    secret = "https://s3.example.com:8443/x?X-Amz-Signature=s3cret"
    variables = {
        "HOLDFAST_CHECKPOINT_PLACE": secret,
        "HOLDFAST_CHECKPOINT_KEY_FILE": str(key),
        "HOME": str(tmp_path),
    }
    checks = {each["name"]: each for each in call_doctor(variables)}
    assert checks["checkpoints"]["health"] == "BAD"
    assert "port 443" in checks["checkpoints"]["found"]
    shown = call(["settings"], variables).stdout
    assert "s3cret" not in shown
    assert "X-Amz-Signature=***" in shown
