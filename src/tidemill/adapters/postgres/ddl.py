"""What stands in the database: tables and functions that all parts share, and those of each feed.

Every statement may be run again. Names are those of `names`; nothing outside our schema is touched, but for the
triggers of captured tables.
"""

from __future__ import annotations

from collections.abc import Sequence

from tidemill.adapters.postgres.names import SLOTS, Names, literal, short
from tidemill.model import FORMAT, CollectionSpec, Source

FIRST_TICK = "'3:3:'"
"""A snapshot in which nothing has happened: no transaction of a user has a number below 3."""


def base(names: Names) -> list[str]:
    """What every database has."""
    s = names.schema
    return [
        f"CREATE SCHEMA IF NOT EXISTS {s}",
        # What was made, by which text, and the format of it all.
        f"CREATE TABLE IF NOT EXISTS {s}.made (item text PRIMARY KEY, digest text NOT NULL)",
        f"CREATE TABLE IF NOT EXISTS {s}.meta (name text PRIMARY KEY, value text NOT NULL)",
        f"INSERT INTO {s}.meta VALUES ('format', '{FORMAT}') ON CONFLICT DO NOTHING",
        f"INSERT INTO {s}.meta SELECT 'system', system_identifier::text FROM pg_control_system()"
        " ON CONFLICT DO NOTHING",
        # One number for every change, drawn under the lock of its row. CACHE 1: a cache would break the order.
        f"CREATE SEQUENCE IF NOT EXISTS {s}.change_seq CACHE 1",
        f"CREATE SEQUENCE IF NOT EXISTS {s}.message_seq CACHE 1",
        f"CREATE SEQUENCE IF NOT EXISTS {s}.version_seq CACHE 1",
        # Records of the store. Half of each page stays free, so that a swap needs no new entry in the index.
        f'CREATE TABLE IF NOT EXISTS {s}.record (key text COLLATE "C" PRIMARY KEY, version bigint NOT NULL,'
        " value json NOT NULL) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500,"
        " autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_cost_delay = 0)",
        # The feeds: into which child of its log each writes, and how far the rows a table had are in the log.
        f"CREATE TABLE IF NOT EXISTS {s}.source (name text PRIMARY KEY, kind text NOT NULL, partitions int NOT NULL,"
        " slot smallint NOT NULL DEFAULT 0, era int NOT NULL DEFAULT 1, switched timestamptz NOT NULL DEFAULT now(),"
        " table_name text, id_column text, key_column text, before boolean NOT NULL DEFAULT false,"
        " backfill jsonb, backfill_until jsonb, low bigint)",
        f"CREATE TABLE IF NOT EXISTS {s}.trimmed (source text, part int, cursor text NOT NULL,"
        " moved timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (source, part))",
        f"CREATE TABLE IF NOT EXISTS {s}.tick (id bigint PRIMARY KEY, seq bigint NOT NULL, era int NOT NULL,"
        " at timestamptz NOT NULL, timeline text NOT NULL, snapshot pg_snapshot NOT NULL, xact xid8 NOT NULL,"
        " waiting xid8[] NOT NULL)",
        f"INSERT INTO {s}.tick VALUES (1, 0, 1, 'epoch', '', {FIRST_TICK}, '2', '{{}}') ON CONFLICT DO NOTHING",
        # Dead letters of queues and feeds. `ord` of a feed's change has more than 64 bits.
        f'CREATE TABLE IF NOT EXISTS {s}.letter (source text COLLATE "C", id text COLLATE "C", key text,'
        " ord numeric NOT NULL, body bytea, attempts int NOT NULL, reason text NOT NULL, error text NOT NULL,"
        " at double precision NOT NULL, headers json NOT NULL, meta json NOT NULL, PRIMARY KEY (source, id))",
        f"CREATE INDEX IF NOT EXISTS letter_order ON {s}.letter (source, ord, id)",
        *functions(names),
    ]


