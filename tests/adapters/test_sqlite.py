"""The SQLite backend beyond the conformance suite: what is refused, formats, and the threads."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tidemill.adapters.sqlite import SQLite, lane, schema
from tidemill.adapters.sqlite.connection import connect_writer, warnings_of
from tidemill.engine.clock import SystemClock
from tidemill.errors import BackendFull, ConfigurationError, Forked, FormatTooNew, Unavailable
from tidemill.model import (
    CollectionSpec,
    Commit,
    Committed,
    Done,
    Fenced,
    Finished,
    Message,
    Outcome,
    Page,
    Put,
    Query,
    QueueSpec,
    Record,
    Settled,
    Stored,
    Swap,
    TableSpec,
)

QUEUE = QueueSpec("work")
ORDERS = CollectionSpec("orders", partitions=4, fields=("total", "city"))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SQLite]:
    database = SQLite(tmp_path / "test.db", SystemClock())
    await database.open([ORDERS], [QUEUE])
    yield database
    await database.close()


async def refused(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await SQLite(path, SystemClock()).open([], [])
    assert len(caught.value.problems) == 1
    assert "\n" not in caught.value.problems[0]
    return caught.value.problems[0]


# --- what is refused ----------------------------------------------------------------------------------------


def test_url_is_relative_or_absolute() -> None:
    clock = SystemClock()
    assert SQLite.from_url("sqlite:///data/x%20y.db", clock).path == Path.cwd() / "data/x y.db"
    assert SQLite.from_url("sqlite:////var/x.db", clock).path == Path("/var/x.db")
    for wrong in ("sqlite://x.db", "sqlite:x.db", "sqlite:///", "postgresql:///x", "sqlite:///x.db?mode=ro"):
        with pytest.raises(ConfigurationError, match="sqlite:///relative"):
            SQLite.from_url(wrong, clock)


def test_linked_version_is_checked() -> None:
    assert warnings_of((3, 51, 3)) == ()
    assert len(warnings_of((3, 51, 2))) == 1
    with pytest.raises(ConfigurationError, match=r"3\.37"):
        warnings_of((3, 34, 0))


async def test_missing_folder_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path / "no") in await refused(tmp_path / "no" / "x.db")


async def test_folder_as_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").mkdir()
    assert "folder" in await refused(tmp_path / "x.db")


async def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("dear diary, " * 100)
    problem = await refused(tmp_path / "x.db")
    assert "not a SQLite database" in problem
    assert str(tmp_path / "x.db") in problem


async def test_read_only_file_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("CREATE TABLE t (a)")
    os.chmod(tmp_path / "x.db", 0o444)
    assert "read-only" in await refused(tmp_path / "x.db")


async def test_parts_that_were_not_opened_are_refused(database: SQLite) -> None:
    with pytest.raises(ConfigurationError, match="'other' was not opened"):
        database.queue(QueueSpec("other"))
    with pytest.raises(ConfigurationError, match="'other' was not opened"):
        database.feed(CollectionSpec("other"))
    with pytest.raises(ConfigurationError, match="'other' was not opened"):
        await database.commit([Commit(messages=(Message("other", "1", b""),))])
    with pytest.raises(ConfigurationError, match="no documents"):
        database.documents(TableSpec("t", "t", "a", "a"))
    with pytest.raises(ConfigurationError, match="members"):
        await database.commit([Commit(swaps=(Swap("member/1", None, {}),))])
    with pytest.raises(ConfigurationError, match="declared: total, city"):
        await database.documents(ORDERS).query(Query(order="weight"))


# --- formats ------------------------------------------------------------------------------------------------


async def test_newer_format_is_refused(tmp_path: Path, database: SQLite) -> None:
    await database.close()
    with closing(sqlite3.connect(tmp_path / "test.db")) as connection, connection:
        connection.execute("UPDATE tidemill_meta SET value = 99 WHERE name = 'format'")
    with pytest.raises(FormatTooNew, match=r"format 99, this release reads up to 1"):
        await SQLite(tmp_path / "test.db", SystemClock()).open([], [])


def test_older_format_is_migrated_after_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(connect_writer(path)) as connection:
        schema.prepare(connection, path, schema.RECORDS)
        connection.execute("INSERT INTO tidemill_record VALUES ('k', 1, '{}')")
        steps = {
            1: "ALTER TABLE tidemill_record ADD COLUMN note TEXT;\nUPDATE tidemill_record SET note = 'new';\n",
            2: "DROP TABLE IF EXISTS unused;\n",
        }
        schema.prepare(connection, path, schema.RECORDS, known=3, migrations=steps)
        assert connection.execute("SELECT note FROM tidemill_record").fetchall() == [("new",)]
        assert schema.format_of(connection) == 3
    with closing(sqlite3.connect(f"{path}.backup-1")) as copy:
        assert copy.execute("SELECT * FROM tidemill_record").fetchall() == [("k", 1, "{}")]
        assert schema.format_of(copy) == 1


def test_failed_migration_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(connect_writer(path)) as connection:
        schema.prepare(connection, path, schema.RECORDS)
        steps = {1: "CREATE TABLE new (a);\nINSERT INTO missing VALUES (1);\n"}
        with pytest.raises(sqlite3.OperationalError):
            schema.prepare(connection, path, schema.RECORDS, known=2, migrations=steps)
        assert schema.format_of(connection) == 1
        assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'new'").fetchall()


async def test_count_of_partitions_is_fixed(tmp_path: Path, database: SQLite) -> None:
    other = SQLite(tmp_path / "test.db", SystemClock())
    with pytest.raises(ConfigurationError, match=r"partitions=8, but its feed was made with 4"):
        await other.open([CollectionSpec("orders", partitions=8)], [])
    await other.open([ORDERS], [])
    await other.close()


async def test_many_open_one_new_file_at_once(tmp_path: Path) -> None:
    handles = [SQLite(tmp_path / "new.db", SystemClock()) for _ in range(6)]
    await asyncio.gather(*(handle.open([ORDERS], [QUEUE]) for handle in handles))
    for number, handle in enumerate(handles):
        await handle.queue(QUEUE).send([Message("work", str(number), b"{}")])
    assert len(await handles[0].queue(QUEUE).receive("me", 100, 0)) == 6
    await asyncio.gather(*(handle.close() for handle in handles))


# --- threads ------------------------------------------------------------------------------------------------


async def test_calls_of_one_moment_share_a_commit(tmp_path: Path, database: SQLite) -> None:
    sql = "SELECT count(*) FROM tidemill_record WHERE key = 'first'"

    def insert(connection: sqlite3.Connection) -> int:
        return connection.execute("INSERT INTO tidemill_record VALUES ('first', 1, '{}')").rowcount

    def look(connection: sqlite3.Connection) -> tuple[int, int]:
        with closing(sqlite3.connect(tmp_path / "test.db")) as outside:
            return connection.execute(sql).fetchone()[0], outside.execute(sql).fetchone()[0]

    writer = database._session.writer
    _, seen = await asyncio.gather(writer.submit(insert), writer.submit(look))
    assert seen == (1, 0)  # one transaction, not committed yet
    assert await database._session.reads.submit(lambda connection: connection.execute(sql).fetchone()[0]) == 1


async def test_failure_of_one_does_not_take_its_neighbours_along(database: SQLite) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO tidemill_record VALUES ('half', 1, '{}')")
        raise ZeroDivisionError

    store, writer = database.store(), database._session.writer
    results = await asyncio.gather(
        store.swap([Swap("a", None, {"n": 1})]),
        writer.submit(fail),
        store.swap([Swap("b", None, {"n": 2})]),
        return_exceptions=True,
    )
    assert isinstance(results[1], ZeroDivisionError)
    assert [record and record.value for record in await store.get(["a", "half", "b"])] == [{"n": 1}, None, {"n": 2}]


async def test_full_disk_is_said_and_survived(database: SQLite) -> None:
    queue, writer = database.queue(QUEUE), database._session.writer
    await queue.send([Message("work", "before", b"{}")])
    pages = await writer.submit(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await writer.submit(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages + 8}").fetchone())
    results = await asyncio.gather(
        queue.send([Message("work", "small-1", b"{}")]),
        queue.send([Message("work", "large", b"x" * 200_000)]),
        queue.send([Message("work", "small-2", b"{}")]),
        return_exceptions=True,
    )
    assert isinstance(results[1], BackendFull)
    assert results[0] == ["small-1"]
    assert results[2] == ["small-2"]
    with pytest.raises(BackendFull):
        await database.documents(ORDERS).write([Put("orders", "1", "1", b"x" * 200_000)])
    await writer.submit(lambda connection: connection.execute("PRAGMA max_page_count = 1000000").fetchone())
    assert await queue.send([Message("work", "large", b"x" * 200_000)]) == ["large"]
    ids = {delivery.id for delivery in await queue.receive("me", 10, 0)}
    assert ids == {"before", "small-1", "small-2", "large"}


async def test_held_file_is_given_up_and_used_again(
    tmp_path: Path, database: SQLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    store = database.store()
    descriptor = os.open(tmp_path / "test.db.lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    monkeypatch.setattr(lane, "PATIENCE", 0.1)
    with pytest.raises(Unavailable, match="no answer"):
        await store.swap([Swap("taken by the thread", None, {})])
    with pytest.raises(Unavailable):
        await store.swap([Swap("never begun", None, {})])
    assert await store.get(["never begun"]) == [None]  # reading goes on
    assert await store.swap([Swap("member/1", None, {"alive": True})])  # and so do members
    monkeypatch.setattr(lane, "PATIENCE", 10.0)
    later = asyncio.create_task(store.swap([Swap("later", None, {})]))
    await asyncio.sleep(0)
    os.close(descriptor)
    await later
    assert await store.get(["never begun"]) == [None]


async def test_forked_handle_says_so(database: SQLite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(Forked):
        await database.queue(QUEUE).send([Message("work", "1", b"{}")])


async def test_closed_handle_says_so(database: SQLite) -> None:
    await database.close()
    await database.close()
    with pytest.raises(Unavailable, match="not open"):
        await database.store().get(["x"])
    await SQLite(database.path, SystemClock()).close()


async def test_claims_nobody_waits_for_go_back(database: SQLite) -> None:
    queue = database.queue(QUEUE)
    await queue.send([Message("work", "1", b"{}")])
    for turns in range(8):
        call = asyncio.create_task(queue.receive("me", 1, 0))
        for _ in range(turns * 20):
            await asyncio.sleep(0.0001)
        call.cancel()
        if not (result := (await asyncio.gather(call, return_exceptions=True))[0]) or isinstance(result, BaseException):
            continue
        assert await queue.settle([Outcome(result[0], Done(), started=False)]) == [Settled()]
    await database._session.writer.submit(lambda connection: None)
    await database._session.writer.submit(lambda connection: None)
    [delivery] = await queue.receive("me", 1, 1.0)
    assert delivery.deliveries == 1


async def test_cancelled_caller_does_not_undo_a_settle(database: SQLite) -> None:
    queue = database.queue(QUEUE)
    await queue.send([Message("work", "1", b"{}")])
    [delivery] = await queue.receive("me", 1, 0)
    call = asyncio.create_task(queue.settle([Outcome(delivery, Done())]))
    await asyncio.sleep(0)
    call.cancel()
    assert await queue.settle([Outcome(delivery, Done())]) == [Settled()]


# --- statements for a connection of the user's ----------------------------------------------------------------


async def test_statements_take_effect_in_a_foreign_transaction(tmp_path: Path, database: SQLite) -> None:
    queue, documents, store = database.queue(QUEUE), database.documents(ORDERS), database.store()
    await queue.send([Message("work", "1", b"{}", dedup="first")])
    [delivery] = await queue.receive("me", 1, 0)
    [lease] = await store.swap([Swap("lease/f/0", None, {"epoch": 3, "nonce": "n"})])
    commit = Commit(
        writes=(Put("orders", "7", "c", b'{"total": 1}'),),
        messages=(Message("work", "2", b"{}", dedup="second"), Message("work", "3", b"{}")),
        outcomes=(Outcome(delivery, Done()),),
        swaps=(Swap("note", None, {"x": 1}),),
        finished=(Finished("lease/f/0", 3, "n", "change-1"),),
    )
    assert run_statements(tmp_path / "test.db", database, commit)
    [stored] = await documents.get(["7"])
    assert stored is not None
    assert stored.body == b'{"total": 1}'
    feed = database.feed(ORDERS)
    pages = await feed.read({name: await feed.start(name, "beginning") for name in await feed.partitions()}, 10, 0)
    found = [change.id for page in pages.values() if isinstance(page, Page) for change in page.changes]
    assert found == [stored.etag]
    assert {d.id for d in await queue.receive("me", 10, 0)} == {"2", "3"}
    assert await queue.send([Message("work", "9", b"{}", dedup="first")]) == ["1"]  # for the window
    records = await store.get(["note", "finished/lease/f/0/change-1"])
    assert all(records)
    assert not run_statements(tmp_path / "test.db", database, commit)  # the finished row is there: nothing twice
    assert await database.commit([commit]) == [Committed(repeated=True)]
    assert isinstance(lease, Record)
    await store.swap([Swap("lease/f/0", lease.version, {"epoch": 4, "nonce": "m"})])
    assert await database.commit([commit]) == [Fenced()]


async def test_statements_guard_the_etag(tmp_path: Path, database: SQLite) -> None:
    documents = database.documents(ORDERS)
    [stored] = await documents.write([Put("orders", "7", "c", b"1")])
    assert isinstance(stored, Stored)
    path = tmp_path / "test.db"
    assert run_statements(path, database, Commit((Put("orders", "7", "c", b"2", expect=stored.etag),)))
    assert not run_statements(path, database, Commit((Put("orders", "7", "c", b"3", expect=stored.etag),)))
    [now] = await documents.get(["7"])
    assert now is not None
    assert now.body == b"2"


def run_statements(path: Path, database: SQLite, commit: Commit) -> bool:
    """As the documentation tells users to: every count must be hit, else roll back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in database.statements(commit):
            count = connection.execute(statement.sql, statement.args).rowcount
            if statement.rows is not None and count != statement.rows:
                connection.execute("ROLLBACK")
                return False
        connection.execute("COMMIT")
    return True


