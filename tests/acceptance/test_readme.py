"""README.md is true: every command and program in it is run, in its order, for real."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast_server import embedded
from holdfast_server.chaos.stack import children
from holdfast_server.embedded.process import free_port
from tests.support.server import PATIENCE_S, environment, eventually, serving

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

#: What the README's commands and programs call, and what stands in for it here.
OPEN_TARGET = "127.0.0.1:7400"
SECURE_TARGET = "localhost:7400"
#: The heading from which on the README talks about a service with TLS and tokens.
PRODUCTION = "## Run it"
#: Commands that run until they are told to stop, and the line that says that they run.
SERVE = re.compile(r"^holdfast serve", re.MULTILINE)
DAEMON = re.compile(r"\Aholdfast (flush|sweep)\n\Z")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language and text, and whether it stands in the production part."""

    language: str
    text: str
    production: bool


def blocks() -> list[Block]:
    """Every fenced block that is to be run."""
    start = README.index(PRODUCTION)
    found = re.finditer(r"^```(sh|python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], match.start() > start) for match in found]


@dataclass(frozen=True)
class Session:
    """Where the blocks run: a folder, and the variables of the open and of the secure service."""

    folder: Path
    open_variables: dict[str, str]
    secure_variables: dict[str, str]

    def variables(self, block: Block) -> dict[str, str]:
        return self.secure_variables if block.production else self.open_variables

    def run(self, block: Block) -> None:
        """Runs a block to its end; fails when it fails."""
        secure = f"localhost:{self.secure_variables['HOLDFAST_PORT']}"
        text = block.text.replace(SECURE_TARGET, secure)
        text = text.replace(OPEN_TARGET, self.open_variables["HOLDFAST_TARGET"])
        program = [sys.executable, "-c", text]
        if block.language == "sh":
            program = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(
            program,
            cwd=self.folder,
            env=self.variables(block),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 3,
            check=False,
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"

    @contextmanager
    def running(self, block: Block) -> Iterator[subprocess.Popen[str]]:
        """Runs a block while the `with` block lasts; it must then end well."""
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=self.folder,
            env=self.variables(block),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            # Bash waits for the last command, or has become it.
            waits = _program(process.pid) == "bash"
            for each in children(process.pid) if waits else [process.pid]:
                os.kill(each, signal.SIGTERM)
            status = process.wait(PATIENCE_S)
            process.communicate()
        assert status == 0


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    folder = tmp_path / "session"
    folder.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with embedded.start(tmp_path, redis_url=None, postgres_url=None) as stores:
        base = environment(stores.redis_url, stores.postgres_url, tmp_path / "state")
        with serving({**base, "PATH": path}) as service:
            secure = {
                **service.environment,
                "HOLDFAST_DEVELOPMENT": "",
                "HOLDFAST_PORT": str(free_port()),
                "HOLDFAST_STATE_DIR": str(tmp_path / "secure"),
            }
            yield Session(folder, dict(service.environment), secure)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not shutil.which("openssl"), reason="the README makes a certificate")
def test_every_block_does_what_it_says(session: Session) -> None:
    with ExitStack() as services:
        for block in blocks():
            if "./deploy/dev" in block.text:
                continue
            if SERVE.search(block.text):
                process = services.enter_context(session.running(block))
                assert process.stdout is not None
                lines = iter(process.stdout.readline, "")
                assert any(line.startswith("holdfast serves") for line in lines), block.text
            elif DAEMON.match(block.text):
                admin = Path(session.secure_variables["HOLDFAST_STATE_DIR"]) / "admin"
                before = set(admin.iterdir())
                with session.running(block):
                    eventually(lambda: set(admin.iterdir()) - before, block.text)  # noqa: B023
            else:
                session.run(block)


def test_deploy_dev_knows_its_commands() -> None:
    (block,) = (block for block in blocks() if "./deploy/dev" in block.text)
    commands = re.findall(r"^\./deploy/dev (\w+)", block.text, re.MULTILINE)
    done = subprocess.run(
        ["./deploy/dev", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert commands == ["demo", "test", "up"]
    assert all(re.search(rf"^  {each}\b", done.stdout, re.MULTILINE) for each in commands)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def _program(process_id: int) -> str:
    return Path(f"/proc/{process_id}/comm").read_text().strip()
