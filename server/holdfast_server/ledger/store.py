"""The ledger as one object: everything that is read from it, and the configuration kept in it.

Entries are appended by the flusher alone, through `ledger.append`.
"""

from __future__ import annotations

from holdfast_server.ledger.accounts import Accounts
from holdfast_server.ledger.checkpoints import Checkpoints
from holdfast_server.ledger.configuration import ConfigurationStore
from holdfast_server.ledger.database import open_pools
from holdfast_server.ledger.deployment import Deployment
from holdfast_server.ledger.due import Dues
from holdfast_server.ledger.entries import Entries
from holdfast_server.ledger.findings import Findings
from holdfast_server.ledger.grants import Grants
from holdfast_server.ledger.histories import Histories
from holdfast_server.ledger.operations import Operations
from holdfast_server.ledger.recovery import Recoveries
from holdfast_server.ledger.trees import Trees
from holdfast_server.ledger.verify import Verification


class Ledger(
    Accounts,
    Checkpoints,
    ConfigurationStore,
    Deployment,
    Dues,
    Entries,
    Findings,
    Grants,
    Histories,
    Operations,
    Recoveries,
    Trees,
    Verification,
):
    """Reads of one tenant see only that tenant's rows. Every method raises LEDGER_UNAVAILABLE
    where Postgres cannot be reached, and never a driver's error."""

    @classmethod
    async def open(cls, postgres_url: str, *, pool_size: int = 8) -> Ledger:
        """Connects lazily, with at most `pool_size` connections for reads and a few for changes."""
        return cls(*await open_pools(postgres_url, pool_size))
