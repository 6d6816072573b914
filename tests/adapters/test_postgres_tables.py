"""Tables under PostgreSQL that are captured: trees of tables, who may write, and what comes and goes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from tests.adapters.postgres_load import connected, opened
from tests.adapters.postgres_shop import CREATE, SHOP, Shop, body, shop_at
from tidemill.adapters.postgres import Postgres
from tidemill.engine.clock import SystemClock
from tidemill.errors import ConfigurationError, Unavailable
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


# --- trees of tables --------------------------------------------------------------------------------------------

PARTED = [
    "CREATE TABLE parcels (nr int, owner text, note text, PRIMARY KEY (nr)) PARTITION BY RANGE (nr)",
    "CREATE TABLE low PARTITION OF parcels FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE high PARTITION OF parcels FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (nr)",
    "CREATE TABLE high1 PARTITION OF high FOR VALUES FROM (100) TO (150)",
]


async def test_partitioned_tables(shop: Shop) -> None:
    await shop.run(*PARTED)
    await shop.open(SHOP)
    await shop.run(
        "INSERT INTO parcels VALUES (1, 'ann', 'x'), (101, 'bob', 'x')",
        "INSERT INTO low VALUES (2, 'ann', 'x')",
        "UPDATE high SET note = 'y'",
    )
    found = await shop.short()
    assert sorted(found[:2]) == [("put", "1", "ann"), ("put", "101", "bob")]
    assert found[2:] == [("put", "2", "ann"), ("put", "101", "bob")]


async def test_moves_between_partitions(shop: Shop) -> None:
    await shop.run(*PARTED, "INSERT INTO parcels VALUES (1, 'ann', 'x'), (2, 'bob', 'x')")
    await shop.open(SHOP)
    await shop.run("UPDATE parcels SET nr = nr + 100 WHERE nr = 1")
    assert await shop.short() == [("delete", "1", "ann"), ("put", "101", "ann")]
    await shop.run("UPDATE parcels SET nr = nr + 1", "DELETE FROM parcels")
    found = await shop.short()
    assert sorted(found[:2]) == [("delete", "101", "ann"), ("delete", "2", "bob")]
    assert sorted(found[2:]) == sorted([
        ("put", "102", "ann"), ("put", "3", "bob"), ("delete", "102", "ann"), ("delete", "3", "bob")])  # fmt: skip


async def test_truncate_of_parent_and_member(shop: Shop) -> None:
    await shop.run(*PARTED, "INSERT INTO parcels SELECT n, 'o', '' FROM unnest(ARRAY[1, 2, 101]) n")
    await shop.open(SHOP)
    await shop.run("TRUNCATE high1")
    assert await shop.short() == [("delete", "101", "o")]
    await shop.run("INSERT INTO parcels VALUES (102, 'o', '')", "TRUNCATE parcels")
    assert sorted((await shop.short())[1:]) == [("delete", "1", "o"), ("delete", "102", "o"), ("delete", "2", "o")]


async def test_a_member_made_later_is_captured_after_the_next_open(shop: Shop) -> None:
    await shop.run(*PARTED)
    await shop.open(SHOP)
    await shop.run(
        "CREATE TABLE high2 PARTITION OF high FOR VALUES FROM (150) TO (200)",
        "INSERT INTO parcels VALUES (151, 'ann', 'by the parent')",
    )
    assert await shop.short() == [("put", "151", "ann")]
    await shop.open(SHOP)
    await shop.run("INSERT INTO high2 VALUES (152, 'ann', 'directly')", "TRUNCATE high2")
    found = await shop.short()
    assert found[0] == ("put", "152", "ann")
    assert sorted(found[1:]) == [("delete", "151", "ann"), ("delete", "152", "ann")]


async def test_a_member_that_leaves(shop: Shop) -> None:
    await shop.run(*PARTED)
    await shop.open(SHOP)
    await shop.run("ALTER TABLE parcels DETACH PARTITION low", "INSERT INTO low VALUES (1, 'ann', 'x')")
    await shop.open(SHOP)
    await shop.run("INSERT INTO low VALUES (2, 'ann', 'x')", "INSERT INTO parcels VALUES (101, 'bob', '')")
    assert await shop.short() == [("put", "1", "ann"), ("put", "101", "bob")]


async def test_another_table_of_the_same_name_for_us(parcels: Shop) -> None:
    await parcels.run(CREATE.replace("parcels", "letters"))
    await parcels.open(TableSpec("parcels", "letters", id="nr", key="owner", partitions=4))
    await parcels.run("INSERT INTO parcels VALUES (1, 'ann', 'x')", "INSERT INTO letters VALUES (2, 'ann', 'x')")
    assert await parcels.short() == [("put", "2", "ann")]


async def test_inherited_tables(shop: Shop) -> None:
    await shop.run(CREATE, "CREATE TABLE express (fee int, PRIMARY KEY (nr)) INHERITS (parcels)")
    await shop.open(SHOP)
    await shop.run(
        "INSERT INTO parcels VALUES (1, 'ann', 'x')", "INSERT INTO express VALUES (2, 'bob', 'x', 5)",
        "UPDATE parcels SET note = 'y'", "DELETE FROM parcels WHERE nr = 2", "TRUNCATE parcels",
    )  # fmt: skip
    found = await shop.changes()
    short = [(change.kind, change.document) for change in found]
    assert short[:2] == [("put", "1"), ("put", "2")]
    assert body(found[1]) == {"nr": 2, "owner": "bob", "note": "x", "fee": 5}
    assert (sorted(short[2:4]), short[4:]) == ([("put", "1"), ("put", "2")], [("delete", "2"), ("delete", "1")])


# --- who writes -------------------------------------------------------------------------------------------------


async def test_a_writer_needs_no_right_on_our_schema(parcels: Shop) -> None:
    await parcels.run(
        "DROP ROLE IF EXISTS clerk", "CREATE ROLE clerk LOGIN",
        "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON parcels TO clerk",
    )  # fmt: skip
    url = parcels.url.replace("postgres@", "clerk@")
    async with connected(url) as clerk:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await clerk.execute("SELECT FROM tidemill.source")
        for n in (1, 2):
            await clerk.execute(f"INSERT INTO parcels VALUES ({n}, 'ann', 'x')")
            await clerk.execute("UPDATE parcels SET owner = 'bob'")
            await clerk.execute("DELETE FROM parcels" if n == 1 else "TRUNCATE parcels")
    found = [(kind, id) for kind, id, _ in await parcels.short()]
    assert found == [(kind, id) for id in "12" for kind in ("put", "delete", "put", "delete")]
    await parcels.run("DROP OWNED BY clerk", "DROP ROLE clerk")


async def test_a_hostile_search_path(parcels: Shop) -> None:
    """Functions and tables that stand before the true ones are not called with our rights."""
    await parcels.run(
        "CREATE SCHEMA evil",
        "CREATE FUNCTION evil.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{}'::jsonb $$",
        "CREATE FUNCTION evil.nextval(regclass) RETURNS bigint LANGUAGE sql AS $$ SELECT 1::bigint $$",
        "CREATE FUNCTION evil.convert_to(text, name) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$",
        "CREATE TABLE evil.source (name text, era int, slot int)",
        "SET search_path = evil, pg_catalog, public",
        "INSERT INTO parcels VALUES (1, 'ann', 'x')",
        "UPDATE parcels SET owner = 'bob'",
        "TRUNCATE parcels",
    )
    assert await parcels.short() == [
        ("put", "1", "ann"), ("delete", "1", "ann"), ("put", "1", "bob"), ("delete", "1", "bob"),
    ]  # fmt: skip


# --- opening ----------------------------------------------------------------------------------------------------


async def test_a_table_that_was_made_anew_is_captured_at_the_next_open(parcels: Shop) -> None:
    await parcels.run("INSERT INTO parcels VALUES (1, 'ann', 'x')", "DROP TABLE parcels", CREATE)
    await parcels.open(SHOP)
    await parcels.run("INSERT INTO parcels VALUES (2, 'bob', 'x')")
    assert await parcels.short() == [("put", "1", "ann"), ("put", "2", "bob")]


async def test_another_key_is_captured_by_the_new_declaration(parcels: Shop) -> None:
    other = TableSpec("parcels", "parcels", id="nr", key="note", partitions=4, before=True)
    await parcels.run("INSERT INTO parcels VALUES (1, 'ann', 'x')")
    await parcels.open(other)
    await parcels.run("UPDATE parcels SET note = 'y'")
    assert await parcels.short() == [("put", "1", "ann"), ("delete", "1", "x"), ("put", "1", "y")]


async def test_two_schemas_capture_one_table(shop: Shop) -> None:
    await shop.run(CREATE)
    await shop.open(SHOP)
    async with AsyncExitStack() as stack:
        other = Shop(shop.url + "?schema=other", shop.link, stack)
        await other.open(SHOP)
        await shop.run("INSERT INTO parcels VALUES (1, 'ann', 'x')")
        await shop.open(SHOP)
        await other.open(SHOP)
        await shop.run("UPDATE parcels SET owner = 'bob'")
        wanted = [("put", "1", "ann"), ("delete", "1", "ann"), ("put", "1", "bob")]
        assert [await shop.short(), await other.short()] == [wanted, wanted]


async def test_two_sources_of_one_table_whose_names_begin_alike(shop: Shop) -> None:
    other = TableSpec("parcels_by_note", "parcels", id="nr", key="note", partitions=2)
    await shop.run(CREATE)
    await shop.open(other)
    await shop.open(SHOP)
    await shop.open(SHOP, other)
    await shop.run("INSERT INTO parcels VALUES (1, 'ann', 'x')")
    assert [await shop.short(), await shop.short(other)] == [[("put", "1", "ann")], [("put", "1", "x")]]


async def test_many_open_at_once(shop: Shop) -> None:
    await shop.run(CREATE)
    databases = [Postgres.from_url(shop.url, SystemClock()) for _ in range(6)]
    await asyncio.gather(*(database.open([SHOP], []) for database in databases))
    await shop.open(SHOP)
    await shop.run("INSERT INTO parcels VALUES (1, 'ann', 'x')")
    assert await shop.short() == [("put", "1", "ann")]
    await asyncio.gather(*(database.close() for database in databases))


async def test_open_while_a_writer_has_the_table(shop: Shop) -> None:
    """It is told what is in the way, soon, and who waits behind it is not held up for long."""
    await shop.run(CREATE)
    async with connected(shop.url) as writer:
        await writer.execute("BEGIN")
        await writer.execute("INSERT INTO parcels VALUES (1, 'ann', 'x')")
        with pytest.raises(Unavailable, match="parcels"):
            await asyncio.wait_for(shop.open(SHOP), 30)
        await writer.execute("COMMIT")
    await shop.open(SHOP)


async def test_a_table_that_is_captured_is_opened_beside_any_writer(parcels: Shop) -> None:
    async with connected(parcels.url) as writer:
        await writer.execute("BEGIN")
        await writer.execute("LOCK TABLE parcels IN SHARE ROW EXCLUSIVE MODE")
        async with asyncio.timeout(5), opened(parcels.url, SHOP):
            pass
        await writer.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (TableSpec("p", "parcel", "nr", "nr"), ["no table 'parcel'", "did you mean", "'parcels'"]),
        (TableSpec("p", "parcels", "nr", "ownr"), ["no column 'ownr'", "did you mean 'owner'"]),
        (TableSpec("p", "parcels", "Nr", "owner"), ["no column 'Nr'", "'nr'"]),
        (TableSpec("p", "shown", "nr", "nr"), ["'shown'", "view"]),
        (TableSpec("p", "loose", "nr", "nr"), ["'loose'", "no primary key"]),
        (TableSpec("p", "no such;table", "nr", "nr"), ["no table"]),
        (TableSpec("p", 'x"', "nr", "nr"), ["no table"]),
    ],
)
async def test_what_cannot_be_captured_is_told_in_a_line(shop: Shop, spec: TableSpec, words: list[str]) -> None:
    await shop.run(CREATE, "CREATE VIEW shown AS SELECT * FROM parcels", "CREATE TABLE loose (nr int)")
    with pytest.raises(ConfigurationError) as caught:
        await Postgres.from_url(shop.url, SystemClock()).open([spec], [])
    [problem] = caught.value.problems
    assert "\n" not in problem
    assert all(word in problem for word in words), problem


async def test_no_primary_key_but_a_unique_id(shop: Shop) -> None:
    await shop.run("CREATE TABLE parcels (nr int NOT NULL UNIQUE, owner text)", "INSERT INTO parcels VALUES (1, 'ann')")
    await shop.open(SHOP)
    await shop.run("UPDATE parcels SET owner = 'bob'")
    assert await shop.short() == [("delete", "1", "ann"), ("put", "1", "bob")]
