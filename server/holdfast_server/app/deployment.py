"""What every process of a deployment must agree on: the number of partitions, and the token keys.

The ledger has it. A copy in the state directory lets a process start while the ledger is away: the
kill switch and the policies for a store that is away are of no use in a process that cannot start.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast_server.app.problem import Problem
from holdfast_server.domain.token import TokenSigner
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.records import DeploymentFacts
from holdfast_server.ledger.store import Ledger
from holdfast_server.settings import Settings

log = logging.getLogger(__name__)

#: Name of the copy in the state directory. It holds secrets, so only its owner may read it.
COPY_FILE = "deployment.json"
#: Bytes of the copy and of a file of token keys: 256 keys of 32 bytes, with room to spare.
FILE_BYTES_MAX = 65_536


async def learn_facts(settings: Settings, ledger: Ledger) -> DeploymentFacts:
    """The facts of the deployment, fixed now if it starts for the first time.

    Raises `Problem` when they are not those that the settings ask for, and LEDGER_UNAVAILABLE when
    the ledger is away and no copy is here.
    """
    try:
        facts = await ledger.start_deployment(settings.partitions)
        _write_copy(settings.state_dir / COPY_FILE, facts)
    except HoldfastError as error:
        copy = _read_copy(settings.state_dir / COPY_FILE)
        if error.reason is not Reason.LEDGER_UNAVAILABLE or copy is None:
            raise
        log.warning("the ledger is away: started from the copy in the state directory")
        facts = copy
    _check_partitions(settings, facts)
    return _with_key_file(settings, facts)


def make_signer(facts: DeploymentFacts) -> TokenSigner:
    """What signs and checks hold tokens."""
    return TokenSigner(facts.token_keys, facts.active_token_key)


def page_key(facts: DeploymentFacts) -> bytes:
    """The secret behind page tokens: the oldest key, so that a new one does not end listings."""
    return facts.token_keys[min(facts.token_keys)]


def read_token_keys(path: Path) -> tuple[dict[int, bytes], int]:
    """Keys by id, and the id of the one that signs, of `{"active": 1, "keys": {"1": "<hex>"}}`.

    Raises `Problem`.
    """
    try:
        document = json.loads(_read(path))
        keys = {int(name): bytes.fromhex(key) for name, key in document["keys"].items()}
        active = int(document["active"])
        TokenSigner(keys, active)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Problem(
            f"{path} holds no token keys; it should be "
            '{"active": 1, "keys": {"1": "64 hexadecimal digits"}}'
        ) from error
    return keys, active


def _check_partitions(settings: Settings, facts: DeploymentFacts) -> None:
    if "partitions" in settings.origins and settings.partitions != facts.partitions:
        raise Problem(
            f"this deployment has {facts.partitions} partitions for good, not "
            f"{settings.partitions}: unset HOLDFAST_PARTITIONS, or give the URLs of other stores"
        )


def _with_key_file(settings: Settings, facts: DeploymentFacts) -> DeploymentFacts:
    if settings.token_keys_file is None:
        return facts
    keys, active = read_token_keys(settings.token_keys_file)
    return dataclasses.replace(facts, token_keys=keys, active_token_key=active)


def _write_copy(path: Path, facts: DeploymentFacts) -> None:
    """A copy that cannot be written is missed only while the ledger is away."""
    copy = dataclasses.replace(facts, read_at_ms=0)
    fields = {**dataclasses.asdict(copy), "token_keys": _hex(facts.token_keys)}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:
            json.dump(fields, file)
        temporary.replace(path)
    except OSError:
        log.warning("no copy of the deployment's facts", extra={"facts": {"path": path}})


def _read_copy(path: Path) -> DeploymentFacts | None:
    try:
        fields: dict[str, Any] = json.loads(_read(path))
        keys = {int(name): bytes.fromhex(key) for name, key in fields["token_keys"].items()}
        return DeploymentFacts(**{**fields, "token_keys": keys})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _hex(keys: Mapping[int, bytes]) -> dict[int, str]:
    return {name: key.hex() for name, key in keys.items()}


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(FILE_BYTES_MAX)
