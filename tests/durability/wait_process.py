"""Burns in a process of its own, which waits: `wait_process.py REDIS_URL POSTGRES_URL`.

A test kills it between the decision and the wait.
"""

from __future__ import annotations

import asyncio
import sys

from holdfast_server.domain import operation as op
from holdfast_server.domain.operation import Durability
from holdfast_server.failpoint import check_allowed
from tests.durability.test_durable import stage

#: The same in every process.
BURN = op.Burn("t", "a", (op.Line("ai", 1),), "once", durability=Durability.REPLICATED)


async def main(redis_url: str, postgres_url: str) -> None:
    """Burns one credit."""
    check_allowed()
    async with stage(redis_url, postgres_url) as one:
        await one.do(BURN)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
