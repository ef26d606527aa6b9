"""The last known configuration on local disk: what a process starts with while the ledger is away.

The file is one JSON object, replaced as a whole: `body`, a text, and the SHA-256 of that text.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from holdfast_server.domain.operation import Mode
from holdfast_server.domain.policy import (
    Policy,
    Scope,
    ScopeKind,
    StoreUnavailable,
    StoreUnavailableKind,
)
from holdfast_server.ledger.records import Configuration, CreditType

#: The layout below; a file of another layout counts as none.
LAYOUT = 1
#: Bytes of a file that are read: a thousand policies of some hundred tenants, with room to spare.
FILE_BYTES_MAX = 67_108_864


def save(path: Path, configuration: Configuration) -> None:
    """Writes a configuration, durably and as a whole. Raises OSError."""
    body = json.dumps({"layout": LAYOUT, **asdict(configuration)})
    text = json.dumps({"sha256": _checksum(body), "body": body})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path) -> Configuration | None:
    """The configuration of a file; None when there is no file.

    Raises ValueError for anything but a whole file of this layout, and OSError.
    """
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX)
    except FileNotFoundError:
        return None
    try:
        return _configuration(_body(json.loads(text)))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("the file holds no configuration") from error


def _body(envelope: Mapping[str, str]) -> Mapping[str, Any]:
    if envelope["sha256"] != _checksum(envelope["body"]):
        raise ValueError("the checksum does not match")
    body: Mapping[str, Any] = json.loads(envelope["body"])
    if body["layout"] != LAYOUT:
        raise ValueError("the layout is that of another version")
    return body


def _configuration(body: Mapping[str, Any]) -> Configuration:
    credit_types = {
        tenant: tuple(CreditType(**each) for each in found)
        for tenant, found in body["credit_types"].items()
    }
    policies = tuple(_policy(each) for each in body["policies"])
    return Configuration(int(body["version"]), credit_types, policies)


def _policy(fields: Mapping[str, Any]) -> Policy:
    scope, away = fields["scope"], fields["store_unavailable"]
    typed = {
        "scope": Scope(ScopeKind(scope["kind"]), scope["tenant"], scope["value"]),
        "mode": Mode(fields["mode"]),
        "store_unavailable": StoreUnavailable(
            StoreUnavailableKind(away["kind"]), away["bound_amount"]
        ),
    }
    return Policy(**{**fields, **typed})


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
