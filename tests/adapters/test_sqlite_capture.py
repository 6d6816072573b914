"""Existing tables under SQLite: what foreign programs write becomes changes."""

from __future__ import annotations

import json
import random
import sqlite3
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tidemill.adapters.sqlite import SQLite
from tidemill.adapters.sqlite.capture import json_of, partition_sql
from tidemill.engine.clock import SystemClock
from tidemill.errors import ConfigurationError
from tidemill.model import Logged, Page, TableSpec

TABLE = TableSpec("parcels", 'Old "parcels"', id="nr", key="to whom", partitions=4)
CREATE = 'CREATE TABLE "Old ""parcels""" (nr INTEGER PRIMARY KEY, "to whom" TEXT, note)'
PARCELS = '"Old ""parcels"""'


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A program of somebody else's: plain sqlite3, no functions of ours."""
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as connection:
        connection.execute(CREATE)
        yield connection


@pytest.fixture
async def database(tmp_path: Path, foreign: sqlite3.Connection) -> AsyncIterator[SQLite]:
    database = SQLite(tmp_path / "shop.db", SystemClock())
    await database.open([TABLE], [])
    await changes(database)  # it begins at the beginning, and the table is empty
    yield database
    await database.close()


async def changes(database: SQLite, spec: TableSpec = TABLE, at: str = "beginning", limit: int = 400) -> list[Logged]:
    """Everything from the start, in the order of commits."""
    feed = database.feed(spec)
    cursors = {name: await feed.start(name, "now" if at == "now" else "beginning") for name in await feed.partitions()}
    return await read_on(database, cursors, spec, limit)


async def read_on(database: SQLite, cursors: dict[str, str], spec: TableSpec = TABLE, limit: int = 400) -> list[Logged]:
    found: list[Logged] = []
    while True:
        pages = await database.feed(spec).read(cursors, limit, 0.0)
        read = [change for page in pages.values() if isinstance(page, Page) for change in page.changes]
        cursors.update({name: page.cursor for name, page in pages.items() if isinstance(page, Page)})
        found += read
        if not read:
            return sorted(found, key=lambda change: change.order)


def short(found: Sequence[Logged]) -> list[tuple[str, str, str]]:
    return [(change.kind, change.document, change.key) for change in found]


async def test_insert_update_delete(database: SQLite, foreign: sqlite3.Connection) -> None:
    foreign.execute(f"INSERT INTO {PARCELS} VALUES (1, 'ann', 'x')")
    foreign.execute(f"UPDATE {PARCELS} SET note = 'y'")
    foreign.execute(f"DELETE FROM {PARCELS}")
    found = await changes(database)
    assert short(found) == [("put", "1", "ann"), ("put", "1", "ann"), ("delete", "1", "ann")]
    assert json.loads(found[1].body or b"") == {"nr": 1, "to whom": "ann", "note": "y"}
    assert found[2].body is None
    assert all(change.before is None for change in found)


async def test_change_of_key_or_id_deletes_the_old(database: SQLite, foreign: sqlite3.Connection) -> None:
    foreign.execute(f"INSERT INTO {PARCELS} VALUES (1, 'ann', 'x')")
    foreign.execute(f"UPDATE {PARCELS} SET \"to whom\" = 'bob'")
    foreign.execute(f"UPDATE {PARCELS} SET nr = 2")
    assert short(await changes(database))[1:] == [
        ("delete", "1", "ann"),
        ("put", "1", "bob"),
        ("delete", "1", "bob"),
        ("put", "2", "bob"),
    ]


async def test_replace_upsert_and_ignore(database: SQLite, foreign: sqlite3.Connection) -> None:
    foreign.execute(f"INSERT INTO {PARCELS} VALUES (1, 'ann', 'x'), (2, 'bob', 'x')")
    foreign.execute(f"INSERT OR IGNORE INTO {PARCELS} VALUES (1, 'eve', 'lost')")
    foreign.execute(f"INSERT INTO {PARCELS} VALUES (1, 'eve', 'lost') ON CONFLICT DO NOTHING")
    foreign.execute(f"INSERT INTO {PARCELS} VALUES (1, 'eve', '') ON CONFLICT DO UPDATE SET note = 'kept'")
    foreign.execute(f"REPLACE INTO {PARCELS} VALUES (2, 'bob', 'same key')")
    foreign.execute(f"INSERT OR REPLACE INTO {PARCELS} VALUES (1, 'eve', 'other key')")
    assert short(await changes(database))[2:] == [
        ("put", "1", "ann"),
        ("put", "2", "bob"),
        ("delete", "1", "ann"),
        ("put", "1", "eve"),
    ]


