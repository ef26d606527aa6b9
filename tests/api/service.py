"""The real service that abuse is tried on: its credentials, and what shows its state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from holdfast_server.api.auth.principal import EVERY_TENANT, Role
from holdfast_server.chaos.stack import alive
from holdfast_server.engine.keys import Keys
from tests.support.server import RunningService, environment, serving

PARTITIONS = 64
EPOCH = 1
#: The tenant of the credentials that have one role each.
TENANT = "acme"
#: Serves every tenant and has every role.
ROOT_TOKEN = "root-token-of-the-tests"


@dataclass(frozen=True)
class Credential:
    """One record of the tokens file, and the token it is for."""

    token: str
    tenant: str
    roles: tuple[Role, ...]

    def record(self) -> dict[str, object]:
        """As the file has it. The subject is the token, which is no secret here."""
        digest = hashlib.sha256(self.token.encode()).hexdigest()
        roles = [role.value for role in self.roles]
        return {"subject": self.token, "tenant": self.tenant, "roles": roles, "sha256": digest}


def role_credentials(tenant: str) -> list[Credential]:
    """One credential of the tenant for each role, and one that serves every tenant."""
    bound = [Credential(token_of(tenant, role), tenant, (role,)) for role in Role]
    return [Credential(ROOT_TOKEN, EVERY_TENANT, tuple(Role)), *bound]


def token_of(tenant: str, role: Role) -> str:
    """The token of the tenant's credential for a role."""
    return f"token-{tenant}-{role.value}"


def write_credentials(path: Path, credentials: list[Credential]) -> Path:
    """The tokens file."""
    path.write_text("\n".join(json.dumps(each.record()) for each in credentials))
    return path


@dataclass(frozen=True)
class ApiService:
    """A service that answers on loopback, and asks for credentials."""

    running: RunningService

    @property
    def port(self) -> int:
        """Where it answers."""
        return int(self.running.target.rsplit(":", 1)[1])

    def is_healthy(self) -> bool:
        """Whether every process that was started still runs."""
        return all(map(alive, self.running.processes.values()))

    def newest_entries(self, tenant: str, *roots: str) -> dict[int, bytes]:
        """The newest entry in the partition of each tree: whatever is booked moves it on."""
        keys = Keys(PARTITIONS)
        partitions = {keys.partition(tenant, root) for root in roots}
        with redis.Redis.from_url(self.running.redis_url) as client:
            return {each: _newest(client, keys.outbox(each, EPOCH)) for each in partitions}


def _newest(client: redis.Redis, stream: str) -> bytes:
    found: dict[str, Any] = client.xinfo_stream(stream) if client.exists(stream) else {}
    return bytes(found.get("last-generated-id", b""))


@contextmanager
def api_service(folder: Path, redis_url: str, postgres_url: str) -> Iterator[ApiService]:
    """`holdfast serve` with one worker and with credentials, until the block ends."""
    tokens = write_credentials(folder / "tokens", role_credentials(TENANT))
    variables = {
        **environment(redis_url, postgres_url, folder),
        "HOLDFAST_TOKENS_FILE": str(tokens),
        "HOLDFAST_PARTITIONS": str(PARTITIONS),
        "HOLDFAST_WORKERS": "1",
    }
    with serving(variables) as running:
        yield ApiService(running)
