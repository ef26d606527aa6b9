"""Reads accounts and open holds as they lie in a tree. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from holdfast_server.domain import reply as rp
from holdfast_server.domain.bounds import TREE_LEVELS_MAX
from holdfast_server.domain.operation import CreateAccount, Mode
from holdfast_server.domain.token import HoldToken, TokenKind, TokenSigner
from holdfast_server.engine.failures import failed, fenced
from holdfast_server.engine.keys import DUE_FIELD, NUMBERS_FIELD, Keys
from holdfast_server.engine.rows import unpack_due, unpack_hold, unpack_row
from holdfast_server.engine.scripts import Clock, load
from holdfast_server.engine.store import Store, failure
from holdfast_server.engine.unpack import unpack_terms
from holdfast_server.engine.wire import Argument
from holdfast_server.errors import HoldfastError, Reason

#: Rows of a tree's index looked at in one step while the holds of one account are searched.
SCAN_ROWS = 500


@dataclass(frozen=True, slots=True, order=True)
class HoldCursor:
    """Where a listing goes on: after this hold of this due time."""

    expires_ms: int
    hold: bytes


@dataclass(frozen=True, slots=True)
class HoldPage:
    """Which holds are wanted: those of accounts below too, so many, after which."""

    descendants: bool
    limit: int
    after: HoldCursor | None = None


class AccountReader:
    """Reads accounts and holds from the hot store."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        signer: TokenSigner,
        clock: Clock = Clock.STORE,
        clock_ms: Callable[[], int] = int,
    ) -> None:
        """`clock_ms`: what time the store should show; for the test build, what time it is."""
        self._store, self._keys, self._signer = store, keys, signer
        self._script, self._clock_ms = load("read_fenced", clock), clock_ms

    async def get(self, tenant: str, account: str, root: str) -> rp.Account:
        """The account as it is. Raises ACCOUNT_NOT_FOUND and STORE_UNAVAILABLE."""
        state, unread = await self._read(tenant, root, "HMGET", f"a{account}", f"n{account}")
        if state is None:
            raise failed(Reason.ACCOUNT_NOT_FOUND, {"account": account})
        return _account(account, root, unpack_row(state), _unpacked(unread) if unread else None)

    async def check_parent(self, operation: CreateAccount, root: str) -> None:
        """Raises ACCOUNT_TREE_INVALID unless the parent exists and has room below it."""
        above, levels = operation.terms.parent, 1
        while above:
            state = await self._read(operation.tenant, root, "HGET", f"a{above}")
            if state is None:
                metadata = {"account": operation.account, "rule": "parent"}
                raise failed(Reason.ACCOUNT_TREE_INVALID, metadata)
            above, levels = unpack_row(state)[1].decode(), levels + 1
        if levels > TREE_LEVELS_MAX:
            metadata = {"account": operation.account, "rule": "levels"}
            raise failed(Reason.ACCOUNT_TREE_INVALID, metadata)

    async def current_seq(self, partition: int) -> int:
        """The sequence number of a partition's newest entry; 0 when it has none."""
        key = self._keys.state(partition, self._keys.epoch(partition))
        numbers, _ = await self._read_key(partition, key, "HGET", NUMBERS_FIELD)
        return int(unpack_row(numbers)[0]) if numbers else 0

    async def holds(
        self, tenant: str, account: str, root: str, page: HoldPage
    ) -> tuple[list[rp.OpenHold], HoldCursor | None]:
        """Open holds by expiry, and where to go on; None at the end. One whose time is over is open
        for nobody, though it stays in the store until somebody has ended it.
        """
        await self.get(tenant, account, root)
        found: list[rp.OpenHold] = []
        after = page.after or HoldCursor(0, b"")
        start_ms, offset, more = after.expires_ms, 0, True
        while more:
            rows = await self._due_rows(tenant, root, start_ms, offset)
            holds = [hold for hold in _holds_of(rows) if hold > after]
            for hold, fields in await self._read_holds(tenant, root, holds):
                if await self._is_wanted(tenant, root, fields[0].decode(), account, page):
                    found.append(self._open_hold(tenant, root, hold, fields))
                if len(found) == page.limit:
                    return found, HoldCursor(fields[4], hold)
            more, after = len(rows) == SCAN_ROWS, (after, *holds)[-1]
            start_ms, offset = _behind(rows, start_ms, offset)
        return found, None

    async def _due_rows(
        self, tenant: str, root: str, start_ms: int, offset: int
    ) -> list[tuple[bytes, int]]:
        """What is due in the tree from an instant on: holds and grants share the index, which is a
        list in the tree while it is small (`lua/lib/due_index.lua`).
        """
        small = await self._read(tenant, root, "HGET", DUE_FIELD)
        if small is not None:
            return _listed(small, start_ms)[offset : offset + SCAN_ROWS]
        span = (start_ms, "+inf", "BYSCORE", "LIMIT", offset, SCAN_ROWS, "WITHSCORES")
        partition, index = self._keys.partition(tenant, root), self._tree_keys(tenant, root)[1]
        rows, _ = await self._read_key(partition, index, "ZRANGE", *span)
        return _scored(rows)

    async def _is_wanted(
        self, tenant: str, root: str, owner: str, account: str, page: HoldPage
    ) -> bool:
        if owner == account or not page.descendants:
            return owner == account
        return await self._is_below(tenant, root, owner, account)

    async def _read_holds(
        self, tenant: str, root: str, members: list[HoldCursor]
    ) -> list[tuple[bytes, list[Any]]]:
        if not members:
            return []
        fields = [b"h" + member.hold for member in members]
        values, now_ms = await self._read_timed(tenant, root, "HMGET", *fields)
        pairs = zip(members, values, strict=True)
        holds = [(each.hold, unpack_hold(value)) for each, value in pairs if value is not None]
        return [(hold, fields) for hold, fields in holds if fields[4] > now_ms]

    async def _is_below(self, tenant: str, root: str, account: str, above: str) -> bool:
        for _ in range(TREE_LEVELS_MAX):
            state = await self._read(tenant, root, "HGET", f"a{account}")
            if state is None:
                return False
            account = unpack_row(state)[1].decode()
            if account == above:
                return True
        return False

    def _open_hold(self, tenant: str, root: str, hold: bytes, fields: list[Any]) -> rp.OpenHold:
        account, feature, mode, placed_ms, expires_ms, lines = fields[:6]
        token = HoldToken(TokenKind.HELD, root, account.decode(), hold, feature.decode())
        text = self._signer.issue(tenant, token)
        shown = tuple(_held_line(line) for line in lines)
        return rp.OpenHold(
            text, account.decode(), feature.decode(), placed_ms, expires_ms, Mode(mode), shown
        )

    async def _read(self, tenant: str, root: str, command: str, *arguments: Argument) -> Any:
        """What a command says of the hash of a tree."""
        found, _ = await self._read_timed(tenant, root, command, *arguments)
        return found

    async def _read_timed(
        self, tenant: str, root: str, command: str, *arguments: Argument
    ) -> tuple[Any, int]:
        """The same, and what time it is there."""
        partition, tree = self._keys.partition(tenant, root), self._tree_keys(tenant, root)[0]
        return await self._read_key(partition, tree, command, *arguments)

    async def _read_key(
        self, partition: int, key: str, command: str, *arguments: Argument
    ) -> tuple[Any, int]:
        """The same of any key of a partition. Raises FENCED where the store may not answer."""
        epoch = self._keys.epoch(partition)
        names = [self._keys.state(partition, epoch), key]
        told = [epoch, self._clock_ms(), command, *arguments]
        try:
            why, found, now_ms = await self._store.run(self._script, names, told)
        except HoldfastError as error:
            # Nothing was asked that could be in doubt.
            is_lost = error.reason is Reason.RESULT_UNKNOWN
            raise failure(Reason.STORE_UNAVAILABLE, error) if is_lost else error from error
        if why:
            raise fenced()
        return found, now_ms

    def _tree_keys(self, tenant: str, root: str) -> list[str]:
        partition = self._keys.partition(tenant, root)
        return self._keys.tree_keys(partition, self._keys.epoch(partition), tenant, root)


