"""Parts of a commit on a connection of the user's own, in the transaction that he has open there.

asyncpg, psycopg 3, SQLAlchemy (`Connection`, `Session` and their async forms) and sqlite3 are told apart by what they
are; none of them is imported unless it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import isawaitable
from typing import Any

from tidemill.errors import BadOption, Conflict
from tidemill.model import Statement


async def run_on(connection: Any, statements: Sequence[Statement]) -> None:
    """Run them, in order. Raises `Conflict` if one does not hit the rows that it must: roll back then."""
    run = _runner(connection)
    for statement in statements:
        count = await run(connection, statement)
        if statement.rows is not None and count != statement.rows:
            raise Conflict("a document was changed by somebody else, or was not as expected; roll back")


def _runner(connection: Any) -> Any:
    library = type(connection).__module__.partition(".")[0]
    if hasattr(connection, "fetchrow"):  # also what a pool hands out
        return _asyncpg
    found = {"psycopg": _psycopg, "sqlalchemy": _sqlalchemy, "sqlite3": _sqlite3}.get(library)
    if found is None:
        raise BadOption(
            f"connection={type(connection).__name__}: give one of asyncpg, psycopg, SQLAlchemy or sqlite3, with a"
            " transaction open on it"
        )
    return found


async def _asyncpg(connection: Any, statement: Statement) -> int:
    tag: str = await connection.execute(statement.sql, *statement.args)
    *_, last = tag.split()
    return int(last) if last.isdecimal() else 0


async def _psycopg(connection: Any, statement: Statement) -> int:
    cursor = await _waited(connection.execute(*statement.pyformat()))
    return int(cursor.rowcount)


async def _sqlalchemy(connection: Any, statement: Statement) -> int:
    from sqlalchemy import text

    sql, values = statement.named()
    result = await _waited(connection.execute(text(sql), values))
    return len(result.fetchall()) if result.returns_rows else int(result.rowcount)


async def _sqlite3(connection: Any, statement: Statement) -> int:
    return int(connection.execute(statement.sql, statement.args).rowcount)


async def _waited(result: Any) -> Any:
    return await result if isawaitable(result) else result