def functions(names: Names) -> list[str]:
    s = names.schema
    return [
        # The partition of a key. PostgreSQL itself relies on this hash to find rows of hash-partitioned tables.
        f"CREATE OR REPLACE FUNCTION {s}.part(key text, partitions int) RETURNS int LANGUAGE sql IMMUTABLE"
        " PARALLEL SAFE AS $$ SELECT ((hashtextextended(key, 0) & 9223372036854775807) % partitions)::int $$",
        # A field of a document as a number (true is 1), or as text: what queries compare.
        f"CREATE OR REPLACE FUNCTION {s}.number(body json, field text[]) RETURNS numeric LANGUAGE sql IMMUTABLE"
        " PARALLEL SAFE AS $$ SELECT CASE json_typeof(body #> field) WHEN 'number' THEN (body #>> field)::numeric"
        " WHEN 'boolean' THEN (body #>> field)::boolean::int::numeric END $$",
        f"CREATE OR REPLACE FUNCTION {s}.word(body json, field text[]) RETURNS text LANGUAGE sql IMMUTABLE"
        " PARALLEL SAFE AS $$ SELECT CASE json_typeof(body #> field) WHEN 'string' THEN body #>> field END $$",
        tick_function(s),
        # What a process asks for many times a second: news of changes and messages, in one call.
        f"""
CREATE OR REPLACE FUNCTION {s}.look(known bigint, fresh boolean)
RETURNS TABLE (messages bigint, signals text, id bigint, seq bigint, era int, snapshot text, xact text)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM {s}.make_tick(fresh);
    RETURN QUERY
        SELECT m.last_value,
            (SELECT count(*) || '/' || coalesce(max(version), 0) FROM {s}.record
             WHERE key >= 'bell/' AND key < 'bell0' OR key >= 'control/' AND key < 'control0'),
            t.id, t.seq, t.era, t.snapshot::text, t.xact::text
        FROM {s}.message_seq m
        LEFT JOIN LATERAL (SELECT * FROM {s}.tick WHERE tick.id > known ORDER BY tick.id LIMIT 1000) t ON true;
END $$""",
    ]


def tick_function(s: str) -> str:
    """Writes a tick if there is news since the last one: a number was drawn for a change, or a transaction that was
    running when one was drawn has ended.

    First the number of the last change is read, then the tick's own transaction gets its number, then the snapshot
    is taken. So a change that the snapshot does not know either has a higher number, or its transaction, which had its
    number before the change had, began before ours: it is among the running ones. (A snapshot names the running below
    its xmax only, and that is one above the last transaction that *ended*; those from there up to our own were running
    too.) The other way round a transaction that begins between the two, and draws a low number, is neither.
    Ticks are made one at a time, so their order is that of their snapshots. Nobody waits for the disk: what relies on a
    tick is committed later and takes it along.
    The id is the time in milliseconds, so that an id forgotten in a crash does not come again; on another
    timeline, whose clock may be behind, ids go on an hour ahead.
    """
    return f"""
CREATE OR REPLACE FUNCTION {s}.make_tick(wait boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    last {s}.tick;
    drawn bigint;
    now_ms bigint;
    line text;
    own xid8;
    others xid8[];
BEGIN
    SELECT CASE WHEN is_called THEN last_value ELSE 0 END INTO drawn FROM {s}.change_seq;
    SELECT * INTO last FROM {s}.tick ORDER BY id DESC LIMIT 1;
    IF drawn = last.seq AND NOT EXISTS (
            SELECT FROM unnest(last.waiting) x WHERE pg_visible_in_snapshot(x, pg_current_snapshot())) THEN
        RETURN last.id;
    END IF;
    IF wait THEN
        PERFORM pg_advisory_xact_lock(hashtext('tidemill tick'), hashtext({literal(s)}));
    ELSIF last.at > clock_timestamp() - interval '2 ms'
            OR NOT pg_try_advisory_xact_lock(hashtext('tidemill tick'), hashtext({literal(s)})) THEN
        RETURN last.id;  -- somebody else is at it
    END IF;
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT CASE WHEN is_called THEN last_value ELSE 0 END INTO drawn FROM {s}.change_seq;
    own := pg_current_xact_id();
    SELECT * INTO last FROM {s}.tick ORDER BY id DESC LIMIT 1;
    line := left(pg_walfile_name(pg_current_wal_lsn()), 8);
    now_ms := (extract(epoch FROM clock_timestamp()) * 1000)::bigint
        + CASE WHEN last.timeline IN ('', line) THEN 0 ELSE 3600000 END;
    SELECT coalesce(array_agg(x), '{{}}') INTO others FROM (
        SELECT pg_snapshot_xip(pg_current_snapshot()) AS x UNION ALL
        SELECT n::text::xid8 FROM generate_series(pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
            own::text::bigint - 1) n) running
        WHERE drawn <> last.seq OR x = ANY (last.waiting);
    INSERT INTO {s}.tick VALUES (
        greatest(last.id + 1, now_ms), drawn, last.era, clock_timestamp(), line, pg_current_snapshot(), own, others)
        RETURNING id INTO now_ms;
    RETURN now_ms;
END $$"""


