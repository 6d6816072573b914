"""Making, checking and dropping the schema on a PostgreSQL server, and the rights that workers are left with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.servers.postgres import Postgres as Server
from tidemill.adapters.postgres import Postgres, schema
from tidemill.adapters.postgres.names import Names
from tidemill.engine.clock import SystemClock
from tidemill.errors import ConfigurationError, FormatTooNew, Refused
from tidemill.model import (
    CollectionSpec,
    DeadLetter,
    Done,
    Message,
    Outcome,
    Piece,
    Put,
    QueueSpec,
    Record,
    Source,
    StreamSpec,
    Swap,
    TableSpec,
)

ORDERS = CollectionSpec("orders", 2, ("total",))
STOCK = TableSpec("stock", "stock", "sku", "place", 2)
JOBS = QueueSpec("jobs", dedup_window=1.0)
STREAM = StreamSpec.of("calls")
CALLS = QueueSpec("calls", key="number")
SOURCES: Sequence[Source] = (ORDERS, STOCK, STREAM)
MAKE_STOCK = "CREATE TABLE stock (sku text PRIMARY KEY, place text NOT NULL, n int);"


@pytest.fixture
def base(postgres: Server, postgres_url: str) -> str:
    """The name of a database with a table `stock` of three rows."""
    name = postgres_url.rpartition("/")[2]
    postgres.psql(f"{MAKE_STOCK} INSERT INTO stock SELECT n, n % 2, n FROM generate_series(1, 3) n", name)
    return name


def database(url: str) -> Postgres:
    return Postgres.from_url(url, SystemClock())


@asynccontextmanager
async def opened(url: str, sources: Sequence[Source] = SOURCES) -> AsyncIterator[Postgres]:
    found = database(url)
    await found.open(sources, [JOBS])
    try:
        yield found
    finally:
        await found.close()


def states(pieces: Sequence[Piece]) -> dict[str, str]:
    return {piece.name: piece.state for piece in pieces if piece.name != "server"}


def told(pieces: Sequence[Piece]) -> str:
    return "\n".join(f"{piece.name}: {piece.told}" for piece in pieces if piece.state == "problem")


async def read_all(found: Postgres, source: Source, count: int) -> list[Any]:
    feed = found.feed(source)
    cursors = {name: await feed.start(name, "beginning") for name in await feed.partitions()}
    changes: list[Any] = []
    async with asyncio.timeout(10):
        while len(changes) < count:
            for name, page in (await feed.read(cursors, 100, 0.5)).items():
                changes += page.changes  # type: ignore[union-attr]
                cursors[name] = page.cursor  # type: ignore[union-attr]
    await feed.trim(cursors, 1e9)
    await feed.lag(cursors)
    return changes


# --- the script ---------------------------------------------------------------------------------------------


async def test_after_the_script_a_start_finds_everything(postgres: Server, base: str, postgres_url: str) -> None:
    postgres.psql(database(postgres_url).schema_sql(SOURCES, [JOBS]), base)
    found = await database(postgres_url).schema_check(SOURCES, [JOBS])
    assert set(states(found).values()) == {"ok"}
    assert set(states(await database(postgres_url).schema_apply(SOURCES, [JOBS])).values()) == {"there"}


async def test_the_script_makes_just_what_a_start_makes(postgres: Server, base: str, postgres_url: str) -> None:
    shape = (
        "SELECT c.relkind, c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_class c LEFT JOIN"
        " pg_attribute a ON attrelid = c.oid AND attnum > 0 WHERE relnamespace = 'tidemill'::regnamespace ORDER BY 1,"
        " 2, attnum; SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'stock'::regclass ORDER BY 1;"
        " SELECT item, digest FROM tidemill.made ORDER BY 1; SELECT name, kind, partitions, slot, era, table_name,"
        " id_column, key_column, before FROM tidemill.source ORDER BY 1"
    )
    async with opened(postgres_url):
        pass
    started = postgres.psql(shape, base)
    await database(postgres_url).schema_drop()
    postgres.psql(database(postgres_url).schema_sql(SOURCES, [JOBS]), base)
    assert postgres.psql(shape, base) == started


async def test_the_script_may_be_run_again(postgres: Server, base: str, postgres_url: str) -> None:
    script = database(postgres_url).schema_sql(SOURCES, [JOBS], "again")
    postgres.psql(script, base)
    async with opened(postgres_url) as found:
        await found.queue(JOBS).send([Message("jobs", "1", b"{}")])
        postgres.psql(script, base)
        assert (await found.queue(JOBS).depth()).ready == 1
    assert set(states(await database(postgres_url).schema_check(SOURCES, [JOBS])).values()) == {"ok"}


async def test_names_of_any_letters(postgres: Server, base: str, postgres_url: str) -> None:
    odd = "\"Odd 100% 'it'\\x\""
    spec = TableSpec("odd", odd, 'the "id"', "the %", 2, before=True)
    make = f'CREATE TABLE {odd} ("the ""id""" text PRIMARY KEY, "the %" int) PARTITION BY HASH ("the ""id""");'
    postgres.psql(f'{make} CREATE TABLE "m\'1" PARTITION OF {odd} FOR VALUES WITH (MODULUS 1, REMAINDER 0)', base)
    role = "worker \"x\" 'y' %s"
    postgres.psql(database(postgres_url).schema_sql([spec], [], role), base)
    async with opened(postgres_url, [spec]) as found:
        postgres.psql(f"INSERT INTO {odd} VALUES ('a', 1); UPDATE {odd} SET \"the %\" = 2; TRUNCATE {odd}", base)
        assert [change.kind for change in await read_all(found, spec, 4)] == ["put", "delete", "put", "delete"]
    applied = await database(postgres_url).schema_apply([spec], [JOBS], role)
    assert states(applied) == {"base": "there", "table odd": "there", "queue jobs": "there",
                               f"triggers of {odd} for odd": "there", f"role {role}": "there"}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ("DROP TABLE stock", "there is no table stock; make it first"),
        ("CREATE SCHEMA tidemill; CREATE TABLE tidemill.theirs ()", "is there already and is not ours"),
    ],
)
async def test_the_script_refuses_what_a_start_refuses(
    postgres: Server, base: str, postgres_url: str, before: str, line: str
) -> None:
    postgres.psql(before, base)
    with pytest.raises(RuntimeError, match=line):
        postgres.psql(database(postgres_url).schema_sql(SOURCES, [JOBS]), base)
    assert postgres.psql("SELECT to_regclass('tidemill.record') IS NULL", base) == "t"


