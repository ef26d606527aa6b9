"""The public face: names, signatures, and how little it loads."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

import holdfast
from holdfast import AsyncClient, AsyncHold, AsyncLease, Client, Hold, Lease

#: A change of this list is a change of the public interface.
PUBLIC_NAMES = [
    "Account",
    "AccountResult",
    "AccountStatus",
    "AlreadyExists",
    "Applied",
    "AsyncClient",
    "AsyncHold",
    "AsyncLease",
    "BalanceAt",
    "BalanceResult",
    "Buckets",
    "BurnResult",
    "Client",
    "CommitResult",
    "Conflict",
    "CreditBalance",
    "CreditBalanceAt",
    "CreditType",
    "CreditWarning",
    "Decision",
    "Denied",
    "Durability",
    "Entry",
    "EntryKind",
    "Explanation",
    "ExtendResult",
    "FailedPrecondition",
    "Fleet",
    "Grant",
    "GrantBalance",
    "GrantPosting",
    "GrantResult",
    "GrantShare",
    "GrantSource",
    "GrantTerms",
    "HeldLine",
    "Hold",
    "HoldState",
    "HoldfastError",
    "InternalError",
    "InvalidRequest",
    "Lease",
    "Limit",
    "LimitEnforcement",
    "LimitUnit",
    "LimitUse",
    "LimitWindow",
    "Mode",
    "NotFound",
    "OpenHold",
    "Outcome",
    "Overage",
    "PermissionDenied",
    "Policy",
    "PolicyChange",
    "Process",
    "RefundResult",
    "RefundedLine",
    "ReleaseResult",
    "ReserveResult",
    "ResourceExhausted",
    "RevokeResult",
    "Scope",
    "ScopeKind",
    "SettledLine",
    "Shortfall",
    "StoreUnavailable",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unreachable",
    "Verification",
    "Violation",
    "WarningKind",
    "WhenUnreachable",
    "new_key",
    "operations",
]


def test_public_names_are_pinned() -> None:
    assert sorted(holdfast.__all__) == sorted(PUBLIC_NAMES)
    for name in PUBLIC_NAMES:
        assert hasattr(holdfast, name), name


def test_a_handler_of_failures_does_not_catch_denials() -> None:
    assert not issubclass(holdfast.Denied, holdfast.HoldfastError)


def _public(cls: type) -> dict[str, Any]:
    members = inspect.getmembers(cls, callable)
    return {
        name: member for name, member in members if not name.startswith("_") or name == "__init__"
    }


def _signature(function: Any) -> str:
    text = str(inspect.signature(function))
    for name in ("Iterator", "Hold", "Lease"):
        text = text.replace(f"Async{name}", name)
    return text


@pytest.mark.parametrize(("asynchronous", "threaded"), [(AsyncClient, Client)])
def test_both_clients_have_the_same_methods(asynchronous: type, threaded: type) -> None:
    ours, theirs = _public(asynchronous), _public(threaded)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert _signature(ours[name]) == _signature(theirs[name]), name
        if name not in {"__init__", "close"}:
            described = (inspect.getdoc(ours[name]) or "").replace("async with", "with")
            assert described == inspect.getdoc(theirs[name]), name


def test_both_holds_have_the_same_methods() -> None:
    ours = {name: _signature(one) for name, one in _public(AsyncHold).items() if name != "__init__"}
    theirs = {name: _signature(one) for name, one in _public(Hold).items() if name != "__init__"}
    # How the client's one thread tells a hold that its time has come.
    del theirs["extend_now"]
    assert ours == theirs


def test_both_leases_have_the_same_methods() -> None:
    ours = {
        name: _signature(one) for name, one in _public(AsyncLease).items() if name != "__init__"
    }
    theirs = {name: _signature(one) for name, one in _public(Lease).items() if name != "__init__"}
    assert ours == theirs


def test_every_public_method_is_awaited_or_iterated_in_the_asyncio_client() -> None:
    for name, method in _public(AsyncClient).items():
        is_iterator = "AsyncIterator" in str(inspect.signature(method).return_annotation)
        is_block = name in {"hold", "lease", "__init__"}
        assert inspect.iscoroutinefunction(method) or is_iterator or is_block, name


def test_importing_loads_neither_server_nor_stores_nor_telemetry() -> None:
    script = (
        "import sys, holdfast; "
        "print([name for name in sys.modules if name.partition('.')[0] in "
        "('redis', 'psycopg', 'opentelemetry', 'holdfast_server', 'click', 'rich', 'msgpack')])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
