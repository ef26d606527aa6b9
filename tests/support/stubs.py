"""Plain stubs of every service over one linted channel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from holdfast.v1.account_service_pb2_grpc import AccountServiceStub
from holdfast.v1.balance_service_pb2_grpc import BalanceServiceStub
from holdfast.v1.control_service_pb2_grpc import ControlServiceStub
from holdfast.v1.grant_service_pb2_grpc import GrantServiceStub
from holdfast.v1.ledger_service_pb2_grpc import LedgerServiceStub
from tests.support.wire import Bearer, Linter

if TYPE_CHECKING:
    from holdfast.v1.account_service_pb2_grpc import AccountServiceAsyncStub
    from holdfast.v1.balance_service_pb2_grpc import BalanceServiceAsyncStub
    from holdfast.v1.control_service_pb2_grpc import ControlServiceAsyncStub
    from holdfast.v1.grant_service_pb2_grpc import GrantServiceAsyncStub
    from holdfast.v1.ledger_service_pb2_grpc import LedgerServiceAsyncStub


@dataclass(frozen=True, slots=True)
class Stubs:
    """Every service of one server."""

    channel: grpc.aio.Channel
    balance: BalanceServiceAsyncStub
    accounts: AccountServiceAsyncStub
    grants: GrantServiceAsyncStub
    control: ControlServiceAsyncStub
    ledger: LedgerServiceAsyncStub
    #: What goes beside a stream: interceptors see single calls only.
    metadata: tuple[tuple[str, str], ...] = ()

    def session(self) -> Any:
        """A Session stream."""
        return self.balance.Session(metadata=self.metadata)

    async def raw(
        self, path: str, payload: bytes, *, compression: grpc.Compression | None = None
    ) -> bytes:
        """The answer to bytes as they are, for input that no stub would send."""
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            f"/holdfast.v1.{path}"
        )
        return await method(payload, compression=compression)


@asynccontextmanager
async def stubs(
    port: int,
    credentials: grpc.ChannelCredentials | None = None,
    *,
    token: str = "",
    options: tuple[tuple[str, int | str], ...] = (),
) -> AsyncIterator[Stubs]:
    """Stubs for a server on loopback. Every answer that passes is checked by `Linter`."""
    target = f"127.0.0.1:{port}"
    interceptors: list[grpc.aio.ClientInterceptor] = [Linter()]
    if token:
        interceptors.insert(0, Bearer(token))
    # Channels of one process share their connections unless they are told not to.
    alone = (("grpc.use_local_subchannel_pool", 1), *options)
    if credentials is None:
        channel = grpc.aio.insecure_channel(target, options=alone, interceptors=interceptors)
    else:
        channel = grpc.aio.secure_channel(
            target, credentials, options=alone, interceptors=interceptors
        )
    async with channel:
        yield Stubs(
            channel,
            BalanceServiceStub(channel),
            AccountServiceStub(channel),
            GrantServiceStub(channel),
            ControlServiceStub(channel),
            LedgerServiceStub(channel),
            (("authorization", f"Bearer {token}"),) if token else (),
        )