# --- queries --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("descending", [False, True])
async def test_pages_of_a_query_hold_every_document_once(database: SQLite, descending: bool) -> None:
    documents = database.documents(ORDERS)
    bodies = [b'{"total": %d}' % (n % 3) for n in range(9)] + [b'{"total": "x"}', b"{}", b'{"total": null}', b"no json"]
    await documents.write([Put("orders", f"{n:02d}", "k", body) for n, body in enumerate(bodies)])
    seen: list[str] = []
    continuation = None
    while True:
        rows = await documents.query(Query(order="total", descending=descending, limit=2, continuation=continuation))
        seen += [document.id for document in rows.documents]
        continuation = rows.continuation
        if continuation is None:
            break
    expected = ["10", "11", "12", "00", "03", "06", "01", "04", "07", "02", "05", "08", "09"]
    assert seen == (expected[::-1] if descending else expected)


async def test_query_walks_an_index(database: SQLite, tmp_path: Path) -> None:
    from tidemill.adapters.sqlite.documents import conditions, ranges
    from tidemill.model import Filter

    table = database._session.source("orders").table
    query = Query(order="total", filters=(Filter("total", ">=", 3),))
    where, args = conditions(query)
    *_, (clause, order, more) = ranges(query)
    sql = f"EXPLAIN QUERY PLAN SELECT id{order[0]} FROM {table} WHERE {where}{clause} ORDER BY {order[1]}"
    with closing(sqlite3.connect(tmp_path / "test.db")) as connection:
        plan = str(connection.execute(sql, (*args, *more)).fetchall())
    assert "_field_total" in plan
    assert "TEMP B-TREE" not in plan
