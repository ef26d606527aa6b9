"""The way of every call: admit, authenticate, check the role, parse, handle, answer.

Nothing that fails on this way reaches a caller as it is: HoldfastErrors become statuses with their
reason, all else becomes INTERNAL with a reference, and the text goes to the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from holdfast_server.api.allowance import Allowance
from holdfast_server.api.answers import Waiting, fail, fulfil
from holdfast_server.api.auth.authenticator import Authenticator, certificate_names
from holdfast_server.api.auth.principal import EVERY_TENANT, Principal
from holdfast_server.api.call import Call
from holdfast_server.api.company import Company, Traveller
from holdfast_server.api.deadlines import Deadlines, deadline_exceeded
from holdfast_server.api.methods import Method
from holdfast_server.api.status import code_of, sendable, trailing_metadata
from holdfast_server.api.streams import Streams
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.logs import current_place
from holdfast_server.telemetry.names import Attribute
from holdfast_server.telemetry.recorder import Recorder
from holdfast_server.telemetry.tracing import Tracing, parse_traceparent

#: What a caller is told to wait when this process has too much to do, or goes away.
OVERLOADED_RETRY_MS = 250
SHUTTING_DOWN_RETRY_MS = 100
#: A process that goes away refuses calls until none came for this time, for so long at most.
QUIET_SECONDS = 0.05
QUIET_WAIT_SECONDS_MAX = 0.5
#: Verifying a whole ledger takes minutes; every other method is held to the server's deadline.
LONG_METHODS = frozenset({"Verify"})
LONG_DEADLINE_MS = 600_000
#: Characters of a caller's address that a log line shows.
PEER_CHARACTERS_MAX = 64

Done = TypeVar("Done")
_Context = grpc.aio.ServicerContext[bytes, bytes]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one process takes on."""

    #: Longest time for one call, for which a caller may ask less, and for one message of a stream.
    deadline_ms: int
    #: Calls at work at one time, those whose callers have given up included.
    concurrent_max: int


