"""Burns in a process of its own, to be killed: `burn_process.py VALKEY_URL COUNT`.

Each burn has a key of its own, the same in every run. Prints the number of each that was answered
again, and what the clock of this process says.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from holdfast_server.domain import operation as op
from holdfast_server.engine.scripts import Clock
from holdfast_server.failpoint import check_allowed
from tests.support.pair import build

ACCOUNT = "a"
TTL_MS = 60_000


async def main(valkey_url: str, count: int) -> None:
    """Burns one credit at a time, then places a hold."""
    check_allowed()
    real = build(valkey_url, clock=Clock.STORE)
    again = []
    for number in range(count):
        burn = op.Burn("t", ACCOUNT, (op.Line("ai", 1),), f"burn-{number}")
        (answer,) = await real.decide([burn])
        if answer.applied.replayed:
            again.append(number)
    reserve = op.Reserve("t", ACCOUNT, (op.Line("ai", 1),), TTL_MS, "hold")
    (hold,) = await real.decide([reserve])
    await real.store.close()
    now_ms = time.time_ns() // 1_000_000
    print(json.dumps({"again": again, "expires_at_ms": hold.expires_at_ms, "now_ms": now_ms}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
