"""Keys of the hot store, under hostile ids: rows A11 to A14 of the abuse matrix."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.asyncio
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

import holdfast_server
from holdfast_server.api.form import Form
from holdfast_server.engine.keys import Keys
from holdfast_server.errors import HoldfastError

SERVER_ROOT = Path(holdfast_server.__file__).parent
PARTITIONS = 256
EPOCH = 3

#: What the API lets through.
ids = st.text(st.sampled_from("Aa0Zz9._~-"), min_size=1, max_size=12)
#: What an attacker would like to get through, and what the key layout itself uses.
hostile = st.text(st.sampled_from("ab{}:/\r\n\0*?[]\\p0 é\u202e\u200b"), min_size=1, max_size=12)
#: Code that calls for a script to run takes its text from a file, never from here.
SCRIPT_CALLS = frozenset({"eval", "evalsha", "script_load", "register_script"})


def is_allowed(identifier: str) -> bool:
    """Whether the API takes it as an id."""
    form = Form()
    form.identifier(identifier, "account")
    try:
        form.settle()
    except HoldfastError:
        return False
    return True


def keys_of(tenant: str, account: str) -> list[str]:
    """Every key that an account and its tree touch."""
    keys = Keys(PARTITIONS)
    partition = keys.partition(tenant, account)
    return [
        *keys.partition_keys(partition, EPOCH),
        *keys.tree_keys(partition, EPOCH, tenant, account),
    ]


@given(hostile)
@example("a:b")
@example("{p007}")
@example("{}")
@example("}")
@example("{evil}")
@example("a/b")
@example("a\r\nDEL x")
@example("\ud800")
def test_a09_a11_a12_a14_hostile_ids_are_refused(identifier: str) -> None:
    has_only_allowed = all(c.isascii() and (c.isalnum() or c in "._~-") for c in identifier)
    assert is_allowed(identifier) == has_only_allowed


@given(ids, ids, ids, ids)
@example("a", "b-c", "a-b", "c")
@example("a.b", "c", "a", "b.c")
def test_a11_different_accounts_have_different_keys(
    tenant: str, account: str, other_tenant: str, other_account: str
) -> None:
    assert is_allowed(tenant)
    assert is_allowed(account)
    keys = Keys(PARTITIONS)
    ours = keys.tree_keys(7, EPOCH, tenant, account)
    theirs = keys.tree_keys(7, EPOCH, other_tenant, other_account)
    is_same = (tenant, account) == (other_tenant, other_account)
    assert (ours == theirs) == is_same
    assert set(ours).isdisjoint(theirs) != is_same
    where = keys.whereabouts(tenant, account)
    assert (where == keys.whereabouts(other_tenant, other_account)) == is_same


@given(ids, hostile)
def test_a12_every_key_of_a_tree_is_in_the_slot_of_its_partition(tenant: str, account: str) -> None:
    # Even an id that nothing had checked could not move a key: the tag of the partition is first.
    partition = Keys(PARTITIONS).partition(tenant, account)
    slot = key_slot(f"{{p{partition:03d}}}".encode())
    assert {key_slot(key.encode()) for key in keys_of(tenant, account)} == {slot}


def test_a13_no_python_code_builds_script_text() -> None:
    offences = [
        f"{path.name}:{call.lineno}"
        for path, call in script_calls()
        if any(isinstance(argument, ast.JoinedStr | ast.BinOp) for argument in call.args)
    ]
    assert offences == []


def test_a13_script_text_lives_in_files() -> None:
    """No string in the server's Python code is a script, or a part of one."""
    offences = [
        f"{path.name}:{node.lineno}"
        for path, node in nodes()
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and ("redis.call" in node.value or "#!lua" in node.value)
    ]
    assert offences == []


@pytest.mark.parametrize("value", ["1\r\nDEL x\r\n", "$3\r\nfoo\r\n", "*1\r\n$8\r\nFLUSHALL\r\n"])
async def test_a14_the_protocol_carries_any_bytes(valkey_url: str, value: str) -> None:
    async with redis.asyncio.Redis.from_url(valkey_url) as client:
        await client.set(value, value)
        assert await client.get(value) == value.encode()
        assert await client.dbsize() == 1


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    """Every piece of the server's own Python code."""
    for path in sorted(SERVER_ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            yield path, node


def script_calls() -> Iterator[tuple[Path, ast.Call]]:
    """Every call that gives a script to the hot store."""
    for path, node in nodes():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr in SCRIPT_CALLS:
            yield path, node
