"""Whom the operations of a stream are for, over a submitter that does what a test tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.v1 import balance_service_pb2 as balance
from holdfast_server.api import session
from holdfast_server.api.auth.authenticator import Authenticator
from holdfast_server.api.auth.principal import Role
from holdfast_server.api.auth.static_tokens import StaticTokens
from tests.api.recording import Recording, running
from tests.api.service import Credential, write_credentials
from tests.support.stubs import stubs


def look(id: int, account: str = "a") -> balance.SessionRequest:
    """A message with one operation."""
    item = balance.BatchItem(id=id, balance=balance.BalanceRequest(account=account))
    return balance.SessionRequest(items=[item])


async def test_a_credential_that_was_given_to_another_tenant_does_nothing_more_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PROOF_SECONDS", 0.0)
    seconds, path = [0.0], tmp_path / "tokens"
    write_credentials(path, [Credential("secret", "first", (Role.SPENDER,))])
    recording = Recording()
    authenticator = Authenticator(StaticTokens(path, lambda: seconds[0]))
    async with (
        running(recording, authenticator=authenticator) as served,
        stubs(served.port, token="secret") as client,
    ):
        stream = client.session()
        for id, tenant in enumerate(["first", "second"], start=1):
            write_credentials(path, [Credential("secret", tenant, (Role.SPENDER,))])
            seconds[0] += 60.0
            await stream.write(look(id))
            assert [result.id for result in (await stream.read()).results] == [id]
        await stream.done_writing()
    assert [operation.tenant for _, operation in recording.seen] == ["first", "second"]
