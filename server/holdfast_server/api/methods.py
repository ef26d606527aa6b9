"""The table of methods: for each RPC its request type, roles, deadline and handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from holdfast_server.api.auth.principal import Role
from holdfast_server.api.call import Call

#: Answers one request of the method's type, or the items of one message of a stream. `Any`, because
#: the table holds methods of every type.
Handler = Callable[[Call, Any], Awaitable[Any]]
#: Answers at once what can be answered at once, and does nothing about the rest: of several calls,
#: given by the names of their methods, their requests and their places in traces, with None in the
#: place of the others; or of the items of one message of a stream, without the others.
Attempt = Callable[[Call, Any], Awaitable[Any]]


class Service(Protocol):
    """One gRPC service: its descriptor, and a handler for each of its methods by name."""

    @property
    def descriptor(self) -> ServiceDescriptor: ...

    def handlers(self) -> Mapping[str, Handler]: ...


@runtime_checkable
class Attempting(Service, Protocol):
    """A service of which some methods' calls, or items, may travel together."""

    def attempts(self) -> Mapping[str, Attempt]: ...


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC."""

    #: Full name of the service, such as `holdfast.v1.BalanceService`.
    service: str
    name: str
    roles: frozenset[Role]
    parse: Callable[[bytes], Message]
    handle: Handler
    #: Whether messages go both ways for as long as the call lasts.
    is_stream: bool
    #: Where its calls may travel together, as the items of a stream do.
    attempt: Attempt | None = None

    async def reply(self, call: Call, request: Message) -> bytes:
        """The answer to a call that is no stream, as it travels. Raises whatever a handler does."""
        reply: Message = await self.handle(call, request)
        return reply.SerializeToString()


def bind(service: Service, roles: Mapping[str, frozenset[Role]]) -> list[Method]:
    """The methods of a service.

    Raises ValueError when an RPC lacks a role or a handler, or when there is one for no RPC: such a
    server MUST NOT start.
    """
    descriptor, handlers = service.descriptor, service.handlers()
    attempts = service.attempts() if isinstance(service, Attempting) else {}
    names = {method.name for method in descriptor.methods}
    if handlers.keys() != names:
        raise ValueError(f"{descriptor.name} needs handlers for exactly {', '.join(sorted(names))}")
    unguarded = [name for name in names if not roles.get(f"{descriptor.name}/{name}")]
    if unguarded:
        raise ValueError(f"{descriptor.name} has no role for {', '.join(sorted(unguarded))}")
    return [
        Method(
            service=descriptor.full_name,
            name=method.name,
            roles=roles[f"{descriptor.name}/{method.name}"],
            parse=GetMessageClass(method.input_type).FromString,
            handle=handlers[method.name],
            is_stream=method.client_streaming,
            attempt=attempts.get(method.name),
        )
        for method in descriptor.methods
    ]
