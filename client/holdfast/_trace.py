"""The W3C trace context of the caller, without depending on OpenTelemetry.

An application with an active span has loaded OpenTelemetry itself, so it is looked up among the
loaded modules and never imported from here.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol


class _SpanContext(Protocol):
    trace_id: int
    span_id: int
    trace_flags: int
    is_valid: bool


class _Span(Protocol):
    def get_span_context(self) -> _SpanContext: ...


def active_traceparent() -> str | None:
    """The `traceparent` header of the active OpenTelemetry span; None when there is none."""
    module: Any = sys.modules.get("opentelemetry.trace")
    if module is None:
        return None
    span: _Span = module.get_current_span()
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
