"""The terms of an account as entries carry them in their detail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast_server.domain.operation import (
    AccountStatus,
    AccountTerms,
    Limit,
    LimitEnforcement,
    LimitUnit,
    LimitWindow,
)


def account_terms(detail: Mapping[str, Any]) -> AccountTerms:
    """The terms of an account, from the detail of an ACCOUNT entry."""
    return AccountTerms(
        parent=detail["parent"],
        display_name=detail["display_name"],
        status=AccountStatus(detail["status"]),
        overdraft_limits=dict(detail["overdraft_limits"]),
        limits=tuple(_limit(limit) for limit in detail["limits"]),
        zone=detail["zone"],
        labels=dict(detail["labels"]),
    )


def _limit(detail: Mapping[str, Any]) -> Limit:
    return Limit(
        limit_id=detail["limit_id"],
        unit=LimitUnit(detail["unit"]),
        window=LimitWindow(detail["window"]),
        maximum=detail["maximum"],
        enforcement=LimitEnforcement(detail["enforcement"]),
        window_ms=detail["window_ms"],
        credit_type=detail["credit_type"],
        feature=detail["feature"],
        warn_percents=tuple(detail["warn_percents"]),
    )
