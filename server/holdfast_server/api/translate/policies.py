"""Policies and processes."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.v1 import control_service_pb2 as control
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.translate.common import timestamp
from holdfast_server.domain.policy import Policy
from holdfast_server.ledger.records import PolicyChange, ProcessReport


def policy(value: Policy) -> control.Policy:
    """A policy as it was set."""
    rule = value.store_unavailable
    return control.Policy(
        scope=control.Scope(
            kind=control.Scope.Kind.ValueType(value.scope.kind), value=value.scope.value
        ),
        mode=types.Mode.ValueType(value.mode),
        evaluate_percent=value.evaluate_percent,
        enforce_percent=value.enforce_percent,
        store_unavailable=control.StoreUnavailablePolicy(
            kind=control.StoreUnavailablePolicy.Kind.ValueType(rule.kind),
            bound_amount=rule.bound_amount,
        ),
        idempotency_window_ms=value.idempotency_window_ms,
        version=value.version,
        expires_at=timestamp(value.expires_at_ms),
        changed_by=value.changed_by,
        reason=value.reason,
        changed_at=timestamp(value.changed_at_ms),
    )


def change(value: PolicyChange) -> control.PolicyChange:
    """One change of a policy."""
    return control.PolicyChange(
        policy=policy(value.policy),
        version_before=value.version_before,
        config_version=value.config_version,
    )


def fleet(
    processes: Iterable[ProcessReport], config_version: int, outbox_entries: int
) -> control.GetFleetResponse:
    """Every process and what it has applied."""
    return control.GetFleetResponse(
        processes=map(_process, processes),
        config_version=config_version,
        outbox_entries=outbox_entries,
    )


def _process(report: ProcessReport) -> control.Process:
    return control.Process(
        process=report.process,
        role=report.role,
        version=report.version,
        started_at=timestamp(report.started_at_ms),
        seen_at=timestamp(report.seen_at_ms),
        config_version=report.config_version,
        killed=report.killed,
        killed_by=report.killed_by,
    )
