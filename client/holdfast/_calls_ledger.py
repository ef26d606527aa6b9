"""Calls of ControlService and LedgerService. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast import records
from holdfast._calls import CONTROL, LEDGER, PAGE_SIZE, Call, Defaults, Page, decoder
from holdfast._wire import milliseconds, read_buckets, timestamp
from holdfast.kinds import EntryKind, Mode, ScopeKind, StoreUnavailable
from holdfast.v1 import control_service_pb2 as control_pb
from holdfast.v1 import ledger_service_pb2 as pb
from holdfast.v1 import types_pb2


def set_policy(
    policy: records.Policy, reason: str, expires_in_ms: int, force: bool, key: str
) -> Call[records.Policy]:
    """Sets the policy of one scope, unless it has moved on from `policy.version`."""

    def build(defaults: Defaults) -> control_pb.SetPolicyRequest:
        return control_pb.SetPolicyRequest(
            tenant=defaults.tenant,
            policy=_write_policy(policy),
            expected_version=policy.version,
            reason=reason,
            expires_in_ms=expires_in_ms,
            force=force,
            idempotency_key=key,
        )

    def read(answer: control_pb.SetPolicyResponse) -> records.Policy:
        return _policy(answer.policy)

    return Call(CONTROL + "SetPolicy", build, decoder(control_pb.SetPolicyResponse, read))


def get_policy(scope: records.Scope) -> Call[records.Policy]:
    """The policy set at one scope."""

    def build(defaults: Defaults) -> control_pb.GetPolicyRequest:
        return control_pb.GetPolicyRequest(tenant=defaults.tenant, scope=_write_scope(scope))

    def read(answer: control_pb.GetPolicyResponse) -> records.Policy:
        return _policy(answer.policy)

    return Call(CONTROL + "GetPolicy", build, decoder(control_pb.GetPolicyResponse, read))


def list_policies() -> Call[tuple[records.Policy, ...]]:
    """Every policy of the tenant, the global one included."""

    def build(defaults: Defaults) -> control_pb.ListPoliciesRequest:
        return control_pb.ListPoliciesRequest(tenant=defaults.tenant)

    def read(answer: control_pb.ListPoliciesResponse) -> tuple[records.Policy, ...]:
        return tuple(map(_policy, answer.policies))

    return Call(CONTROL + "ListPolicies", build, decoder(control_pb.ListPoliciesResponse, read))


def list_policy_changes(page_token: str) -> Call[Page[records.PolicyChange]]:
    """One page of the changes of policies."""

    def build(defaults: Defaults) -> control_pb.ListPolicyChangesRequest:
        return control_pb.ListPolicyChangesRequest(
            tenant=defaults.tenant, page_size=PAGE_SIZE, page_token=page_token
        )

    def read(answer: control_pb.ListPolicyChangesResponse) -> Page[records.PolicyChange]:
        return Page(tuple(map(_policy_change, answer.changes)), answer.next_page_token)

    return Call(
        CONTROL + "ListPolicyChanges", build, decoder(control_pb.ListPolicyChangesResponse, read)
    )


def get_fleet() -> Call[records.Fleet]:
    """Every process and what it has applied."""

    def build(_: Defaults) -> control_pb.GetFleetRequest:
        return control_pb.GetFleetRequest()

    def read(answer: control_pb.GetFleetResponse) -> records.Fleet:
        processes = tuple(map(_process, answer.processes))
        return records.Fleet(processes, answer.config_version, answer.outbox_entries)

    return Call(CONTROL + "GetFleet", build, decoder(control_pb.GetFleetResponse, read))


def list_entries(
    account: str, credit_type: str, from_ms: int, to_ms: int, page_token: str
) -> Call[Page[records.Entry]]:
    """One page of the entries of an account."""

    def build(defaults: Defaults) -> pb.ListEntriesRequest:
        return pb.ListEntriesRequest(
            tenant=defaults.tenant,
            account=account,
            credit_type=credit_type,
            from_time=timestamp(from_ms),
            to_time=timestamp(to_ms),
            page_size=PAGE_SIZE,
            page_token=page_token,
        )

    def read(answer: pb.ListEntriesResponse) -> Page[records.Entry]:
        return Page(tuple(map(_entry, answer.entries)), answer.next_page_token)

    return Call(LEDGER + "ListEntries", build, decoder(pb.ListEntriesResponse, read))


def balance_at(account: str, instant_ms: int) -> Call[records.BalanceAt]:
    """The buckets of an account at an instant; 0 means now."""

    def build(defaults: Defaults) -> pb.GetBalanceAtRequest:
        return pb.GetBalanceAtRequest(
            tenant=defaults.tenant, account=account, instant=timestamp(instant_ms)
        )

    def read(answer: pb.GetBalanceAtResponse) -> records.BalanceAt:
        credits = tuple(
            records.CreditBalanceAt(one.credit_type, read_buckets(one.buckets), one.version)
            for one in answer.credits
        )
        return records.BalanceAt(credits, milliseconds(answer.as_of))

    return Call(LEDGER + "GetBalanceAt", build, decoder(pb.GetBalanceAtResponse, read))


def explain(
    transaction_id: str,
    account: str,
    credit_type: str | None,
    instant_ms: int,
    maximum_entries: int,
) -> Call[records.Explanation]:
    """The entries behind a transaction, or, where that is empty, behind a balance."""

    def build(defaults: Defaults) -> pb.ExplainRequest:
        request = pb.ExplainRequest(tenant=defaults.tenant, maximum_entries=maximum_entries)
        if transaction_id:
            request.transaction_id = transaction_id
            return request
        subject = pb.BalanceSubject(
            account=account,
            credit_type=credit_type or defaults.credit_type,
            instant=timestamp(instant_ms),
        )
        request.balance.CopyFrom(subject)
        return request

    return Call(LEDGER + "Explain", build, decoder(pb.ExplainResponse, _explanation))


def verify(partitions: Sequence[int], timeout_ms: int) -> Call[records.Verification]:
    """Checks the ledger; reading all of it takes longer than other calls."""

    def build(_: Defaults) -> pb.VerifyRequest:
        return pb.VerifyRequest(partitions=partitions)

    def read(answer: pb.VerifyResponse) -> records.Verification:
        violations = tuple(
            records.Violation(one.check, one.partition, one.seq, one.message)
            for one in answer.violations
        )
        return records.Verification(answer.ok, answer.entries, violations)

    return Call(LEDGER + "Verify", build, decoder(pb.VerifyResponse, read), timeout_ms=timeout_ms)


def _write_scope(scope: records.Scope) -> control_pb.Scope:
    return control_pb.Scope(kind=control_pb.Scope.Kind.ValueType(scope.kind), value=scope.value)


def _write_policy(policy: records.Policy) -> control_pb.Policy:
    return control_pb.Policy(
        scope=_write_scope(policy.scope),
        mode=types_pb2.Mode.ValueType(policy.mode),
        evaluate_percent=policy.evaluate_percent,
        enforce_percent=policy.enforce_percent,
        store_unavailable=control_pb.StoreUnavailablePolicy(
            kind=control_pb.StoreUnavailablePolicy.Kind.ValueType(policy.store_unavailable),
            bound_amount=policy.bound_amount,
        ),
        idempotency_window_ms=policy.idempotency_window_ms,
    )


def _policy(message: control_pb.Policy) -> records.Policy:
    return records.Policy(
        records.Scope(ScopeKind(message.scope.kind), message.scope.value),
        Mode(message.mode),
        message.evaluate_percent if message.HasField("evaluate_percent") else 100,
        message.enforce_percent if message.HasField("enforce_percent") else 100,
        StoreUnavailable(message.store_unavailable.kind),
        message.store_unavailable.bound_amount,
        message.idempotency_window_ms,
        message.version,
        milliseconds(message.expires_at),
        message.changed_by,
        message.reason,
        milliseconds(message.changed_at),
    )


def _policy_change(message: control_pb.PolicyChange) -> records.PolicyChange:
    return records.PolicyChange(
        _policy(message.policy), message.version_before, message.config_version
    )


def _process(message: control_pb.Process) -> records.Process:
    return records.Process(
        message.process,
        message.role,
        message.version,
        milliseconds(message.started_at),
        milliseconds(message.seen_at),
        message.config_version,
        message.killed,
        message.killed_by,
    )


def _explanation(message: pb.ExplainResponse) -> records.Explanation:
    return records.Explanation(
        read_buckets(message.opening),
        tuple(map(_entry, message.entries)),
        read_buckets(message.closing),
        tuple(message.grant_ids),
    )


def _entry(message: pb.Entry) -> records.Entry:
    return records.Entry(
        partition=message.partition,
        epoch=message.epoch,
        seq=message.seq,
        transaction_id=message.transaction_id,
        kind=EntryKind(message.kind),
        account=message.account,
        credit_type=message.credit_type,
        version=message.version,
        delta=read_buckets(message.delta),
        after=read_buckets(message.after),
        grants=tuple(map(_posting, message.grants)),
        hold_id=message.hold_id,
        actor=message.actor,
        mode=Mode(message.mode),
        feature=message.feature,
        labels=dict(message.labels),
        caller=message.caller,
        trace_id=message.trace_id,
        idempotency_key=message.idempotency_key,
        reason=message.reason,
        event_time_ms=milliseconds(message.event_time),
        recorded_time_ms=milliseconds(message.recorded_time),
        hash=message.hash,
    )


def _posting(message: pb.GrantPosting) -> records.GrantPosting:
    return records.GrantPosting(
        message.grant_id,
        message.remaining,
        message.held,
        message.burned,
        message.expired,
        message.revoked,
    )
