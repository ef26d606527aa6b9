"""CPU time by process: client, server, valkey, flusher, sweeper, postgres and floor."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class Meter:
    """Reads what this process and all below it have used."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        """`processes` are the service's, by name: "worker-0", "flusher", …"""
        self._names = {pid: _role(name) for name, pid in processes.items()}
        self._names[os.getpid()] = "client"

    def read(self) -> dict[str, float]:
        """Seconds by role since each process began, with those of its children that have ended: a
        store rewrites its log in one, and has one for each connection.
        """
        stats = _stats()
        used = defaultdict[str, float](float)
        for pid, (name, parent, seconds) in stats.items():
            role = self._role_of(pid, name)
            if role and (pid in self._names or self._is_below(parent, stats)):
                used[role] += seconds
        return used

    def _role_of(self, pid: int, name: str) -> str:
        if pid in self._names:
            return self._names[pid]
        if name.startswith("valkey") or name.startswith("redis"):
            return "valkey"
        return "postgres" if name.startswith("postgres") else ""

    def _is_below(self, pid: int, stats: Mapping[int, tuple[str, int, float]]) -> bool:
        while pid in stats:
            if pid == os.getpid():
                return True
            pid = stats[pid][1]
        return False

    def name(self, pid: int, role: str) -> None:
        """Says what a process is that was started later."""
        self._names[pid] = role


def _role(name: str) -> str:
    return "server" if name.startswith("worker") else name


def _stats() -> dict[int, tuple[str, int, float]]:
    """Name, parent and CPU seconds of every process; see proc(5)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                head, _, tail = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            fields = tail.split()
            ticks = sum(map(int, fields[11:15]))
            name = head.partition("(")[2]
            found[int(entry.name)] = name, int(fields[1]), ticks / _TICKS_PER_SECOND
    return found