def feed(names: Names, source: Source) -> list[str]:
    """The log of a feed and its registration; a log has a few children that are written and emptied in turn."""
    log, name, s = names.log(source.name), literal(source.name), names.schema
    kind = type(source).__name__.removesuffix("Spec").lower()
    found = [
        f"INSERT INTO {s}.source (name, kind, partitions) VALUES ({name}, '{kind}', {source.partitions})"
        " ON CONFLICT DO NOTHING",
        # The transaction's number comes first, for defaults are evaluated in this order: were `seq` drawn before, a
        # tick between the two could count it as known.
        f"CREATE TABLE IF NOT EXISTS {log} (xid xid8 NOT NULL DEFAULT pg_current_xact_id(),"
        f" seq bigint NOT NULL DEFAULT nextval('{s}.change_seq'), at timestamptz NOT NULL DEFAULT clock_timestamp(),"
        " era int NOT NULL, part smallint NOT NULL, slot smallint NOT NULL,"
        " kind smallint NOT NULL,"  # see feed.KINDS
        " doc text NOT NULL, key text NOT NULL, body bytea, before bytea) PARTITION BY LIST (slot)",
    ]
    for slot in range(SLOTS):
        child = names.log_slot(source.name, slot)
        found += [
            f"CREATE TABLE IF NOT EXISTS {child} PARTITION OF {log} (PRIMARY KEY (seq)) FOR VALUES IN ({slot})"
            " WITH (autovacuum_vacuum_insert_scale_factor = 0.5, toast_tuple_target = 4096)",
            f"CREATE INDEX IF NOT EXISTS {names.quoted_bare(f'log_{short(source.name)}_{slot}_xid')} ON {child}"
            " (xid, seq)",
        ]
    return found


def documents(names: Names, collection: CollectionSpec) -> list[str]:
    """The documents of a collection, in their newest version; each declared field has two indexes (see documents)."""
    table = names.documents(collection.name)
    found = [
        f'CREATE TABLE IF NOT EXISTS {table} (id text COLLATE "C" PRIMARY KEY, key text COLLATE "C" NOT NULL,'
        " etag bigint NOT NULL, body json NOT NULL)",
        index(names, collection.name, "key", f"{table} (key, id)"),
    ]
    for field in collection.fields:
        number, word = field_sql(names, field)
        found += [
            index(names, collection.name, f"number of {field}", f"{table} ({number}, id)"),
            index(names, collection.name, f"word of {field}", f"{table} ({word}, id)"),
        ]
    return found


def field_sql(names: Names, field: str) -> tuple[str, str]:
    """A declared field as a number and as a word, as indexes and queries must both say it."""
    path = literal("{" + ",".join(f'"{step}"' for step in field.split(".")) + "}") + "::text[]"
    return f"{names.schema}.number(body, {path})", f'({names.schema}.word(body, {path}) COLLATE "C")'


def index(names: Names, collection: str, what: str, on: str) -> str:
    return f"CREATE INDEX IF NOT EXISTS {names.quoted_bare(short(f'document_{collection}_{what}'))} ON {on}"


def joined(statements: Sequence[str]) -> str:
    """As a script for psql."""
    return "".join(f"{statement.strip()};\n" for statement in statements)
