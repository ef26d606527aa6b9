"""`holdfast kill`: lets everything through on this host, without network, stores or service."""

from __future__ import annotations

import asyncio
import functools
import getpass
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from holdfast_server.app.problem import Problem
from holdfast_server.cli.options import json_option
from holdfast_server.cli.output import Column, print_rows
from holdfast_server.control.admin_socket import FOLDER, ask
from holdfast_server.control.kill import SOCKET_FILE, remove_note, write_note
from holdfast_server.settings import read

#: Every process has applied a change after this long, or something is wrong with it.
APPLIED_SECONDS_MAX = 5.0
#: The disk of the kill file has answered by then, or each process is told.
WRITE_SECONDS_MAX = 1.0
_POLL_SECONDS = 0.05

#: The only variables that are read here: a mistake in another one must not stand in the way.
_VARIABLES = ("HOLDFAST_STATE_DIR", "HOLDFAST_KILL_FILE", "XDG_STATE_HOME")


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What one process of this host has applied. `on` is None where it did not answer."""

    process: str
    on: bool | None
    causes: tuple[str, ...] = ()
    by: str = ""
    reason: str = ""


_COLUMNS = (
    Column[ProcessState]("process", lambda each: each.process),
    Column[ProcessState]("kill switch", lambda each: _shown(each.on)),
    Column[ProcessState]("turned on by", lambda each: ", ".join(each.causes)),
    Column[ProcessState]("who", lambda each: each.by),
    Column[ProcessState]("why", lambda each: each.reason),
)


@dataclass(frozen=True, slots=True)
class Host:
    """Where the processes of this host look, and where they answer."""

    kill_file: Path
    state_dir: Path

    def states(self) -> list[ProcessState]:
        """What every process of this host has applied, by name."""
        found = asyncio.run(_ask_all(self.sockets(), {"command": "kill", "action": "status"}))
        return [state for state in found if state is not None]

    def sockets(self) -> list[Path]:
        """The admin sockets of this host, those of dead processes included."""
        return sorted((self.state_dir / FOLDER).glob("*.sock"))

    def remove_files(self) -> bool:
        """Removes what keeps the switch on; False when a file is still there."""
        files = (self.kill_file, self.state_dir / SOCKET_FILE)
        return all([remove_note(file) for file in files])


def _host_options(command: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(command)
    def run(state_dir: str | None, kill_file: str | None, **arguments: Any) -> None:
        environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        settings = read(environment, {"state_dir": state_dir, "kill_file": kill_file})
        command(host=Host(settings.kill_file, settings.state_dir), **arguments)

    where = click.option("--state-dir", help="The service's state_dir. Or HOLDFAST_STATE_DIR.")
    which = click.option("--kill-file", help="Its kill_file. Or HOLDFAST_KILL_FILE.")
    return where(which(json_option(run)))


@click.group()
def kill() -> None:
    """Kill switch: let everything through on this host, at once."""


@kill.command()
@click.option("--reason", required=True, help="Why; every process logs and shows it.")
@_host_options
def on(host: Host, reason: str, as_json: bool) -> None:
    """Turn enforcement off on this host, until `holdfast kill off`."""
    by = _user()
    written = _written(host.kill_file, by, reason)
    if not written:
        # Without the file each process must be told; it then forgets when it ends.
        order = {"command": "kill", "action": "on", "by": by, "reason": reason}
        asyncio.run(_ask_all(host.sockets(), order))
    states = _wait(host, lambda state: state.on is True)
    _print(host, states, as_json)
    if not all(state.on for state in states):
        raise Problem("a process has not applied it: look at its log, or end it")
    if not written:
        raise Problem(
            f"it will not survive a restart: create {host.kill_file}, any content will do"
        )


@kill.command()
@_host_options
def off(host: Host, as_json: bool) -> None:
    """Turn enforcement on again."""
    asyncio.run(_ask_all(host.sockets(), {"command": "kill", "action": "off"}))
    if not host.remove_files():
        raise Problem(f"cannot remove {host.kill_file}: remove it by hand")
    states = _wait(host, lambda state: state.on is False)
    _print(host, states, as_json)
    if any(state.on for state in states):
        raise Problem("it stays on where HOLDFAST_KILL says so: unset that and restart those")


@kill.command()
@_host_options
def status(host: Host, as_json: bool) -> None:
    """Show every process of this host and what it has applied."""
    _print(host, host.states(), as_json)


def _print(host: Host, states: list[ProcessState], as_json: bool) -> None:
    """The states of all processes; where there are none, why that may be so, in any case."""
    if not states:
        on = "ON" if host.kill_file.exists() else "off"
        click.echo(
            f"No process runs on {host.state_dir}: give --state-dir if your service has another. "
            f"Those that start there will find the switch {on} by file.",
            err=True,
        )
    if states or as_json:
        print_rows(states, _COLUMNS, as_json=as_json)


def _user() -> str:
    """Who gives the order: a name, or the number of a user whom this machine has no name for."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _written(path: Path, by: str, reason: str) -> bool:
    """Whether the kill file was written. A disk that does not answer is not waited for."""
    done: list[bool] = []

    def write() -> None:
        done.append(write_note(path, by, reason))

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(WRITE_SECONDS_MAX)
    return done == [True]


def _wait(host: Host, applied: Callable[[ProcessState], bool]) -> list[ProcessState]:
    """The states once every process has applied the change, or when the time for it is over."""
    deadline = time.monotonic() + APPLIED_SECONDS_MAX
    while True:
        states = host.states()
        if all(map(applied, states)) or time.monotonic() > deadline:
            return states
        time.sleep(_POLL_SECONDS)


async def _ask_all(
    sockets: Iterable[Path], request: Mapping[str, object]
) -> list[ProcessState | None]:
    return await asyncio.gather(*(_asked(path, request) for path in sockets))


async def _asked(path: Path, request: Mapping[str, object]) -> ProcessState | None:
    """What a process has applied; None where nobody is behind the socket any more."""
    try:
        fields = (await ask(path, request))["kill"]
        causes = tuple(map(str, fields["causes"]))
        by, reason = str(fields["by"]), str(fields["reason"])
        return ProcessState(path.stem, bool(fields["on"]), causes, by, reason)
    except (ConnectionRefusedError, FileNotFoundError):
        return None
    except (OSError, TimeoutError, ValueError, KeyError, TypeError):
        return ProcessState(path.stem, None)


def _shown(on: bool | None) -> str:
    return "no answer" if on is None else "ON" if on else "off"
