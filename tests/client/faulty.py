"""A stand-in for a server, for what a real one cannot be made to do at will: losing an answer after
the work, being too slow, refusing once. It decides nothing: it grants, and remembers keys."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from holdfast.v1 import balance_service_pb2 as pb
from holdfast.v1 import reason_pb2, types_pb2
from holdfast.v1.balance_service_pb2_grpc import (
    BalanceServiceServicer,
    add_BalanceServiceServicer_to_server,
)

#: How long a slow answer waits at most; every test lets it go before.
SLOW_S = 10.0

S = TypeVar("S", bound="FaultyServer")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one call."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    #: Whether the operation is applied before its answer is lost.
    applied: bool = False
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after_ms: int | None = None
    #: Waits with the answer until the server ends, and then gives it.
    slow: bool = False


LOST_ANSWER = Fault(applied=True)


@dataclass(frozen=True)
class Seen:
    """One call that arrived."""

    method: str
    request: Any
    metadata: dict[str, str]
    time_remaining_s: float

    @property
    def key(self) -> str:
        return str(self.request.idempotency_key)


class FaultyServer(BalanceServiceServicer):
    """Grants everything, except where the next planned fault says otherwise."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.applied: dict[tuple[str, str], Any] = {}
        self.faults: deque[Fault] = deque()
        self.decision = types_pb2.Decision(outcome=types_pb2.OUTCOME_GRANTED)
        self.address = ""
        self._changed = threading.Condition()
        self._ending = threading.Event()

    def end(self) -> None:
        """Lets slow answers go."""
        self._ending.set()

    def methods(self) -> list[str]:
        return [one.method for one in self.seen]

    def wait_for(self, method: str, times: int = 1) -> list[Seen]:
        """The calls of a method, once there are so many; fails after ten seconds."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: self.methods().count(method) >= times, SLOW_S)
        assert arrived, f"{method} came {self.methods().count(method)} times"
        return [one for one in self.seen if one.method == method]

    def Session(self, request_iterator: Any, context: Any) -> Any:
        """A server of before: every call is a call of its own."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "no sessions here")

    def Reserve(self, request: Any, context: Any) -> Any:
        lines = [
            types_pb2.HeldLine(credit_type=one.credit_type, requested=one.amount, held=one.amount)
            for one in request.lines
        ]
        if self.decision.outcome == types_pb2.OUTCOME_GRANTED_PARTIAL:
            lines[0].held = request.lines[0].minimum_amount
        denied = self.decision.outcome == types_pb2.OUTCOME_DENIED
        answer = pb.ReserveResponse(
            decision=self.decision, hold_id="" if denied else "hold", lines=lines
        )
        return self._answer("Reserve", request, context, lambda: answer)

    def Commit(self, request: Any, context: Any) -> Any:
        lines = [
            types_pb2.SettledLine(credit_type=one.credit_type, burned=one.amount)
            for one in request.lines
        ]
        return self._answer(
            "Commit", request, context, lambda: self._granted(pb.CommitResponse, lines)
        )

    def Release(self, request: Any, context: Any) -> Any:
        return self._answer(
            "Release", request, context, lambda: self._granted(pb.ReleaseResponse, [])
        )

    def Extend(self, request: Any, context: Any) -> Any:
        granted = types_pb2.Decision(outcome=types_pb2.OUTCOME_GRANTED)
        return self._answer("Extend", request, context, lambda: pb.ExtendResponse(decision=granted))

    def Burn(self, request: Any, context: Any) -> Any:
        return self._answer("Burn", request, context, lambda: self._granted(pb.BurnResponse, []))

    def Batch(self, request: Any, context: Any) -> Any:
        self._arrived("Batch", request, context)
        granted = types_pb2.Decision(outcome=types_pb2.OUTCOME_GRANTED)
        error = pb.ItemError(
            code=5,
            reason=reason_pb2.REASON_HOLD_NOT_FOUND,
            message="no such hold",
            metadata={"field": "hold_id"},
        )
        results = [
            pb.BatchResult(reserve=pb.ReserveResponse(decision=granted, hold_id="hold"))
            if item.HasField("reserve")
            else pb.BatchResult(error=error)
            for item in request.items
        ]
        return pb.BatchResponse(results=results)

    def Refund(self, request: Any, context: Any) -> Any:
        return self._answer("Refund", request, context, pb.RefundResponse)

    def Balance(self, request: Any, context: Any) -> Any:
        self._arrived("Balance", request, context)
        return pb.BalanceResponse(account=request.account)

    def AwaitDurable(self, request: Any, context: Any) -> Any:
        self._arrived("AwaitDurable", request, context)
        return pb.AwaitDurableResponse(durability=request.durability)

    def ListHolds(self, request: Any, context: Any) -> Any:
        self._arrived("ListHolds", request, context)
        number = int(request.page_token or "0")
        holds = [types_pb2.Hold(hold_id=f"{number}-{index}") for index in range(2)]
        return pb.ListHoldsResponse(
            holds=holds, next_page_token=str(number + 1) if number < 2 else ""
        )

    def _granted(self, response: Any, lines: list[types_pb2.SettledLine]) -> Any:
        granted = types_pb2.Decision(outcome=types_pb2.OUTCOME_GRANTED)
        return response(decision=granted, lines=lines)

    def _answer(self, method: str, request: Any, context: Any, apply: Callable[[], Any]) -> Any:
        self._arrived(method, request, context)
        fault = self.faults.popleft() if self.faults else None
        place = (method, request.idempotency_key)
        if fault is None or fault.applied or fault.slow:
            known = place in self.applied
            answer = self.applied.setdefault(place, apply())
            answer.applied.replayed = known
        if fault is None:
            return answer
        if fault.slow:
            self._ending.wait(SLOW_S)
            return answer
        _abort(context, fault)

    def _arrived(self, method: str, request: Any, context: Any) -> None:
        metadata = {key: value for key, value in context.invocation_metadata()}
        with self._changed:
            self.seen.append(Seen(method, request, metadata, context.time_remaining()))
            self._changed.notify_all()


def _abort(context: Any, fault: Fault) -> None:
    details = []
    if fault.reason:
        info = error_details_pb2.ErrorInfo(
            reason=fault.reason, domain="holdfast", metadata=fault.metadata
        )
        details.append(_packed(info))
    if fault.retry_after_ms is not None:
        delay = Duration()
        delay.FromMilliseconds(fault.retry_after_ms)
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    if details:
        status = status_pb2.Status(code=fault.code.value[0], message="no", details=details)
        context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
    context.abort(fault.code, "no")


def _packed(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


@contextmanager
def serve(faulty: S) -> Iterator[S]:
    """Runs the stand-in on a free port of this machine."""
    server = grpc.server(ThreadPoolExecutor(8))
    add_BalanceServiceServicer_to_server(faulty, server)
    faulty.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield faulty
    finally:
        faulty.end()
        server.stop(None).wait()