async def test_replace_with_recursive_triggers_deletes_once(database: SQLite, foreign: sqlite3.Connection) -> None:
    foreign.execute("PRAGMA recursive_triggers = ON")
    foreign.execute(f"INSERT INTO {PARCELS} VALUES (1, 'ann', 'x')")
    foreign.execute(f"REPLACE INTO {PARCELS} VALUES (1, 'eve', 'y')")
    assert short(await changes(database))[1:] == [("delete", "1", "ann"), ("put", "1", "eve")]


async def test_rolled_back_changes_are_none(database: SQLite, foreign: sqlite3.Connection) -> None:
    foreign.execute("BEGIN")
    foreign.execute(f"INSERT INTO {PARCELS} VALUES (1, 'ann', 'x')")
    foreign.execute("ROLLBACK")
    foreign.execute(f"INSERT INTO {PARCELS} VALUES (2, 'ann', 'x')")
    assert short(await changes(database)) == [("put", "2", "ann")]


async def test_values_are_faithful(database: SQLite, foreign: sqlite3.Connection) -> None:
    chance = random.Random(7)
    reals = [chance.uniform(-1, 1) * 10.0 ** chance.randint(-25, 25) for _ in range(300)]
    reals += [0.1, 1.0, -0.0, 1e22, 0.1 + 0.2]
    values = [*reals, 2**63 - 1, -(2**63), None, 'ä"\\\n\u2028', "", "1", float("inf"), -float("inf")]
    foreign.executemany(f"INSERT INTO {PARCELS} (note) VALUES (?)", [(value,) for value in values])
    foreign.execute(f"INSERT INTO {PARCELS} (note) VALUES (x'00ff')")
    found = [json.loads(change.body or b"")["note"] for change in await changes(database)]
    assert found == [*values, "00FF"]
    assert [type(value) for value in found[:-1]] == [type(value) for value in values]


async def test_text_that_is_no_utf8_stops_nothing(database: SQLite, foreign: sqlite3.Connection) -> None:
    foreign.execute(f"INSERT INTO {PARCELS} VALUES (1, CAST(x'ff61' AS TEXT), 'x')")
    foreign.execute(f"INSERT INTO {PARCELS} VALUES (2, 'ann', 'x')")
    assert {change.document for change in await changes(database)} == {"1", "2"}


async def test_missing_key_falls_back_to_the_id(database: SQLite, foreign: sqlite3.Connection) -> None:
    foreign.execute(f"INSERT INTO {PARCELS} VALUES (7, NULL, 'x')")
    foreign.execute(f"INSERT INTO {PARCELS} VALUES (8, x'0a', 'x')")
    assert short(await changes(database)) == [("put", "7", "7"), ("put", "8", "0A")]


async def test_before_images(tmp_path: Path, foreign: sqlite3.Connection) -> None:
    foreign.execute("CREATE TABLE t (id TEXT PRIMARY KEY, k TEXT, v INT) WITHOUT ROWID")
    spec = TableSpec("t", "t", id="id", key="k", partitions=2, before=True)
    database = SQLite(tmp_path / "shop.db", SystemClock())
    await database.open([spec], [])
    await changes(database, spec)
    foreign.execute("INSERT INTO t VALUES ('a', 'k', 1)")
    foreign.execute("UPDATE t SET v = 2")
    foreign.execute("REPLACE INTO t VALUES ('a', 'other', 3)")
    foreign.execute("DELETE FROM t")
    found = await changes(database, spec)
    await database.close()
    images = [(change.kind, change.before and json.loads(change.before)["v"]) for change in found]
    assert images == [("put", None), ("put", 1), ("delete", 2), ("put", None), ("delete", 3)]


async def test_added_column_is_captured_after_the_next_open(
    tmp_path: Path, database: SQLite, foreign: sqlite3.Connection
) -> None:
    foreign.execute(f"ALTER TABLE {PARCELS} ADD COLUMN weight REAL")
    foreign.execute(f"INSERT INTO {PARCELS} VALUES (1, 'ann', 'x', 2.5)")
    other = SQLite(tmp_path / "shop.db", SystemClock())
    await other.open([TABLE], [])
    await other.open([TABLE], [])
    await other.close()
    foreign.execute(f"INSERT INTO {PARCELS} VALUES (2, 'ann', 'x', 2.5)")
    first, second = (json.loads(change.body or b"") for change in await changes(database))
    assert "weight" not in first
    assert second["weight"] == 2.5


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (TableSpec("p", 'Old "parcel"', "nr", "nr"), ["no table 'Old \"parcel\"'", "'Old \"parcels\"'"]),
        (TableSpec("p", 'Old "parcels"', "nr", "to_whom"), ["no column 'to_whom'", "'to whom'"]),
        (TableSpec("p", "some_view", "nr", "nr"), ["view"]),
    ],
)
async def test_missing_table_or_column_is_named(
    tmp_path: Path, foreign: sqlite3.Connection, spec: TableSpec, words: list[str]
) -> None:
    foreign.execute(f"CREATE VIEW some_view AS SELECT * FROM {PARCELS}")
    with pytest.raises(ConfigurationError) as caught:
        await SQLite(tmp_path / "shop.db", SystemClock()).open([spec], [])
    [problem] = caught.value.problems
    assert "\n" not in problem
    assert all(word in problem for word in words), problem


