"""A copy of the epochs on the local disk: a process that starts while the ledger is away needs one.

An old copy does no harm: the hot store refuses epochs that are over.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from holdfast_server.domain.epoch import Epoch

#: Name of the copy in the state directory.
COPY_FILE: Final = "epochs.json"
#: Epochs of each partition that are kept there.
EPOCHS_KEPT: Final = 3
#: Bytes of the copy: 4,096 partitions with that many epochs, with room to spare.
FILE_BYTES_MAX: Final = 2**20

_log = logging.getLogger(__name__)


def write_copy(folder: Path, epochs: Mapping[int, Sequence[Epoch]]) -> None:
    """A copy that cannot be written is missed only while the ledger is away."""
    rows = {
        partition: [[each.number, each.start_seq, each.home] for each in known]
        for partition, known in epochs.items()
    }
    path = folder / COPY_FILE
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(rows, separators=(",", ":")))
        temporary.replace(path)
    except OSError:
        _log.warning("no copy of the epochs", extra={"facts": {"path": path}})


def read_copy(folder: Path) -> dict[int, list[Epoch]]:
    """What the copy says; nothing where there is none that can be read."""
    try:
        with (folder / COPY_FILE).open("rb") as file:
            rows = json.loads(file.read(FILE_BYTES_MAX))
        return {
            int(partition): [Epoch(*map(int, row)) for row in known]
            for partition, known in rows.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
