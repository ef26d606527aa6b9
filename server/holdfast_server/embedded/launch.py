"""Becomes a server process that lives no longer than the process that started it.

Run as a script by `process.spawn`: this small program of its own, unlike code run between fork and
exec, is safe in a parent that has threads.
"""

import ctypes
import os
import signal
import sys

#: prctl option: the signal that this process gets when the thread that started it ends (prctl(2)).
_PR_SET_PDEATHSIG = 1

#: Both servers answer it with an orderly shutdown that does not wait for their clients.
STOP_SIGNAL = signal.SIGINT


def main(arguments: list[str]) -> None:
    """Take the parent's pid, a uid, a gid and a command; become that command as that user.

    The user changes first: changing it later would clear the signal again.
    """
    parent_pid, uid, gid = (int(number) for number in arguments[:3])
    command = arguments[3:]
    if uid != os.geteuid():
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, STOP_SIGNAL)
    if os.getppid() != parent_pid:
        sys.exit("the process that started this server is gone")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
