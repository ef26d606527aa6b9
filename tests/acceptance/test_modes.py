"""Modes as people on call set them, and look up later who did."""

from __future__ import annotations

from holdfast import new_key
from tests.support.server import RunningService, call, call_json


def test_nothing_goes_from_shadow_to_enforced_for_everybody_by_mistake(
    holdfast_server: RunningService,
) -> None:
    feature, variables = f"feature-{new_key()}", holdfast_server.environment
    scope = ["--feature", feature, "--reason", "roll out"]
    call_json(["mode", "set", "shadow", *scope], variables)
    refused = call(["mode", "set", "enforce", *scope], variables)
    assert refused.returncode == 1
    assert refused.stderr.startswith("holdfast: ROLLOUT_OUT_OF_RANGE")
    assert "enforce_percent" in refused.stderr
    for percent in ("25", "50", "75", "100"):
        call_json(["mode", "set", "enforce", *scope, "--enforce-percent", percent], variables)
    call_json(["mode", "set", "off", *scope], variables)
    call_json(["mode", "set", "enforce", *scope, "--force"], variables)


def test_what_a_store_that_is_away_lets_pass_can_be_taken_back(
    holdfast_server: RunningService,
) -> None:
    variables = holdfast_server.environment
    scope = ["--feature", f"feature-{new_key()}"]
    setting = ["mode", "set", "enforce", *scope, "--reason", "x"]
    bounded = [*setting, "--store-away", "allow-bounded", "--bound", "500"]
    shown = call(bounded, variables).stdout
    assert "allow bounded, 500 per account and minute" in shown
    assert "allow bounded, 500 per account and minute" in call(["mode", "list"], variables).stdout
    for rule in ("deny", "allow"):
        call_json(bounded, variables)
        (after,) = call_json([*setting, "--store-away", rule], variables)
        assert (after["store_unavailable"], after["bound_amount"]) == (rule.upper(), 0)
        assert call(["mode", "get", *scope], variables).returncode == 0
    refused = call([*setting, "--store-away", "deny", "--bound", "5"], variables)
    assert refused.returncode == 1
    assert "bound_amount" in refused.stderr


def test_changes_of_modes_say_who_made_them_when_and_why(holdfast_server: RunningService) -> None:
    account, variables = f"mode-{new_key()}", holdfast_server.environment
    for mode, reason in (("shadow", "watch"), ("off", "case [12]")):
        setting = ["mode", "set", mode, "--account", account, "--reason", reason]
        (set_last,) = call_json(setting, variables)
    last, first = call_json(["mode", "changes", "--limit", "2"], variables)
    assert (last["policy"], last["version_before"]) == (set_last, 1)
    assert (last["policy"]["mode"], last["policy"]["changed_by"]) == ("OFF", "development")
    assert (first["policy"]["reason"], first["version_before"]) == ("watch", 0)
    assert last["config_version"] > first["config_version"]
    heading, newest, *_ = call(["mode", "changes"], variables).stdout.splitlines()
    assert heading.split()[:3] == ["when", "policies", "scope"]
    assert f"account {account}" in newest
    assert [newest[heading.index(name) :].split("  ")[0] for name in ("who", "why")] == [
        "development",
        "case [12]",
    ]