def _unpacked(raw: bytes) -> Any:
    return msgpack.unpackb(raw, raw=True, strict_map_key=False)


def _holds_of(rows: list[tuple[bytes, int]]) -> list[HoldCursor]:
    """The holds among the rows."""
    return [HoldCursor(due_ms, member[1:]) for member, due_ms in rows if member[:1] == b"h"]


def _behind(rows: list[tuple[bytes, int]], start_ms: int, offset: int) -> tuple[int, int]:
    """Where the next step begins: at the time of the last row, and not so many rows on, because
    others leave the index meanwhile. Of one time there may be more than a step reads.
    """
    last_ms = rows[-1][1] if rows else start_ms
    return (last_ms, 0) if last_ms > start_ms else (start_ms, offset + SCAN_ROWS)


def _listed(small: bytes, start_ms: int) -> list[tuple[bytes, int]]:
    """Members with their times, of a small index: in the order that a large one has."""
    listed = sorted((at_ms, member) for member, at_ms in unpack_due(small).items())
    return [(member, at_ms) for at_ms, member in listed if at_ms >= start_ms]


def _scored(rows: list[Any]) -> list[tuple[bytes, int]]:
    """Members with scores, as RESP 2 (a flat list) or RESP 3 (pairs) deliver them."""
    if rows and isinstance(rows[0], list | tuple):
        return [(member, int(score)) for member, score in rows]
    return [(rows[i], int(float(rows[i + 1]))) for i in range(0, len(rows), 2)]


def _held_line(line: list[Any]) -> rp.HeldLine:
    credit_type, requested, _, draws = line
    triples = [(draws[i + 1], draws[i + 2]) for i in range(0, len(draws), 3)]
    held = sum(amount for _, amount in triples)
    debt = sum(amount for source, amount in triples if source == b"D")
    unenforced = sum(amount for source, amount in triples if source == b"U")
    return rp.HeldLine(credit_type.decode(), requested, held, debt, unenforced, 0)


def _account(account: str, root: str, state: list[Any], unread: list[Any] | None) -> rp.Account:
    status, parent, version, created_ms, _, _, _, overdraft, limits = state[:9]
    known = [_unpacked(overdraft) if overdraft else {}, _unpacked(limits) if limits else []]
    fields = [parent, status, *known, *(unread or (b"", b"", {}))]
    return rp.Account(account, root, unpack_terms(fields), version, created_ms)
