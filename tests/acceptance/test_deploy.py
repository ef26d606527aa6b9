"""deploy/ is checked by the tools that know its formats, and against the code it deploys."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from holdfast_server.control.gate import OWN_TROUBLE
from holdfast_server.errors import Reason
from holdfast_server.settings import RULES, variable_of
from holdfast_server.telemetry.metrics import Metrics
from holdfast_server.telemetry.names import METRICS, Alert, Audited, Cause, Delivery, Kind, Replayed
from tests.support.server import call

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
ALERTS = DEPLOY / "prometheus/alerts.yaml"
DASHBOARD = DEPLOY / "grafana/holdfast.json"
BIN = Path(sys.executable).parent


def tool(name: str, *arguments: object) -> None:
    """Runs a checker of the development requirements; fails with what it found."""
    done = subprocess.run(
        [BIN / name, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def documents(path: Path) -> list[Any]:
    return list(YAML(typ="safe").load_all(path))


def expressions() -> list[str]:
    """What the alerts ask Prometheus."""
    (group,) = documents(ALERTS)[0]["groups"]
    return [rule["expr"] for rule in group["rules"]]


def test_dockerfile() -> None:
    tool("hadolint", "--failure-threshold", "info", DEPLOY / "Dockerfile")


def test_compose() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes(path: Path) -> None:
    tool("kubernetes-validate", "--strict", path)


def test_every_variable_is_a_setting() -> None:
    known = {variable_of(name) for name in RULES}
    for path in (DEPLOY / "Dockerfile", DEPLOY / "compose.yaml", *MANIFESTS):
        named = set(re.findall(r"\bHOLDFAST_[A-Z_]+\b", path.read_text()))
        assert named <= known, path


def test_every_command_exists() -> None:
    found = [list(_commands(document)) for path in MANIFESTS for document in documents(path)]
    compose = documents(DEPLOY / "compose.yaml")[0]["services"]
    ours = [service["command"] for name, service in compose.items() if name in _OUR_SERVICES]
    commands = [command for each in found for command in each] + ours
    assert len(commands) >= 6
    for command in commands:
        done = call([*command, "--help"], {})
        assert done.returncode == 0, command
        assert all(part in done.stdout for part in command if part.startswith("--"))


def test_pods_have_no_more_than_they_need() -> None:
    for path in MANIFESTS:
        for document in documents(path):
            pod = document["spec"].get("template", {}).get("spec")
            if pod is None:
                continue
            # Else Kubernetes sets HOLDFAST_PORT to the URL of the service.
            assert pod["enableServiceLinks"] is False
            assert pod["securityContext"]["runAsNonRoot"] is True
            for container in pod["containers"]:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_alerts_and_dashboard_know_the_metrics() -> None:
    page = _page_names()
    text = ALERTS.read_text() + DASHBOARD.read_text()
    named = set(re.findall(r"\bholdfast_[a-z_]+\b", text))
    assert named
    assert named - page == set()


def test_alerts_name_values_that_there_are() -> None:
    text = ALERTS.read_text()
    excluded = re.findall(r'alert!~"([a-z_|]+)"', text)
    assert {name for group in excluded for name in group.split("|")} <= set(Alert)
    assert {cause.value for cause in Cause} >= set(re.findall(r'cause="([a-z_]+)"', text))


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_alerts_with_promtool() -> None:
    subprocess.run(["promtool", "check", "rules", ALERTS], check=True)


def test_alerts_say_what_to_do() -> None:
    (group,) = documents(ALERTS)[0]["groups"]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in {"page", "warn"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_an_alert_about_one_event_hears_the_first() -> None:
    """A count that begins with it, as that of a process that has just started, has no increase."""
    increases = [rule for rule in expressions() if "increase(" in rule]
    assert len(increases) >= 4
    for rule in increases:
        match = re.match(r"increase\(((\w+)\{.*\})\[(\w+)\]\) > 0 or (.*)$", rule)
        assert match, rule
        selected, name, span, otherwise = match.groups()
        assert otherwise == f"({selected} unless {name} offset {span}) > 0"


def test_an_alert_about_errors_needs_no_decision() -> None:
    """Where nothing was ever decided there is no count of decisions to compare with."""
    (rule,) = (rule for rule in expressions() if "holdfast_decisions_total" in rule)
    assert "(sum(rate(holdfast_decisions_total[5m])) or vector(0))" in rule


def test_an_alert_about_errors_counts_all_that_is_our_own_trouble() -> None:
    """A store or worker that hangs is told by the deadline of calls alone."""
    (rule,) = (rule for rule in expressions() if "holdfast_decisions_total" in rule)
    (pattern,) = re.findall(r'holdfast_refusals_total\{reason=~"([^"]+)"', rule)
    counted = {reason for reason in Reason if re.fullmatch(pattern, reason.name)}
    assert counted >= OWN_TROUBLE


def test_a_role_that_is_gone_is_missed() -> None:
    """What only a flusher or a sweeper says of itself is silent when there is none."""
    said = {"holdfast_kill", "holdfast_outbox_lag_seconds", "holdfast_holds_open"}
    assert {f"absent({name})" for name in said} <= set(expressions())


def test_slow_calls_are_seen_however_they_travel() -> None:
    """Clients send over a stream by default, whose messages count as calls of its own method."""
    text = ALERTS.read_text() + DASHBOARD.read_text()
    asked = re.findall(r"rpc_duration_seconds_bucket\{method=~[\\\"]+([\w|]+)", text)
    assert len(asked) == 3
    assert all({"Reserve", "Commit", "Batch", "Session"} <= set(each.split("|")) for each in asked)


def test_dashboard_panels_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    cells = [cell for panel in panels for cell in _cells(panel["gridPos"])]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)


_OUR_SERVICES = {"migrate", "holdfast"}


def _commands(document: Any) -> Iterator[list[str]]:
    pod = document["spec"].get("template", {}).get("spec", {})
    for container in pod.get("containers", ()):
        yield container["args"]


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


def _page_names() -> set[str]:
    """Every name on a metrics page after each metric was reported once."""
    metrics = Metrics({"service.name": "test"})
    try:
        _report_all(metrics)
        text = metrics.page().decode()
    finally:
        metrics.close()
    names = set(re.findall(r"^(holdfast_[a-z_]+)", text, re.MULTILINE))
    assert len(names) >= sum(metric.kind is not Kind.HISTOGRAM for metric in METRICS)
    return names | {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def _report_all(metrics: Metrics) -> None:
    kind = next(iter(Alert))
    metrics.decision("Reserve", kind, kind, kind)
    metrics.refused("Reserve", kind)
    metrics.warned(kind)
    metrics.bypassed("Reserve", Cause.KILL)
    metrics.rpc("Reserve", "OK", 0.001)
    metrics.batch(1, 0.001)
    metrics.queued(1)
    metrics.flushed(1, 0.1)
    metrics.outbox(1, 0.1)
    metrics.holds_open(1)
    metrics.sweep_failed(kind, 1)
    metrics.audited(Audited.AGREES)
    metrics.drift(1)
    metrics.delivered(Delivery.DELIVERED)
    metrics.checkpointed()
    metrics.fenced(1)
    metrics.recovered(kind, 0.1)
    metrics.killed(False)
    metrics.policies({kind: 1})
    metrics.config(1)
    metrics.spool(0, 0)
    metrics.replayed(Replayed.BOOKED)
    metrics.alert(kind)


@pytest.mark.parametrize("seeds", ["1O", "-1", ""])
def test_number_of_chaos_runs_that_is_none_is_refused(seeds: str) -> None:
    """A loop that never begins would look like runs that all held."""
    done = subprocess.run(
        [DEPLOY / "dev", "faults", "--seeds", seeds], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"holdfast: --seeds is a number, not '{seeds}'\n"
