"""F31: the ledger stands still, and what waits for it stays bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast import Client, Durability, GrantSource, HoldfastError, operations
from holdfast_server import embedded
from tests.support.server import environment, eventually, serving, standing_still

ENTRIES_HARD = 1_000
ACCOUNTS = 20
#: What is refused for now is tried again until then.
TIMEOUT_MS = 1_500


@pytest.mark.slow
def test_new_holds_stop_and_settlements_go_on_until_the_ledger_is_back(tmp_path: Path) -> None:
    with (
        embedded.start_valkey(tmp_path / "valkey") as store,
        embedded.start_postgres(tmp_path / "postgres") as ledger,
    ):
        variables = {
            **environment(store.url, ledger.url, tmp_path / "state"),
            "HOLDFAST_OUTBOX_ENTRIES_SOFT": str(ENTRIES_HARD),
            "HOLDFAST_OUTBOX_ENTRIES_HARD": str(ENTRIES_HARD),
        }
        with serving(variables) as service, Client(service.target, timeout_ms=TIMEOUT_MS) as client:
            names = prepared(client)
            holds = [client.reserve(names[0], 1).hold_id for _ in range(2)]
            with standing_still(ledger):
                for _ in range(ENTRIES_HARD // ACCOUNTS):
                    client.batch([operations.burn(name, 1) for name in names])
                eventually(lambda: refusal(client, names[1]) == "LEDGER_BACKLOG", "burns stop")
                with pytest.raises(HoldfastError) as refused:
                    client.reserve(names[2], 1)
                assert refused.value.reason == "LEDGER_BACKLOG"
                assert refused.value.retry_after_ms
                committed = client.commit(holds[0])
                assert committed.applied.durability is Durability.MEMORY
                assert client.release(holds[1]).applied.seq
            eventually(lambda: refusal(client, names[1]) == "", "burns go on")
            reached = eventually(
                lambda: client.await_durable(committed.applied.transaction_id), "it is recorded"
            )
            assert reached is Durability.LEDGER


def prepared(client: Client) -> list[str]:
    """Accounts with more than enough."""
    client.create_credit_type("credits")
    names = [f"a{number}" for number in range(ACCOUNTS)]
    for name in names:
        client.create_account(name)
        client.grant(name, 1_000_000, source=GrantSource.PURCHASE, durability=Durability.MEMORY)
    return names


def refusal(client: Client, account: str) -> str:
    """Why a burn is refused; empty when it is not."""
    try:
        client.burn(account, 1)
    except HoldfastError as error:
        return error.reason
    return ""
