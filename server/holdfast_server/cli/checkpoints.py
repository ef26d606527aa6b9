"""`holdfast checkpoint`: the evidence that is kept outside of the database."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast_server.app.evidence import read_anchors, read_checkpoints
from holdfast_server.app.problem import Problem
from holdfast_server.cli.options import json_option
from holdfast_server.cli.output import (
    Column,
    console,
    print_facts,
    print_json,
    print_rows,
    show_time,
)
from holdfast_server.control.signing import KeyFileError, SigningKey
from holdfast_server.domain.checkpoint import Checkpoint

_READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FILES = click.argument("files", nargs=-1, required=True, type=_READABLE)

public_key_option = click.option(
    "--public-key",
    "public_keys",
    type=_READABLE,
    multiple=True,
    help="Whose signatures count, PEM; older keys too. Repeatable.",
)

_COLUMNS = (
    Column[Checkpoint]("number", lambda each: str(each.number), figure=True),
    Column[Checkpoint]("made", lambda each: show_time(each.made_ms)),
    Column[Checkpoint]("key", lambda each: each.key_id),
    Column[Checkpoint]("partitions", lambda each: str(len(each.tips)), figure=True),
    Column[Checkpoint]("hash", lambda each: each.hash.hex()[:16]),
)


@click.group()
def checkpoint() -> None:
    """Checkpoints: signed evidence of how the ledger was, kept elsewhere."""


@checkpoint.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def key(file: Path, as_json: bool) -> None:
    """Make a key that signs checkpoints, unless FILE is one; show its id and the public key.

    To rotate, let HOLDFAST_CHECKPOINT_KEY_FILE name or hold another key; it is read for each
    checkpoint. Keep the public keys of before: they verify what was signed before.
    """
    try:
        found = SigningKey.read(file) if file.exists() else SigningKey.create(file)
    except (KeyFileError, OSError) as error:
        raise Problem(str(error)) from error
    shown = {"key_id": found.key_id, "public_key": found.public_pem}
    print_facts(
        {"key id": found.key_id, "public key": f"\n{found.public_pem}"}, shown, as_json=as_json
    )


@checkpoint.command("list")
@_FILES
@json_option
def list_checkpoints(files: tuple[Path, ...], as_json: bool) -> None:
    """List the checkpoints in FILES, without judging them."""
    print_rows(read_checkpoints(files)[0], _COLUMNS, as_json=as_json)


@checkpoint.command()
@_FILES
@public_key_option
@json_option
def verify(files: tuple[Path, ...], public_keys: tuple[Path, ...], as_json: bool) -> None:
    """Check signatures, numbers and chain of the checkpoints in FILES; status 1 where one fails.

    `holdfast ledger verify --checkpoints` compares them with the ledger.
    """
    anchors = read_anchors(files, public_keys)
    ok = bool(anchors.checkpoints) and not anchors.flaws
    if as_json:
        print_json(
            {
                "ok": ok,
                "checkpoints": anchors.checkpoints,
                "first": anchors.first,
                "last": anchors.last,
                "last_made_ms": anchors.last_made_ms,
                "flaws": anchors.flaws,
            }
        )
    else:
        count = f"{anchors.checkpoints} checkpoints, {anchors.first} to {anchors.last}"
        state = "all is well" if ok else "BROKEN"
        console().print(f"{count}, made until {show_time(anchors.last_made_ms)}: {state}.")
        for flaw in anchors.flaws:
            console().print(f"checkpoint {flaw.number}: {flaw.message}")
    if not ok:
        raise Problem("these are not the checkpoints that were made: find out who changed them")
