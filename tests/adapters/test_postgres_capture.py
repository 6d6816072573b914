"""Existing tables under PostgreSQL: what foreign programs write becomes changes."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import pytest

from tests.adapters.postgres_shop import CREATE, SHOP, Shop, body, images, shop_at
from tidemill.model import TableSpec


@pytest.fixture
async def shop(postgres_url: str) -> AsyncIterator[Shop]:
    async with shop_at(postgres_url) as found:
        yield found


@pytest.fixture
async def parcels(shop: Shop) -> Shop:
    await shop.run(CREATE)
    await shop.open(SHOP)
    return shop


# --- statements -------------------------------------------------------------------------------------------------


async def test_insert_update_delete(parcels: Shop) -> None:
    await parcels.run(
        "INSERT INTO parcels VALUES (1, 'ann', 'x')", "UPDATE parcels SET note = 'y'", "DELETE FROM parcels"
    )
    found = await parcels.changes()
    assert [(c.kind, c.document, c.key) for c in found] == [
        ("put", "1", "ann"), ("put", "1", "ann"), ("delete", "1", "ann"),
    ]  # fmt: skip
    assert body(found[1]) == {"nr": 1, "owner": "ann", "note": "y"}
    assert found[2].body is None
    assert all(change.before is None for change in found)


async def test_copy_and_many_rows_at_once(parcels: Shop) -> None:
    rows = io.BytesIO(b"".join(f"{n},o{n % 5},x\n".encode() for n in range(500)))
    await parcels.link.copy_to_table("parcels", source=rows, format="csv")
    await parcels.run("UPDATE parcels SET note = 'y' WHERE nr < 3", "DELETE FROM parcels WHERE nr < 2")
    found = await parcels.short()
    assert sorted(found[:500]) == sorted(("put", f"{n}", f"o{n % 5}") for n in range(500))
    assert sorted(found[500:503]) == [("put", "0", "o0"), ("put", "1", "o1"), ("put", "2", "o2")]
    assert sorted(found[503:]) == [("delete", "0", "o0"), ("delete", "1", "o1")]


async def test_on_conflict_and_merge(parcels: Shop) -> None:
    await parcels.run(
        "INSERT INTO parcels VALUES (1, 'ann', 'x'), (2, 'bob', 'x')",
        "INSERT INTO parcels VALUES (1, 'eve', 'lost') ON CONFLICT DO NOTHING",
        "INSERT INTO parcels VALUES (1, 'eve', '') ON CONFLICT (nr) DO UPDATE SET note = 'kept'",
        "INSERT INTO parcels VALUES (2, '', ''), (3, 'cat', '') ON CONFLICT (nr) DO UPDATE SET owner = 'eve'",
    )
    found = await parcels.short()
    assert found[:3] == [("put", "1", "ann"), ("put", "2", "bob"), ("put", "1", "ann")]
    assert sorted(found[3:]) == [("delete", "2", "bob"), ("put", "2", "eve"), ("put", "3", "cat")]
    if parcels.link.get_server_version().major >= 15:
        await parcels.run(
            "MERGE INTO parcels p USING (VALUES (1), (2), (9)) s (nr) ON p.nr = s.nr"
            " WHEN MATCHED AND p.nr = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET note = 'm'"
            " WHEN NOT MATCHED THEN INSERT VALUES (s.nr, 'new', '')"
        )
        assert sorted(await parcels.short()) == [("delete", "1", "ann"), ("put", "2", "eve"), ("put", "9", "new")]


async def test_truncate_is_a_delete_for_each_row(parcels: Shop) -> None:
    await parcels.run("INSERT INTO parcels VALUES (1, 'ann', 'x'), (2, 'bob', 'x')")
    await parcels.changes()
    await parcels.run("TRUNCATE parcels", "TRUNCATE parcels")
    assert sorted(await parcels.short()) == [("delete", "1", "ann"), ("delete", "2", "bob")]


async def test_change_of_key_or_id_deletes_the_old(parcels: Shop) -> None:
    await parcels.run("INSERT INTO parcels VALUES (1, 'ann', 'x')", "UPDATE parcels SET owner = 'bob'")
    await parcels.run("UPDATE parcels SET nr = 2", "UPDATE parcels SET owner = NULL")
    assert (await parcels.short())[1:] == [
        ("delete", "1", "ann"), ("put", "1", "bob"), ("delete", "1", "bob"), ("put", "2", "bob"),
        ("delete", "2", "bob"), ("put", "2", "2"),
    ]  # fmt: skip


async def test_ids_that_change_places(parcels: Shop) -> None:
    """After a statement that swaps ids, the last of each id is what is in the table."""
    await parcels.run(
        "ALTER TABLE parcels DROP CONSTRAINT parcels_pkey, ADD PRIMARY KEY (nr) DEFERRABLE",
        "INSERT INTO parcels SELECT n, 'o', n::text FROM generate_series(1, 5) n",
        "UPDATE parcels SET nr = nr % 5 + 1",
        "UPDATE parcels SET nr = nr + 1",
    )
    last = {change.document: change for change in await parcels.changes()}
    rows = await parcels.link.fetch("SELECT nr, note FROM parcels")
    there = {f"{row[0]}": row[1] for row in rows}
    assert {id: body(change)["note"] for id, change in last.items() if change.kind == "put"} == there
    assert {id for id, change in last.items() if change.kind == "delete"} == {"1"}


async def test_a_trigger_before_may_change_key_and_id(parcels: Shop) -> None:
    await parcels.run(
        "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.owner := upper(NEW.note); NEW.nr := NEW.nr + 100; RETURN NEW; END $$",
        "INSERT INTO parcels VALUES (1, 'ann', 'x')",
        "CREATE TRIGGER other BEFORE UPDATE ON parcels FOR EACH ROW EXECUTE FUNCTION other()",
        "UPDATE parcels SET note = 'y'",
    )
    assert await parcels.short() == [("put", "1", "ann"), ("delete", "1", "ann"), ("put", "101", "Y")]


async def test_before_images(shop: Shop) -> None:
    spec = TableSpec("parcels", "parcels", id="nr", key="owner", partitions=4, before=True)
    await shop.run(CREATE)
    await shop.open(spec)
    await shop.run(
        "INSERT INTO parcels VALUES (1, 'ann', 'a'), (2, 'bob', 'b')",
        "UPDATE parcels SET note = note || '2' WHERE nr = 1",
        "UPDATE parcels SET owner = 'eve' WHERE nr = 1",
        "DELETE FROM parcels WHERE nr = 1",
        "TRUNCATE parcels",
    )
    assert images(await shop.changes(spec), "note") == [
        ("put", "1", None), ("put", "2", None), ("put", "1", "a"), ("delete", "1", "a2"), ("put", "1", "a2"),
        ("delete", "1", "a2"), ("delete", "2", "b"),
    ]  # fmt: skip


async def test_statements_that_touch_nothing(parcels: Shop) -> None:
    await parcels.run("UPDATE parcels SET note = 'y'", "DELETE FROM parcels", "INSERT INTO parcels SELECT WHERE false")
    assert await parcels.short() == []
    drawn = await parcels.link.fetchval("SELECT is_called FROM tidemill.change_seq")
    assert drawn is False


async def test_a_missing_key_falls_back_to_the_id(parcels: Shop) -> None:
    await parcels.run("INSERT INTO parcels VALUES (7, NULL, 'x')", "DELETE FROM parcels")
    assert await parcels.short() == [("put", "7", "7"), ("delete", "7", "7")]


async def test_rolled_back_changes_are_none(parcels: Shop) -> None:
    await parcels.run(
        "BEGIN", "INSERT INTO parcels VALUES (1, 'ann', 'x')", "ROLLBACK",
        "BEGIN", "INSERT INTO parcels VALUES (2, 'ann', 'x')", "SAVEPOINT s",
        "INSERT INTO parcels VALUES (3, 'ann', 'x')", "ROLLBACK TO s", "COMMIT",
    )  # fmt: skip
    assert await parcels.short() == [("put", "2", "ann")]


async def test_cascades(shop: Shop) -> None:
    lines = TableSpec("lines", "lines", id="id", key="parcel", partitions=2)
    await shop.run(
        CREATE,
        "CREATE TABLE lines (id int PRIMARY KEY, parcel int REFERENCES parcels ON DELETE CASCADE ON UPDATE CASCADE)",
    )
    await shop.open(SHOP, lines)
    await shop.run(
        "INSERT INTO parcels VALUES (1, 'ann', 'x')", "INSERT INTO lines VALUES (10, 1), (11, 1)",
        "UPDATE parcels SET nr = 5", "DELETE FROM parcels",
    )  # fmt: skip
    assert [(kind, id) for kind, id, _ in await shop.short()] == [
        ("put", "1"), ("delete", "1"), ("put", "5"), ("delete", "5"),
    ]  # fmt: skip
    found = await shop.short(lines)
    assert [sorted(found[:2]), sorted(found[6:])] == [
        [("put", "10", "1"), ("put", "11", "1")], [("delete", "10", "5"), ("delete", "11", "5")],
    ]  # fmt: skip
    assert [one for one in found[2:6] if one[1] == "10"] == [("delete", "10", "1"), ("put", "10", "5")]


AGAIN = """
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    CASE NEW.note
        WHEN 'note' THEN UPDATE parcels SET note = 'again' WHERE nr = NEW.nr;
        WHEN 'owner' THEN UPDATE parcels SET note = 'again', owner = 'eve' WHERE nr = NEW.nr;
        WHEN 'nr' THEN UPDATE parcels SET note = 'again', nr = NEW.nr + 100 WHERE nr = NEW.nr;
        WHEN 'gone' THEN DELETE FROM parcels WHERE nr = NEW.nr;
        WHEN 'more' THEN INSERT INTO parcels VALUES (NEW.nr + 1, NEW.owner, 'note');
        ELSE
    END CASE;
    RETURN NULL;
