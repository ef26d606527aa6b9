"""What a handler knows about the call it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast_server.api.auth.principal import Principal
from holdfast_server.domain.operation import Caller
from holdfast_server.telemetry.tracing import Span, TraceContext

#: Charges operations to a tenant's allowance; raises RATE_LIMITED.
Charge = Callable[[str, int], None]


def charged(tenant: str, operations: int) -> None:
    """Charges nothing: it was done before."""


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated call of one method."""

    principal: Principal
    #: Where the call stands in its trace, and what is noted there about it.
    span: Span
    charge: Charge

    @property
    def caller(self) -> Caller:
        """Who asks, as ledger entries keep it."""
        return self.caller_at(self.span.place)

    def caller_at(self, place: TraceContext) -> Caller:
        """The same, for an operation that has a place in a trace of its own."""
        return Caller(self.principal.subject, place.trace_id, place.span_id)

    def tenant(self, named: str) -> str:
        """The tenant that the request is for, once its allowance is charged with one operation.

        Raises HoldfastError: TENANT_MISMATCH, ID_INVALID or RATE_LIMITED.
        """
        tenant = self.principal.tenant_of(named)
        self.charge(tenant, 1)
        return tenant
