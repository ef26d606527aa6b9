"""Connections to Postgres: pools, roles, and where the driver's errors become ours."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, LiteralString

import psycopg
from psycopg import AsyncConnection, AsyncCursor, IsolationLevel
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, TupleRow, dict_row, tuple_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from holdfast_server.errors import HoldfastError, Reason, new_reference
from holdfast_server.ledger.sql import QUERIES
from holdfast_server.settings import SettingsError

#: Seconds to wait for a connection to be made.
CONNECT_SECONDS_MAX: Final = 3
#: Milliseconds after which unacknowledged data declares a connection dead.
TCP_TIMEOUT_MS: Final = 10_000
#: Seconds that a caller waits for a free connection of the pool: less than a client gives a call.
POOL_WAIT_SECONDS_MAX: Final = 1.5
#: Seconds for which the pool tries by itself to connect again; then whoever asks next does. Its
#: pauses double all the while, and a ledger that is back must not be waited for as long as it was
#: away.
RECONNECT_SECONDS_MAX: Final = 2.0
#: Callers that may wait for a connection at once; more are refused at once.
POOL_WAITING_MAX: Final = 1_000
#: Connections for changes of configuration: rare, and serialised by the database anyway.
CONTROL_CONNECTIONS_MAX: Final = 2
#: Milliseconds that one read may take; verification and export are exempt.
READ_MS_MAX: Final = 5_000
#: Milliseconds that a session may be silent in a change, before Postgres ends it.
SILENT_CHANGE_MS_MAX: Final = 15_000
#: Milliseconds that one statement of a change may take, waiting behind others included.
CHANGE_MS_MAX: Final = 60_000
#: Sees the rows of every tenant.
EVERY_TENANT: Final = "*"

READER_ROLE: Final = "holdfast_reader"
CONTROL_ROLE: Final = "holdfast_control"
FLUSHER_ROLE: Final = "holdfast_flusher"

_log = logging.getLogger(__name__)

Connection = AsyncConnection[DictRow]
Cursor = AsyncCursor[DictRow]
Pool = AsyncConnectionPool[Connection]


def connection_text(url: str, application: str) -> str:
    """The connection string with our timeouts, which a value in the URL takes precedence over.

    Raises `SettingsError` for a URL that the driver cannot read.
    """
    defaults: dict[str, str | int] = {
        "connect_timeout": CONNECT_SECONDS_MAX,
        "tcp_user_timeout": TCP_TIMEOUT_MS,
        "application_name": f"holdfast {application}",
    }
    try:
        given = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # The driver's own words repeat what it could not read, which may be the password.
        raise SettingsError(
            "HOLDFAST_POSTGRES_URL is no URL of a database: write what is special in user and "
            "password as %XX, and name only parameters that libpq has"
        ) from None
    return make_conninfo(
        url, **{name: value for name, value in defaults.items() if name not in given}
    )


async def begin_session(connection: Connection, role: str) -> None:
    """Has times told in UTC and a host that is gone noticed, and gives up all privileges but those
    of `role`, where that exists and may be taken.
    """
    await connection.execute(QUERIES["begin_session"], {"role": role})


@contextmanager
def translated() -> Iterator[None]:
    """Turns errors of the driver into ours. Its texts go to the log, never to a caller."""
    try:
        yield
    except psycopg.errors.QueryCanceled as error:
        _log.warning("the ledger was too slow: %s", error)
        raise HoldfastError(
            Reason.LEDGER_UNAVAILABLE,
            "The ledger did not answer in time; ask for less at once, or retry later.",
        ) from error
    except (psycopg.OperationalError, PoolTimeout, PoolClosed, TooManyRequests) as error:
        _log.warning("ledger unavailable: %s", error)
        raise HoldfastError(
            Reason.LEDGER_UNAVAILABLE, "The ledger cannot be reached; retry later."
        ) from error
    except psycopg.Error as error:
        reference = new_reference()
        facts = {"reference": reference}
        _log.error("the ledger refused a statement", exc_info=error, extra={"facts": facts})
        message = f"The ledger refused a statement; the log has why under reference {reference}."
        raise HoldfastError(Reason.INTERNAL, message, reference=reference) from error


class Database:
    """Two pools of connections: one that can only read, and one that can change configuration.

    Those that read begin no transaction by themselves.
    """

    def __init__(self, readers: Pool, controls: Pool) -> None:
        self._readers = readers
        self._controls = controls

    @asynccontextmanager
    async def reading(self, tenant: str, *, limit_ms: int = READ_MS_MAX) -> AsyncIterator[Cursor]:
        """One REPEATABLE READ, READ ONLY transaction that sees only the rows of `tenant`.

        All that is read in it belongs to one instant. Raises LEDGER_UNAVAILABLE.
        """
        with translated():
            async with (
                self._readers.connection() as connection,
                connection.transaction(),
                connection.cursor() as cursor,
            ):
                await cursor.execute(
                    QUERIES["begin_reading"], {"tenant": tenant, "limit": str(limit_ms)}
                )
                yield cursor

    async def glance(self, query: LiteralString) -> DictRow | None:
        """The first row of a question that is asked again and again, and is about no tenant.

        A single statement needs no transaction around it, which would be most of the work. Raises
        LEDGER_UNAVAILABLE.
        """
        with translated():
            async with self._readers.connection() as connection:
                return await (await connection.execute(query)).fetchone()

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[Cursor]:
        """One transaction that may change configuration; committed unless an error leaves it."""
        with translated():
            async with self._controls.connection() as connection, connection.cursor() as cursor:
                yield cursor

    async def close(self) -> None:
        """Closes every connection."""
        await self._readers.close()
        await self._controls.close()


async def open_pools(url: str, readers_max: int) -> tuple[Pool, Pool]:
    """The pools of a `Database`. Connections are made when needed, so Postgres may be away."""
    readers = _pool(url, "reader", readers_max, _prepare_reader, autocommit=True)
    controls = _pool(url, "control", CONTROL_CONNECTIONS_MAX, _prepare_control, autocommit=False)
    await readers.open()
    await controls.open()
    return readers, controls


def _pool(
    url: str,
    name: str,
    size: int,
    configure: Callable[[Connection], Awaitable[None]],
    *,
    autocommit: bool,
) -> Pool:
    return AsyncConnectionPool(
        connection_text(url, name),
        connection_class=AsyncConnection[DictRow],
        kwargs={"row_factory": dict_row, "autocommit": autocommit},
        min_size=0,
        max_size=size,
        timeout=POOL_WAIT_SECONDS_MAX,
        reconnect_timeout=RECONNECT_SECONDS_MAX,
        max_waiting=POOL_WAITING_MAX,
        configure=configure,
        # A connection that died while idle is replaced instead of failing the next caller.
        check=AsyncConnectionPool.check_connection,
        name=f"holdfast {name}",
        open=False,
    )


async def _prepare_reader(connection: Connection) -> None:
    await begin_session(connection, READER_ROLE)
    await connection.execute(QUERIES["limit_statements"], {"limit": str(READ_MS_MAX)})
    await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)


async def _prepare_control(connection: Connection) -> None:
    await begin_session(connection, CONTROL_ROLE)
    limits = {"silent": str(SILENT_CHANGE_MS_MAX), "limit": str(CHANGE_MS_MAX)}
    await connection.execute(QUERIES["limit_changes"], limits)
    await connection.commit()


async def fetch_all(cursor: Cursor, query: LiteralString, **parameters: object) -> list[DictRow]:
    """Every row of a query."""
    await cursor.execute(query, parameters)
    return await cursor.fetchall()


async def fetch_tuples(
    cursor: Cursor, query: LiteralString, **parameters: object
) -> list[TupleRow]:
    """The same in the same transaction, without names: for very many rows."""
    async with cursor.connection.cursor(row_factory=tuple_row, binary=True) as plain:
        await plain.execute(query, parameters)
        return await plain.fetchall()


async def fetch_one(cursor: Cursor, query: LiteralString, **parameters: object) -> DictRow | None:
    """The first row of a query, or None."""
    await cursor.execute(query, parameters)
    return await cursor.fetchone()