async def test_the_script_refuses_other_partitions_and_newer_formats(
    postgres: Server, base: str, postgres_url: str
) -> None:
    async with opened(postgres_url):
        pass
    script = database(postgres_url).schema_sql([CollectionSpec("orders", 3)], [])
    with pytest.raises(RuntimeError, match="another number of partitions"):
        postgres.psql(script, base)
    postgres.psql("UPDATE tidemill.meta SET value = '99' WHERE name = 'format'", base)
    with pytest.raises(RuntimeError, match="written by a newer release"):
        postgres.psql(database(postgres_url).schema_sql(SOURCES, []), base)


# --- the role -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["script", "apply"])
async def test_a_member_of_the_role_can_work_and_nothing_else(
    postgres: Server, base: str, postgres_url: str, by: str
) -> None:
    role, login = f"worker_{base}_{by}", f"login_{base}_{by}"
    if by == "script":
        postgres.psql(database(postgres_url).schema_sql(SOURCES, [JOBS], role), base)
    else:
        await database(postgres_url).schema_apply(SOURCES, [JOBS], role)
    postgres.psql(
        "REVOKE ALL ON SCHEMA public FROM PUBLIC; ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;"
        f" CREATE ROLE {login} LOGIN IN ROLE {role}",
        base,
    )
    url = postgres.url(base, login)
    assert told(await database(url).schema_check(SOURCES, [JOBS])) == ""
    async with opened(url) as found:
        await work(found)
        postgres.psql("INSERT INTO stock VALUES ('4', 'x', 1)", base)
        assert {change.document for change in await read_all(found, STOCK, 4)} == set("1234")
    emptied = "BEGIN; LOCK TABLE tidemill.log_stock_1 IN ACCESS EXCLUSIVE MODE; TRUNCATE tidemill.log_stock_1; COMMIT"
    postgres.psql(f"SET ROLE {login}; {emptied}", base)
    for forbidden in (
        "UPDATE stock SET n = 1", "DELETE FROM stock", "TRUNCATE stock", "CREATE TABLE tidemill.mine ()",
        "UPDATE tidemill.made SET digest = ''", "DROP TABLE tidemill.record", "TRUNCATE tidemill.record",
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=r"permission denied|must be owner"):
            postgres.psql(f"SET ROLE {login}; {forbidden}", base)
    postgres.psql(f"DROP OWNED BY {role}; DROP ROLE {login}, {role}", base)


