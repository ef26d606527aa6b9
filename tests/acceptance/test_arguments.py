"""Arguments that ask for what there is not are refused: doing nothing would look like success."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click
import pytest

from holdfast import new_key
from holdfast_server.cli.root import holdfast
from tests.support.server import RunningService, call, call_json, eventually


@pytest.mark.parametrize("partition", ["256", "-1", "99999999999999999999"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["ledger", "verify", "--offline", "--partition"],
        ["ledger", "export", "jsonl", "--partition"],
        ["recovery", "run", "--rebuild"],
    ],
)
def test_partition_that_is_none_is_refused(
    holdfast_server: RunningService, arguments: list[str], partition: str
) -> None:
    done = call([*arguments, "0", arguments[-1], partition], holdfast_server.environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"there is no partition {partition}: they are 0 to 255\n")


def test_partition_that_is_named_twice_is_exported_once(holdfast_server: RunningService) -> None:
    def exported(*arguments: str) -> list[str]:
        export = ["ledger", "export", "jsonl", *arguments]
        return call(export, holdfast_server.environment).stdout.splitlines()

    call_json(["account", "create", new_key()], holdfast_server.environment)
    (line, *_) = eventually(exported, "the ledger has the account")
    partition = f"--partition={json.loads(line)['partition']}"
    assert exported(partition, partition) == exported(partition)


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--requests", "0"],
        ["demo", "--requests", "-5"],
        ["replay", __file__, "--concurrency", "0"],
        ["replay", __file__, "--speed", "-1"],
        ["ledger", "list", "somebody", "--limit", "-1"],
        ["verify", "--file", __file__, "--partition", "0"],
        ["verify", "--file", __file__, "--offline"],
        ["verify", "--file", __file__, "--public-key", __file__],
        ["mode", "list", "--private-key", __file__],
    ],
)
def test_what_nothing_could_be_done_with_is_a_wrong_use(arguments: list[str]) -> None:
    done = call(arguments, {"HOME": "/", "HOLDFAST_TARGET": "127.0.0.1:1"})
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: holdfast")


@pytest.mark.parametrize(
    "arguments",
    [
        ["reconcile", "--account", "a\udcff"],
        ["reconcile", "--account", "a", "--tenant", "a\udcff"],
        ["recovery", "account", "a\udcff"],
        ["recovery", "account", "a", "--tenant", "a\udcff"],
        ["balance", "a", "--target", "a\udcff:1"],
        ["balance", "a", "--tenant", "a\udcff"],
    ],
)
def test_a_name_that_is_no_utf8_is_a_wrong_use(arguments: list[str]) -> None:
    """The system hands over such bytes as surrogates, and takes them back as they were."""
    done = call(arguments, {"HOME": "/", "HOLDFAST_TARGET": "127.0.0.1:1"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("give it in UTF-8\n")


def test_every_command_that_shows_something_takes_json() -> None:
    def without(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from without(found, (*path, name))
        elif not any("--json" in each.opts for each in command.params):
            yield path

    assert set(without(holdfast, ())) == {
        *(("worker",), ("flush",), ("sweep",)),
        # It says by itself in which form it writes.
        ("ledger", "export"),
    }
