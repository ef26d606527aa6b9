"""Clients that failed together do not come back together."""

from __future__ import annotations

import subprocess
import sys

#: A process with a client that is forked, and prints how long both would wait for the next attempt.
FORKED = """
import os
from holdfast import Unreachable, operations
from holdfast._core import Core

core = Core(
    "127.0.0.1:1", token="", tenant="", credit_type="ai", tls=None, insecure=False,
    unreachable="closed", attempt_timeout_ms=2_000, timeout_ms=10_000, traceparent=None,
)
reading, writing = os.pipe()
child = os.fork()
wait_s = core.attempts(operations.balance("a")).wait_s(Unreachable("away"))
os.write(writing, f"{wait_s}\\n".encode())
if not child:
    os._exit(0)
os.waitpid(child, 0)
print(os.read(reading, 1_000).decode())
"""


def test_forked_processes_do_not_retry_in_step() -> None:
    ran = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, check=True, text=True)
    mine, other = ran.stdout.split()
    assert mine != other