async def work(found: Postgres) -> None:
    """A little of everything."""
    [made] = await found.store().swap([Swap("a", None, {"x": 1})])
    assert isinstance(made, Record)
    await found.store().swap([Swap("a", made.version, None)])
    await found.documents(ORDERS).write([Put("orders", str(n), "k", b'{"total": 1}') for n in range(5)])
    assert len(await read_all(found, ORDERS, 5)) == 5
    queue = found.queue(JOBS)
    await queue.send([Message("jobs", str(n), b"{}", dedup=f"d{n}") for n in range(3)])
    deliveries = await queue.receive("me", 2, 1.0)
    await queue.settle([Outcome(one, Done()) for one in deliveries])
    await queue.peek("", 10)
    await queue.purge()
    calls = found.queue(CALLS)
    await calls.send([Message("calls", str(n), b"{}", key="k", dedup=str(n)) for n in range(3)])
    await calls.depth()
    assert len(await read_all(found, STREAM, 3)) == 3
    await found.dead_letters().put([DeadLetter("queue/jobs", "1", None, 1, b"{}", 1, "r", "e", 1.0, {}, {})])
    assert await found.dead_letters().release("queue/jobs", ["1"]) == 1


async def test_what_a_login_lacks_is_told(postgres: Server, base: str, postgres_url: str) -> None:
    await database(postgres_url).schema_apply(SOURCES, [JOBS])
    postgres.psql("CREATE ROLE nobody_here LOGIN", base)
    try:
        pieces = await database(postgres.url(base, "nobody_here")).schema_check(SOURCES, [JOBS])
        assert "rights: nobody_here has not USAGE on schema" in told(pieces)
        assert "tidemill schema apply --role NAME, then GRANT NAME TO nobody_here" in told(pieces)
    finally:
        postgres.psql("DROP ROLE nobody_here", base)


@pytest.mark.parametrize("role", ["", "pg_worker", "x" * 64])
def test_a_role_that_cannot_be(role: str) -> None:
    if role:
        with pytest.raises(ConfigurationError, match="write a name of at most 63"):
            database("postgresql:").schema_sql([], [], role)
    else:
        assert 'CREATE ROLE "tidemill_worker" NOLOGIN' in database("postgresql:").schema_sql([], [], role)


# --- apply --------------------------------------------------------------------------------------------------


async def test_apply_tells_what_it_did(postgres: Server, base: str, postgres_url: str) -> None:
    found = database(postgres_url)
    assert states(await found.schema_apply([ORDERS], [])) == {"base": "made", "collection orders": "made"}
    indexed = CollectionSpec("orders", 2, ("total", "customer"))
    assert states(await found.schema_apply([indexed, STOCK], [])) == {
        "base": "there", "collection orders": "changed", "table stock": "made", "triggers of stock": "made",
    }  # fmt: skip
    postgres.psql('DROP TRIGGER "tidemill_stock_insert" ON stock', base)
    assert states(await found.schema_apply([STOCK], []))["triggers of stock"] == "changed"
    assert states(await found.schema_apply([STOCK], []))["triggers of stock"] == "there"


async def test_several_at_once(postgres: Server, base: str, postgres_url: str) -> None:
    runs = await asyncio.gather(
        *(database(postgres_url).schema_apply(SOURCES, [JOBS], f"worker_{base}") for _ in range(5)),
    )
    assert sorted(states(run)["base"] for run in runs) == ["made", *["there"] * 4]
    postgres.psql(f"DROP OWNED BY worker_{base}; DROP ROLE worker_{base}", base)


# --- check --------------------------------------------------------------------------------------------------