# --- rows that were there before ----------------------------------------------------------------------------


@pytest.mark.parametrize("without_rowid", [False, True])
async def test_old_rows_come_once_from_the_beginning(
    tmp_path: Path, foreign: sqlite3.Connection, without_rowid: bool
) -> None:
    end = "WITHOUT ROWID" if without_rowid else ""
    foreign.execute(f"CREATE TABLE t (a TEXT, b BLOB, v REAL, PRIMARY KEY (a, b)) {end}")
    foreign.execute("BEGIN")
    foreign.executemany("INSERT INTO t VALUES (?, ?, ?)", [(f"it's {n}", bytes([n % 7]), n / 3) for n in range(2_500)])
    foreign.execute("COMMIT")
    spec = TableSpec("t", "t", id="a", key="a", partitions=3)
    path = tmp_path / "shop.db"
    database = SQLite(path, SystemClock())
    await database.open([spec], [])
    late = {name: await database.feed(spec).start(name, "now") for name in await database.feed(spec).partitions()}
    cursors = {name: await database.feed(spec).start(name, "beginning") for name in late}
    pages = await database.feed(spec).read(cursors, 10, 0.0)  # brings some of them into the log, then "crashes"
    await database.close()
    assert any(isinstance(page, Page) and page.changes for page in pages.values())
    database = SQLite(path, SystemClock())
    await database.open([spec], [])
    foreign.execute("UPDATE t SET v = -1 WHERE a = 'it''s 2400'")
    found = await read_on(database, cursors, spec)
    old = [change for change in found if json.loads(change.body or b"")["v"] != -1]
    assert Counter(change.document for change in old if change.document != "it's 2400") == Counter(
        f"it's {n}" for n in range(2_500) if n != 2400
    )
    last = [change for change in found if change.document == "it's 2400"][-1]
    assert json.loads(last.body or b"")["v"] == -1
    assert await read_on(database, cursors, spec) == []
    assert [change.document for change in await read_on(database, late, spec)] == ["it's 2400"]
    await database.close()


async def test_partitions_are_even() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE k (k TEXT)")
        kinds = {
            "numbers": [str(n) for n in range(10_000)],
            "uuids": [str(uuid.UUID(int=random.Random(n).getrandbits(128))) for n in range(10_000)],
            "orders": [f"order-{n:08d}" for n in range(10_000)],
            "mails": [f"user{n}@example.com" for n in range(10_000)],
        }
        for kind, keys in kinds.items():
            connection.execute("DELETE FROM k")
            connection.executemany("INSERT INTO k VALUES (?)", [(key,) for key in keys])
            rows = connection.execute(f"SELECT {partition_sql('k.k', 16)}, count(*) FROM k GROUP BY 1").fetchall()
            assert {part for part, _ in rows} == set(range(16)), kind
            assert max(count for _, count in rows) / (len(keys) / 16) <= 1.3, kind


def test_partition_of_odd_keys_is_a_number() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        for key in ("", "a", "\U0010ffff" * 100, "x" * 10_000, "\x00"):
            (part,) = connection.execute(f"SELECT {partition_sql('k', 16)} FROM (SELECT ? AS k)", (key,)).fetchone()
            assert part in range(16)


def test_wide_tables_fit_in_a_trigger(tmp_path: Path) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute(f"SELECT {json_of('a')} FROM (SELECT 1.5 AS a)").fetchone() == ("1.5",)


async def test_table_of_many_columns(tmp_path: Path, foreign: sqlite3.Connection) -> None:
    columns = ", ".join(f"c{n}" for n in range(300))
    foreign.execute(f"CREATE TABLE wide (id INTEGER PRIMARY KEY, {columns})")
    spec = TableSpec("wide", "wide", "id", "id", partitions=2, before=True)
    database = SQLite(tmp_path / "shop.db", SystemClock())
    await database.open([spec], [])
    await changes(database, spec)
    foreign.execute("INSERT INTO wide (id, c299) VALUES (1, 2.5)")
    [change] = await changes(database, spec)
    await database.close()
    assert json.loads(change.body or b"")["c299"] == 2.5
    assert len(json.loads(change.body or b"")) == 301
