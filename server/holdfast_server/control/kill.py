"""The kill switch: on while any of three things says so, read without network or stores.

- the environment variable `HOLDFAST_KILL`, for as long as the process lives;
- the kill file: whoever can create a file on the host can turn enforcement off. Its content does
  not matter; `holdfast kill on` writes who did it and why;
- the socket file, which an order over the admin socket writes into the state directory, so that the
  order survives a restart and reaches every process of the host.

All processes of a host look at the same two files, so what is turned on in one is on in all of them
within a second, and what turned it on must be taken back to turn it off.

A file may lie where nothing answers any more. So each is looked at by threads of its own, and one
that hangs keeps neither the other from being seen nor the event loop from going on.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast_server.telemetry.names import Alert
from holdfast_server.telemetry.recorder import Recorder

_log = logging.getLogger(__name__)

#: A request has the files looked at when nobody did for so long, such as in a process that stood.
LOOK_SECONDS_MAX = 0.25
#: Pause between two looks of a background thread.
LOOK_PAUSE_SECONDS = 0.1
#: Whoever needs a look waits so long for a file, once: while a look hangs, nobody waits for it.
LOOK_WAIT_SECONDS_MAX = 1.0
#: Bytes of a kill file that are read for who and why.
NOTE_BYTES_MAX = 4_096
#: Characters of who and of why that are written.
NOTE_TEXT_MAX = 256
#: Name of the socket file in the state directory.
SOCKET_FILE = "KILL.socket"

ENVIRONMENT = "environment"
FILE = "file"
SOCKET = "socket"


@dataclass(frozen=True, slots=True)
class KillState:
    """Whether enforcement is off, and what says so: any of environment, file and socket."""

    causes: tuple[str, ...] = ()
    #: Who turned it on and why, as far as the file says.
    by: str = ""
    reason: str = ""

    @property
    def on(self) -> bool:
        """Whether everything is let through."""
        return bool(self.causes)


class KillSwitch:
    """Asked before every operation; the answer costs the reading of a clock."""

    def __init__(
        self,
        environment: bool,
        kill_file: Path,
        state_dir: Path,
        recorder: Recorder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`environment` is what the variable says. Looks at the files at once."""
        self._environment = environment
        self._files = {FILE: kill_file, SOCKET: state_dir / SOCKET_FILE}
        self._recorder = recorder
        self._clock = clock
        self._present = dict.fromkeys(self._files, False)
        #: Who and why, as each file says.
        self._notes = dict.fromkeys(self._files, ("", ""))
        #: An order over the socket that is not written down, or not yet.
        self._ordered = False
        self._looking = {name: threading.Lock() for name in self._files}
        self._looked = dict.fromkeys(self._files, clock())
        self._settling = threading.Lock()
        self._stopped = threading.Event()
        self._state = KillState()
        self._settle()
        self.look()

    @property
    def on(self) -> bool:
        """Whether everything is let through now."""
        if self._clock() - min(self._looked.values()) > LOOK_SECONDS_MAX:
            self.look()
        return bool(self._state.causes)

    def state(self) -> KillState:
        """What says so, looked at now."""
        self.look()
        return self._state

    def look(self) -> None:
        """Has the files looked at, and does not wait for one that hangs."""
        looks = [threading.Thread(target=self._look, args=(n,), daemon=True) for n in self._files]
        for each in looks:
            each.start()
        for each in looks:
            each.join(LOOK_WAIT_SECONDS_MAX)

    def turn_on(self, by: str, reason: str) -> bool:
        """Turns it on for all processes of the host; False when it could not be written down.

        It is on in this process either way, even before the disk has answered, until it is turned
        off or the process ends.
        """
        self._notes[SOCKET] = by, reason
        self._ordered = True
        self._settle()
        with self._looking[SOCKET]:
            written = write_note(self._files[SOCKET], by, reason)
            self._present[SOCKET], self._ordered = written, not written
        return written

    def turn_off(self) -> KillState:
        """Takes back what an order over the socket did; other causes remain and are returned."""
        with self._looking[SOCKET]:
            self._present[SOCKET] = not remove_note(self._files[SOCKET])
            self._ordered = False
            self._settle()
        return self.state()

    def watch(self) -> None:
        """Starts the threads that look at the files whether or not requests come."""
        for name in self._files:
            threading.Thread(target=self._watch, args=(name,), daemon=True).start()

    def close(self) -> None:
        """Stops the threads."""
        self._stopped.set()

    def _watch(self, name: str) -> None:
        while not self._stopped.wait(LOOK_PAUSE_SECONDS):
            self._look(name)

    def _look(self, name: str) -> None:
        """Looks at one file, unless somebody does. What cannot be seen stays as it was."""
        self._looked[name] = self._clock()
        if not self._looking[name].acquire(blocking=False):
            return
        try:
            present = self._exists(name)
            if present and not self._present[name]:
                self._notes[name] = read_note(self._files[name])
            self._present[name] = present
            self._settle()
        finally:
            self._looking[name].release()

    def _settle(self) -> None:
        """Brings the state to what is known by now; no file is touched."""
        with self._settling:
            causes = self._causes()
            if causes != self._state.causes:
                self._state = self._noted(causes)
                self._tell()

    def _causes(self) -> tuple[str, ...]:
        says = {ENVIRONMENT: self._environment, **self._present}
        says[SOCKET] = says[SOCKET] or self._ordered
        return tuple(name for name, on in says.items() if on)

    def _exists(self, name: str) -> bool:
        try:
            os.stat(self._files[name])
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return self._present[name]
        return True

    def _noted(self, causes: tuple[str, ...]) -> KillState:
        by, reason = next((self._notes[name] for name in causes if name in self._notes), ("", ""))
        return KillState(causes, by, reason)

    def _tell(self) -> None:
        state = self._state
        self._recorder.killed(state.on)
        facts = {"causes": ",".join(state.causes), "by": state.by, "why": state.reason}
        if state.on:
            self._recorder.alert(Alert.KILL_SWITCH)
        message = "kill switch is on: nothing is enforced" if state.on else "kill switch is off"
        _log.warning(message, extra={"facts": facts})


def write_note(path: Path, by: str, reason: str) -> bool:
    """Writes a kill file, durably and as a whole; False when the disk refuses."""
    note = {"by": by[:NOTE_TEXT_MAX], "reason": reason[:NOTE_TEXT_MAX], "at": time.time()}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w") as file:
            json.dump(note, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        return path.exists()
    return True


def remove_note(path: Path) -> bool:
    """Removes a kill file; False when it is still there."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return not path.exists()
    return True


def read_note(path: Path) -> tuple[str, str]:
    """Who and why, as far as the file says; any content is fine."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            note = json.loads(file.read(NOTE_BYTES_MAX))
        return str(note.get("by", "")), str(note.get("reason", ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return "", ""


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file, and a pipe without waiting for somebody who writes into it."""
    return os.open(path, flags | os.O_NONBLOCK)