async def test_check_tells_what_is_missing_and_changes_nothing(postgres: Server, base: str, postgres_url: str) -> None:
    before = await database(postgres_url).schema_check(SOURCES, [JOBS])
    assert set(states(before).values()) == {"problem", "ok"}
    assert "base: missing: run tidemill schema apply" in told(before)
    assert postgres.psql("SELECT to_regnamespace('tidemill') IS NULL", base) == "t"


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        ("UPDATE tidemill.made SET digest = 'x' WHERE item = 'collection orders'", "collection orders: differs: run"),
        ("DROP TRIGGER tidemill_stock_update ON stock", "triggers of stock: differ: run tidemill schema apply"),
        ("ALTER TABLE stock DISABLE TRIGGER ALL", "triggers of stock: disabled, its changes are not seen: ALTER TABLE"),
        ("DROP TABLE stock", "table stock: stock: there is no table 'stock'"),
        ("ALTER TABLE stock DROP COLUMN place CASCADE", "table stock: stock: table 'stock' has no column 'place'"),
        ("UPDATE tidemill.source SET partitions = 7 WHERE name = 'orders'", "orders: declared with partitions=2, but"),
        ("UPDATE tidemill.meta SET value = '99' WHERE name = 'format'", 'format: schema "tidemill": written in for'),
    ],
)
async def test_check_finds_harm(postgres: Server, base: str, postgres_url: str, harm: str, line: str) -> None:
    await database(postgres_url).schema_apply(SOURCES, [JOBS])
    postgres.psql(harm, base)
    assert line in told(await database(postgres_url).schema_check(SOURCES, [JOBS]))


async def test_check_knows_partitions_that_came_later(postgres: Server, base: str, postgres_url: str) -> None:
    parts = TableSpec("parts", "parts", "id", "id", 2)
    postgres.psql("CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);"
                  "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)", base)  # fmt: skip
    await database(postgres_url).schema_apply([parts], [])
    postgres.psql("CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20)", base)
    pieces = await database(postgres_url).schema_check([parts], [])
    assert told(pieces) == "triggers of parts_2: missing, its changes are not seen: run tidemill schema apply"


async def test_check_counts_connections(postgres_url: str) -> None:
    pieces = await database(f"{postgres_url}?pool=50").schema_check([], [])
    [seen] = [piece for piece in pieces if piece.name == "connections"]
    assert (seen.state, seen.told.split(";")[0]) == (
        "warning",
        "at most 53 by each process, of 57 that the server gives",
    )


class OldServer:
    """A connection to a server that cannot be started here."""

    async def fetchval(self, sql: str, *args: object) -> object:
        return "120022" if "server_version_num" in sql else None

    async def fetchrow(self, sql: str, *args: object) -> object:
        return 120022, False, "me", 97, None, None


async def test_a_server_that_is_too_old() -> None:
    link: Any = OldServer()
    with pytest.raises(ConfigurationError, match="PostgreSQL 12 is too old: 13 or newer is needed"):
        await schema.missing(link, Names("tidemill"), [])
    from tidemill.adapters.postgres import inspection
    from tidemill.adapters.postgres.address import parse

    [piece] = [piece async for piece in inspection.look(link, parse("postgresql:"), Names("tidemill"), [], [])]
    assert (piece.state, piece.told) == ("problem", "PostgreSQL 12.22 is too old: 13 or newer is needed")


# --- drop ---------------------------------------------------------------------------------------------------


async def test_drop_takes_all_and_only_what_is_ours(postgres: Server, base: str, postgres_url: str) -> None:
    postgres.psql("CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
                  "CREATE TRIGGER theirs AFTER INSERT ON stock EXECUTE FUNCTION theirs()", base)  # fmt: skip
    async with opened(postgres_url) as found:
        await found.documents(ORDERS).write([Put("orders", "1", "k", b"{}")])
        await found.queue(JOBS).send([Message("jobs", "1", b"{}")])
        await found.queue(CALLS).send([Message("calls", "1", b"{}", key="k")])
        contents = await database(postgres_url).schema_contents()
        assert contents.counts == {"documents": 1, "changes": 1, "messages": 2, "dead letters": 0, "records": 0}
        assert (contents.triggers, contents.foreign, contents.users > 0) == (["stock"], [], True)
    await database(postgres_url).schema_drop()
    await database(postgres_url).schema_drop()
    assert not (await database(postgres_url).schema_contents()).there
    assert postgres.psql("SELECT tgname FROM pg_trigger", base) == "theirs"
    assert postgres.psql("SELECT count(*) FROM stock", base) == "3"
    async with opened(postgres_url):
        pass