class Dispatcher:
    """Answers the calls of one process."""

    def __init__(
        self,
        authenticator: Authenticator,
        allowance: Allowance,
        bounds: Bounds,
        recorder: Recorder,
        tracing: Tracing,
    ) -> None:
        self._authenticator = authenticator
        self._allowance = allowance
        self._bounds = bounds
        self._recorder = recorder
        self._tracing = tracing
        #: Strong references: the event loop itself keeps only weak ones to its tasks.
        self._work: set[asyncio.Task[Any]] = set()
        self._is_leaving = False
        #: Calls that were refused since.
        self._sent_elsewhere = 0
        self._deadlines = Deadlines(_expire)
        self._company = Company(allowance.charge, self._start)
        self._streams = Streams(
            allowance,
            recorder,
            tracing,
            self._start,
            self._leave,
            self._admit_running,
            bounds.deadline_ms / 1_000,
        )

    def grpc_handlers(self, methods: Iterable[Method]) -> list[grpc.GenericRpcHandler]:
        """What a gRPC server needs to route calls to these methods."""
        by_service: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {}
        for method in methods:
            handlers = by_service.setdefault(method.service, {})
            handlers[method.name] = self._grpc_handler(method)
        return [
            grpc.method_handlers_generic_handler(service, handlers)
            for service, handlers in by_service.items()
        ]

    def refuse_new_calls(self) -> None:
        """From now on answers every call with SHUTTING_DOWN, and asks streams to end."""
        self._is_leaving = True
        self._streams.close()

    async def refuse_what_comes(self, grace_seconds: float) -> None:
        """Refuses calls until no more of them come. Those that the transport holds when the server
        stops are dropped as CANCELLED, after which few callers know to call again.
        """
        until = time.monotonic() + min(grace_seconds, QUIET_WAIT_SECONDS_MAX)
        refused = -1
        while self._sent_elsewhere > refused and time.monotonic() < until:
            refused = self._sent_elsewhere
            await asyncio.sleep(QUIET_SECONDS)

    async def wait_for_work(self, grace_seconds: float) -> None:
        """Waits until the work that was begun is done, but not for ever."""
        until = time.monotonic() + grace_seconds
        # Work may begin more work.
        while self._work and (left := until - time.monotonic()) > 0:
            await asyncio.wait(self._work, timeout=left)

    def _grpc_handler(self, method: Method) -> grpc.RpcMethodHandler[bytes, bytes]:
        if method.is_stream:
            return self._grpc_stream_handler(method)

        async def answer(payload: bytes, context: _Context) -> bytes:
            return await self._answer(method, payload, context)

        # Neither deserializer nor serializer: bytes in, bytes out, so that malformed input is ours
        # to answer. The stubs only know synchronous handlers here.
        behaviour: Any = answer
        return grpc.unary_unary_rpc_method_handler(behaviour)

    def _grpc_stream_handler(self, method: Method) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def serve(_: object, context: _Context) -> None:
            try:
                await self._serve(method, context)
            except Exception as error:
                refusal = sendable(method.name, error)
                self._recorder.refused(method.name, refusal.reason)
                await context.abort(code_of(refusal), refusal.message, trailing_metadata(refusal))

        behaviour: Any = serve
        return grpc.stream_stream_rpc_method_handler(behaviour)

    async def _serve(self, method: Method, context: _Context) -> None:
        self._admit()
        headers = _headers(context)

        async def prove() -> Principal:
            principal = await self._principal(method, context, headers)
            principal.require(method.roles)
            return principal

        principal = await prove()
        await _accept(context)
        # This process may have begun to leave meanwhile.
        self._admit()
        await self._streams.run(method, context, principal, prove)

    async def _answer(self, method: Method, payload: bytes, context: _Context) -> bytes:
        began = time.perf_counter()
        status = "OK"
        try:
            return await self._within_deadline(method, payload, context)
        except HoldfastError as error:
            status = error.status.name
            self._recorder.refused(method.name, error.reason)
            await context.abort(code_of(error), error.message, trailing_metadata(error))
        except asyncio.CancelledError:
            status = "CANCELLED"
            raise
        finally:
            self._recorder.rpc(method.name, status, time.perf_counter() - began)

    async def _within_deadline(self, method: Method, payload: bytes, context: _Context) -> bytes:
        self._admit()
        answer: Waiting = asyncio.get_running_loop().create_future()
        ticking = self._deadlines.add(answer, self._seconds(method, context))
        # The work is in a task of its own and goes on when the time is over or the caller gives up:
        # what has been sent to a store cannot be taken back, and its answer is kept under its key.
        try:
            headers = _headers(context)
            if not self._joins(answer, method, payload, context, headers):
                self._start(fulfil(answer, self._work_on(method, payload, context, headers)))
            return await answer
        finally:
            ticking.discard(answer)

    def _joins(
        self,
        answer: Waiting,
        method: Method,
        payload: bytes,
        context: _Context,
        headers: dict[str, str],
    ) -> bool:
        """Lets a call travel with others, unless it has a span, or its token is to be verified.

        Raises nothing but HoldfastError.
        """
        place = parse_traceparent(headers.get("traceparent"))
        if method.attempt is None or not self._tracing.is_silent(place):
            return False
        try:
            with self._watching_refusals(method, context):
                principal = self._authenticator.recognize(*_credentials(headers, context))
            if principal is not None:
                request = self._request(method, principal, payload)
                traveller = Traveller(method, request, place, answer)
                self._company.join(principal, method.attempt, traveller)
            return principal is not None
        except Exception as error:
            raise sendable(method.name, error) from None

    def _admit(self) -> None:
        if self._is_leaving:
            self._sent_elsewhere += 1
            raise HoldfastError(
                Reason.SHUTTING_DOWN,
                "This server is going away; call again.",
                retry_after_ms=SHUTTING_DOWN_RETRY_MS,
            )
        if self._at_work >= self._bounds.concurrent_max:
            raise _overloaded()

    def _admit_running(self) -> None:
        """The running task has its place already, and gives it up at once where that is too much:
        others that were started with it must not be refused for one that was.
        """
        if self._at_work > self._bounds.concurrent_max:
            self._leave()
            raise _overloaded()

    @property
    def _at_work(self) -> int:
        return len(self._work) + self._company.others

    def _start(self, work: Coroutine[Any, Any, Done]) -> asyncio.Task[Done]:
        """Begins work that is finished even when its caller has gone."""
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._finished)
        return task

    def _leave(self) -> asyncio.Task[Any] | None:
        """The running task, which has done its work and takes no place any more."""
        task = asyncio.current_task()
        self._work.discard(task)
        return task

    def _seconds(self, method: Method, context: _Context) -> float:
        longest_ms = LONG_DEADLINE_MS if method.name in LONG_METHODS else self._bounds.deadline_ms
        remaining = context.time_remaining()
        return longest_ms / 1_000 if remaining is None else min(remaining, longest_ms / 1_000)

    async def _work_on(
        self, method: Method, payload: bytes, context: _Context, headers: dict[str, str]
    ) -> bytes:
        """Raises nothing but HoldfastError."""
        with self._tracing.rpc(parse_traceparent(headers.get("traceparent"))) as span:
            current_place.set(span.place)
            span.set(Attribute.METHOD, method.name)
            try:
                principal = await self._principal(method, context, headers)
                request = self._request(method, principal, payload)
                call = Call(principal, span, self._allowance.charge)
                return await method.reply(call, request)
            except Exception as error:
                refusal = sendable(method.name, error)
                span.set(Attribute.STATUS, refusal.status.value)
                span.set(Attribute.REASON, refusal.reason.name)
                raise refusal from None

    def _request(self, method: Method, principal: Principal, payload: bytes) -> Message:
        """What is asked, by somebody who may ask it. Raises HoldfastError."""
        principal.require(method.roles)
        if principal.tenant != EVERY_TENANT:
            self._allowance.check(principal.tenant)
        try:
            return method.parse(payload)
        except DecodeError:
            message = f"The bytes are no request of {method.name}."
            raise HoldfastError(Reason.MALFORMED_REQUEST, message) from None

    async def _principal(
        self, method: Method, context: _Context, headers: dict[str, str]
    ) -> Principal:
        with self._watching_refusals(method, context):
            return await self._authenticator.authenticate(*_credentials(headers, context))

    @contextmanager
    def _watching_refusals(self, method: Method, context: _Context) -> Iterator[None]:
        try:
            yield
        except HoldfastError as error:
            facts = {
                "method": method.name,
                "reason": error.reason.name,
                "peer": context.peer()[:PEER_CHARACTERS_MAX],
            }
            _log.warning("refused credentials", extra={"facts": facts})
            raise

    def _finished(self, work: asyncio.Task[Any]) -> None:
        self._work.discard(work)
        if not work.cancelled():
            # Nobody may be left to take the exception; it was logged where it was raised.
            work.exception()


async def _accept(context: _Context) -> None:
    """Tells a caller that it has its stream: some clients send nothing before they know."""
    # Where the caller has gone, so has the stream: whoever reads it is told.
    with suppress(Exception):
        await context.send_initial_metadata(())


def _headers(context: _Context) -> dict[str, str]:
    pairs = context.invocation_metadata() or ()
    return {name: value for name, value in pairs if isinstance(value, str)}


def _credentials(
    headers: dict[str, str], context: _Context
) -> tuple[str | None, Callable[[], list[str]]]:
    return headers.get("authorization"), lambda: certificate_names(context.auth_context())


def _overloaded() -> HoldfastError:
    return HoldfastError(
        Reason.OVERLOADED,
        "The server has as much work as it may hold; call again later.",
        retry_after_ms=OVERLOADED_RETRY_MS,
    )


def _expire(answer: Waiting) -> None:
    fail(answer, deadline_exceeded())
