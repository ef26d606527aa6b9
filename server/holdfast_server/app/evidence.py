"""Checkpoints of the ledger: what makes them in the flusher, and what reads them for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from holdfast_server.app.problem import Problem
from holdfast_server.app.process import Process
from holdfast_server.control.checkpointer import Checkpointer, Evidence
from holdfast_server.control.outgoing import Network
from holdfast_server.control.places import Place, open_place
from holdfast_server.control.signing import KeyFileError, PublicKeys, SigningKey
from holdfast_server.domain.checkpoint import (
    LINE_CHARACTERS_MAX,
    Anchors,
    Checkpoint,
    Flaw,
    judge,
    read_lines,
)
from holdfast_server.settings import Settings


def build_checkpointer(process: Process) -> Checkpointer | None:
    """What makes checkpoints, or None where nothing says where they go. Raises `Problem`."""
    settings = process.settings
    if not settings.checkpoint_place:
        return None
    try:
        place, key = open_evidence(settings)
    except (ValueError, KeyFileError) as error:
        raise Problem(f"no checkpoint can be made: {error}") from error
    evidence = Evidence(place, key, process.facts.name, settings.checkpoint_interval_ms)
    return Checkpointer(process.ledger, evidence, process.metrics)


def open_evidence(settings: Settings) -> tuple[Place, Path]:
    """Place and key file as they are set. Raises ValueError, `KeyFileError` among them."""
    assert settings.checkpoint_key_file is not None
    place = open_place(settings.checkpoint_place, Network(settings.checkpoint_network))
    SigningKey.read(settings.checkpoint_key_file)
    return place, settings.checkpoint_key_file


def read_checkpoints(paths: Sequence[Path]) -> tuple[list[Checkpoint], list[Flaw]]:
    """The checkpoints in some files, by number, and what is wrong with the files."""
    return read_lines(line for path in paths for line in _lines(path))


def read_anchors(paths: Sequence[Path], key_paths: Sequence[Path]) -> Anchors:
    """What the checkpoints in some files vouch for, judged by public keys. Raises `Problem`."""
    try:
        keys = PublicKeys.read(key_paths)
    except KeyFileError as error:
        raise Problem(str(error)) from error
    checkpoints, damaged = read_checkpoints(paths)
    anchors = judge(checkpoints, keys.flaw)
    return replace(anchors, flaws=(*damaged, *anchors.flaws))


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="ascii", errors="replace") as file:
        while line := file.readline(LINE_CHARACTERS_MAX + 1):
            yield line