@pytest.mark.parametrize(
    ("thing", "line"),
    [
        ("CREATE TABLE tidemill.theirs ()", "holds what is not ours: table tidemill.theirs"),
        ("CREATE VIEW tidemill.v AS SELECT 1", "view tidemill.v"),
        ("CREATE FUNCTION tidemill.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", r"function tidemill.f\(\)"),
        ("CREATE DOMAIN tidemill.d AS int", "type tidemill.d"),
        ("CREATE VIEW v AS SELECT * FROM tidemill.record", "something outside schema .* needs it: view v depends on"),
    ],
)
async def test_drop_refuses_what_is_not_ours(
    postgres: Server, base: str, postgres_url: str, thing: str, line: str
) -> None:
    await database(postgres_url).schema_apply(SOURCES, [JOBS])
    postgres.psql(thing, base)
    with pytest.raises(Refused, match=line):
        await database(postgres_url).schema_drop()
    assert set(states(await database(postgres_url).schema_check(SOURCES, [JOBS])).values()) == {"ok"}


async def test_drop_leaves_a_schema_that_is_not_ours(postgres: Server, base: str, postgres_url: str) -> None:
    postgres.psql("CREATE SCHEMA tidemill; CREATE TABLE tidemill.theirs ()", base)
    with pytest.raises(ConfigurationError, match="is not ours"):
        await database(postgres_url).schema_drop()


async def test_drop_does_not_wait_for_ever(postgres_url: str, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.adapters.postgres.removal.PATIENCE", "200ms")
    await database(postgres_url).schema_apply(SOURCES, [JOBS])
    link = await asyncpg.connect(postgres_url)
    try:
        async with link.transaction():
            await link.execute("LOCK TABLE tidemill.tick IN ACCESS SHARE MODE")
            with pytest.raises(Refused, match="stop the workers first"):
                await database(postgres_url).schema_drop()
    finally:
        await link.close()


async def test_a_schema_of_another_name(postgres: Server, base: str, postgres_url: str) -> None:
    url = f"{postgres_url}?schema=shop_2"
    postgres.psql(database(url).schema_sql([ORDERS], [JOBS]), base)
    async with opened(url, [ORDERS]) as found:
        await found.documents(ORDERS).write([Put("orders", "1", "k", b"{}")])
        assert len(await read_all(found, ORDERS, 1)) == 1
    await database(url).schema_drop()
    assert postgres.psql("SELECT nspname FROM pg_namespace WHERE nspname IN ('tidemill', 'shop_2')", base) == ""


async def test_a_newer_format_is_left_alone(postgres: Server, base: str, postgres_url: str) -> None:
    await database(postgres_url).schema_apply(SOURCES, [JOBS])
    postgres.psql("UPDATE tidemill.meta SET value = '99' WHERE name = 'format'", base)
    for attempt in (database(postgres_url).schema_apply(SOURCES, [JOBS]), database(postgres_url).schema_drop()):
        with pytest.raises(FormatTooNew):
            await attempt


# --- one table, captured more than once ---------------------------------------------------------------------


async def test_two_schemas_capture_one_table(postgres: Server, base: str, postgres_url: str) -> None:
    other = f"{postgres_url}?schema=shop_2"
    async with opened(postgres_url) as one, opened(other) as two:
        assert told(await database(other).schema_check(SOURCES, [JOBS])) == ""
        for found in (one, two):
            [cursor] = {await found.feed(STOCK).start("0", "now")}
            assert cursor
        postgres.psql("INSERT INTO stock VALUES ('4', 'x', 1)", base)
        for schema_ in ("tidemill", "shop_2"):
            assert postgres.psql(f"SELECT doc FROM {schema_}.log_stock", base) == "4"
    await database(other).schema_drop()
    assert told(await database(postgres_url).schema_check(SOURCES, [JOBS])) == ""


async def test_two_feeds_of_one_table(postgres: Server, base: str, postgres_url: str) -> None:
    audit = TableSpec("stock_audit", "stock", "sku", "sku", 2)
    for _ in range(2):
        applied = states(await database(postgres_url).schema_apply([STOCK, audit], []))
    assert set(applied.values()) == {"there"}
    postgres.psql("INSERT INTO stock VALUES ('4', 'x', 1)", base)
    for name in ("stock", "stock_audit"):
        assert postgres.psql(f"SELECT doc FROM tidemill.log_{name}", base) == "4"
