"""The kill switch: on while any of three things says so, read without network or stores.

- the environment variable `HOLDFAST_KILL`, for as long as the process lives;
- the kill file: whoever can create a file on the host can turn enforcement off. Its content does
  not matter; `holdfast kill on` writes who did it and why;
- the socket file, which an order over the admin socket writes into the state directory, so that the
  order survives a restart and reaches every process of the host.

All processes of a host look at the same two files, so what is turned on in one is on in all of them
within a second, and what turned it on must be taken back to turn it off.
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

#: A request looks at the files itself when nobody did for so long, such as when the loop is slow.
LOOK_SECONDS_MAX = 0.25
#: Pause between two looks of the background thread.
LOOK_PAUSE_SECONDS = 0.1
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
        #: An order over the socket that could not be written down.
        self._ordered = False
        self._looking = threading.Lock()
        self._stopped = threading.Event()
        self._state = KillState()
        self._looked = clock()
        self.look()

    @property
    def on(self) -> bool:
        """Whether everything is let through now."""
        if self._clock() - self._looked > LOOK_SECONDS_MAX:
            self.look()
        return bool(self._state.causes)

    def state(self) -> KillState:
        """What says so, looked at now."""
        self.look()
        return self._state

    def look(self) -> None:
        """Looks at the files. Never raises and never waits: what cannot be seen stays as it was."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._looked = self._clock()
            self._present = {name: self._exists(name) for name in self._files}
            causes = self._causes()
            if causes != self._state.causes:
                self._state = self._noted(causes)
                self._tell()
        finally:
            self._looking.release()

    def turn_on(self, by: str, reason: str) -> bool:
        """Turns it on for all processes of the host; False when it could not be written down.

        It is on in this process either way, until it is turned off or the process ends.
        """
        written = write_note(self._files[SOCKET], by, reason)
        self._ordered = not written
        self.look()
        return written

    def turn_off(self) -> KillState:
        """Takes back what an order over the socket did; other causes remain and are returned."""
        self._ordered = False
        remove_note(self._files[SOCKET])
        return self.state()

    def watch(self) -> None:
        """Starts the thread that looks at the files whether or not requests come."""
        threading.Thread(target=self._watch, name="kill-switch", daemon=True).start()

    def close(self) -> None:
        """Stops the thread."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_PAUSE_SECONDS):
            self.look()

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
        for name in (FILE, SOCKET):
            if name in causes:
                by, reason = read_note(self._files[name])
                return KillState(causes, by, reason)
        return KillState(causes)

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
        with path.open("rb") as file:
            note = json.loads(file.read(NOTE_BYTES_MAX))
        return str(note.get("by", "")), str(note.get("reason", ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return "", ""