END $$;
CREATE TRIGGER aa AFTER INSERT OR UPDATE ON parcels FOR EACH ROW EXECUTE FUNCTION again();
CREATE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF OLD.note = 'back' THEN INSERT INTO parcels VALUES (OLD.nr, OLD.owner, 'it is'); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER bb AFTER DELETE ON parcels FOR EACH ROW EXECUTE FUNCTION back();
"""


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    "statements",
    [
        ["INSERT INTO parcels VALUES (1, 'ann', 'note'), (2, 'ann', 'x')"],
        ["INSERT INTO parcels VALUES (1, 'ann', 'owner')"],
        ["INSERT INTO parcels VALUES (1, 'ann', 'nr')"],
        ["INSERT INTO parcels VALUES (1, 'ann', 'gone'), (2, 'ann', 'more')"],
        ["INSERT INTO parcels VALUES (1, 'ann', 'x')", "UPDATE parcels SET owner = 'bob', note = 'owner'"],
        ["INSERT INTO parcels VALUES (1, 'ann', 'x')", "UPDATE parcels SET note = 'gone'"],
        ["INSERT INTO parcels VALUES (1, 'ann', 'back')", "DELETE FROM parcels"],
        ["BEGIN", "INSERT INTO parcels VALUES (1, 'a', 'note')", "INSERT INTO parcels VALUES (2, 'a', 'x')", "COMMIT"],
    ],
)
async def test_triggers_that_write_the_table_again(shop: Shop, before: bool, statements: list[str]) -> None:
    """The last that comes of each row is what is in the table, under the key that it has."""
    spec = TableSpec("parcels", "parcels", id="nr", key="owner", partitions=4, before=before)
    await shop.run(CREATE, AGAIN)
    await shop.open(spec)
    await shop.run(*statements)
    last = {(change.document, change.key): change for change in await shop.changes(spec)}
    there = {(f"{row[0]}", row[1]): row[2] for row in await shop.link.fetch("SELECT * FROM parcels")}
    assert {place: body(change)["note"] for place, change in last.items() if change.kind == "put"} == there


async def test_without_such_triggers_nothing_comes_twice(parcels: Shop) -> None:
    await parcels.run(AGAIN, "INSERT INTO parcels VALUES (1, 'ann', 'note')")
    await parcels.changes()
    await parcels.run("BEGIN", "UPDATE parcels SET note = 'x'", "INSERT INTO parcels VALUES (2, 'ann', 'x')", "COMMIT")
    assert await parcels.short() == [("put", "1", "ann"), ("put", "2", "ann")]


async def test_cascades_within_a_table(shop: Shop) -> None:
    tree = TableSpec("tree", "tree", id="id", key="id", partitions=2)
    await shop.run(
        "CREATE TABLE tree (id int PRIMARY KEY, above int REFERENCES tree ON UPDATE CASCADE ON DELETE CASCADE)"
    )
    await shop.open(tree)
    await shop.run(
        "INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2), (4, 3)",
        "UPDATE tree SET id = id + 10",
        "DELETE FROM tree WHERE id = 13",
    )
    last = {change.document: change for change in await shop.changes(tree)}
    assert {id: body(change)["above"] for id, change in last.items() if change.kind == "put"} == {"11": None, "12": 11}


# --- columns and values -----------------------------------------------------------------------------------------


async def test_values_are_faithful(shop: Shop) -> None:
    spec = TableSpec("odd", "odd", id="id", key="k", partitions=2)
    await shop.run(
        "CREATE TABLE odd (id uuid PRIMARY KEY, k numeric, at timestamptz, b bytea, tags text[], j jsonb, f float8,"
        " d date, flag bool, big bigint, js json, twice numeric GENERATED ALWAYS AS (k * 2) STORED)"
    )
    await shop.open(spec)
    await shop.run(
        "SET timezone = 'Asia/Tokyo'",
        "INSERT INTO odd (id, k, at, b, tags, j, f, d, flag, big, js) VALUES ('00000000-0000-0000-0000-00000000000A',"
        " 12345678901234567890.123456789, '2024-02-29 12:00:00+00', '\\x00ff', '{a,NULL,\"b c\"}',"
        " '{\"x\": [1, null]}', 'NaN', '2024-02-29', true, 9223372036854775807, '{\"a\": 1.0}')",
    )
    (change,) = await shop.changes(spec)
    assert (change.document, change.key) == ("00000000-0000-0000-0000-00000000000a", "12345678901234567890.123456789")
    assert change.body is not None
    assert b'"k": 12345678901234567890.123456789' in change.body
    assert b'"twice": 24691357802469135780.246913578' in change.body
    found = body(change)
    at = found.pop("at")
    assert at == "2024-02-29T21:00:00+09:00"
    del found["k"], found["twice"]
    assert found == {
        "id": "00000000-0000-0000-0000-00000000000a", "b": "\\x00ff", "tags": ["a", None, "b c"],
        "j": {"x": [1, None]}, "f": "NaN", "d": "2024-02-29", "flag": True, "big": 9223372036854775807,
        "js": {"a": 1.0},
    }  # fmt: skip


async def test_columns_come_go_and_change_while_it_runs(parcels: Shop) -> None:
    await parcels.run(
        "INSERT INTO parcels VALUES (1, 'ann', 'x')",
        "ALTER TABLE parcels ADD COLUMN weight numeric DEFAULT 2.5",
        "UPDATE parcels SET note = 'y'",
        "ALTER TABLE parcels DROP COLUMN note",
        "UPDATE parcels SET weight = 3",
        "ALTER TABLE parcels ALTER COLUMN weight TYPE text",
        "UPDATE parcels SET weight = 'heavy'",
        "ALTER TABLE parcels RENAME COLUMN weight TO mass",
        "UPDATE parcels SET mass = 'light'",
    )
    assert [body(change) for change in await parcels.changes()] == [
        {"nr": 1, "owner": "ann", "note": "x"},
        {"nr": 1, "owner": "ann", "note": "y", "weight": 2.5},
        {"nr": 1, "owner": "ann", "weight": 3},
        {"nr": 1, "owner": "ann", "weight": "heavy"},
        {"nr": 1, "owner": "ann", "mass": "light"},
    ]


@pytest.mark.parametrize(
    ("table", "sql", "id", "key"),
    [
        ("public.orders", "public.orders", "id", "k"),
        ("user", '"user"', "order", "select"),
        ('"Old ""Orders"""', '"Old ""Orders"""', "Nr", "to whom"),
        ('"Größe %s"', '"Größe %s"', "%I", "schlüssel 100%"),
        ('"it\'s"', '"it\'s"', "i'd", 'k"ey'),
        ('s1."T$$"', 's1."T$$"', "$1", "back\\slash"),
        ('"' + "t" * 63 + '"', '"' + "t" * 63 + '"', "i" * 63, "k" * 63),
    ],
)
async def test_odd_names(shop: Shop, table: str, sql: str, id: str, key: str) -> None:
    id_sql, key_sql = ('"' + name.replace('"', '""') + '"' for name in (id, key))
    spec = TableSpec('Größe %s "it\'s" ' + "n" * 60, table, id=id, key=key, partitions=2, before=True)
    await shop.run(
        "CREATE SCHEMA s1",
        f"CREATE TABLE {sql} ({id_sql} text PRIMARY KEY, {key_sql} text)",
        f"INSERT INTO {sql} VALUES ('old', 'k')",
    )
    await shop.open(spec)
    begin = {name: await shop.database.feed(spec).start(name, "beginning") for name in ("0", "1")}
    await shop.run(
        f"INSERT INTO {sql} VALUES ('a', 'k')", f"UPDATE {sql} SET {key_sql} = 'l' WHERE {id_sql} = 'a'",
        f"DELETE FROM {sql} WHERE {id_sql} = 'a'", f"TRUNCATE {sql}",
    )  # fmt: skip
    await shop.open(spec)
    assert await shop.short(spec) == [
        ("put", "a", "k"), ("delete", "a", "k"), ("put", "a", "l"), ("delete", "a", "l"), ("delete", "old", "k"),
    ]  # fmt: skip
    await shop.run(f"INSERT INTO {sql} VALUES ('z', 'k')")
    found = [change.document for change in await shop.read_on(begin, spec)]
    assert sorted(found) == ["a", "a", "a", "a", "old", "z"]
