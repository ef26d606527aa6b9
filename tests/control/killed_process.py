"""A process that asks its gate all the time and prints each change of what it is answered.

Run as `python -m tests.control.killed_process STATE_DIR [slow]`. There are no stores: without the
kill switch every answer is STORE_UNAVAILABLE. With `slow`, the event loop is mostly blocked.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from holdfast_server.control.admin_socket import AdminSocket, socket_path
from holdfast_server.control.gate import Gate
from holdfast_server.control.kill import KillSwitch
from holdfast_server.control.passage import Passage
from holdfast_server.control.spool import Spool
from holdfast_server.settings import read
from holdfast_server.telemetry.recorder import Recorder
from tests.control.support import CALLER, SIGNER, Engine, Rules, outcome_of, reserve, unavailable

#: How long a slow event loop is blocked between two requests.
BLOCKED_SECONDS = 1.0


async def main(state_dir: Path, slow: bool) -> None:
    """Asks until the process is ended."""
    recorder, rules = Recorder(), Rules()
    kill = KillSwitch(read(os.environ).kill, state_dir / "KILL", state_dir, recorder)
    kill.watch()
    spool = Spool(state_dir / "spool", 1_000_000, 1_000, recorder)
    gate = Gate(Engine(unavailable()), kill, Passage(rules, rules, SIGNER, spool, recorder))
    path = socket_path(state_dir, "worker", os.getpid())
    await AdminSocket(path, kill, lambda: "", lambda: {"role": "worker"}).start()
    answered = ""
    for number in range(sys.maxsize):
        (answer,) = await gate.submit(CALLER, [reserve(str(number))])
        if outcome_of(answer).name != answered:
            answered = outcome_of(answer).name
            print(answered, flush=True)
        if slow:
            time.sleep(BLOCKED_SECONDS)  # noqa: ASYNC251 - this is what a slow loop does.
        await asyncio.sleep(0.001)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), "slow" in sys.argv))
