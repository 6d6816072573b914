"""What may be wrong with a PostgreSQL server, a URL of one and what is in it. `{url}` is a fresh database's, `{host}`
its host and port, `{shown}` how it stands in a line; `{bouncer}` a PgBouncer's before it."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bad_inputs.table import Row, app
from tidemill.adapters.postgres import Postgres
from tidemill.engine.clock import SystemClock
from tidemill.model import CollectionSpec, Source, TableSpec

SHOP = app(
    "orders = app.collection('orders', dict, id='number', partitions=2)",
    "q = app.queue('q', dict)",
    "@app.on_change(orders)",
    "async def bill(c: Change[dict]): ...",
)
MADE = (
    "CREATE SCHEMA tidemill; CREATE TABLE tidemill.made (item text, digest text);"
    "CREATE TABLE tidemill.meta (name text, value text); INSERT INTO tidemill.meta VALUES ('format', '{format}')"
)
ROLE = "CREATE ROLE {base} LOGIN"
AS_ROLE = "--database postgresql://{base}@{host}/{base}"
URL = "--database {url}"


def stock(options: str = "'stock', dict, id='sku'", takes: str = "stock") -> Mapping[str, str]:
    return app(f"t = app.table({options})", "@app.on_change(t)", f"async def {takes}(c: Change[dict]): ...")


def made(*sources: Source) -> str:
    """What a start with these declarations leaves."""
    script = Postgres.from_url("postgresql:", SystemClock()).schema_sql(sources, [])
    return script.replace("{", "{{").replace("}", "}}")


POSTGRES = (
    # --- the URL
    Row("a scheme that is misspelt", "run --database postgre://h/d", "postgre://h/d: no adapter for postgre: (did you"),
    Row("a parameter that is misspelt", "run --database postgresql://h/d?pol=3",
        "postgresql h/d: there is no parameter 'pol' (did you mean pool?)"),
    Row("a pool of no connections", "run --database postgresql://h/d?pool=0",
        "postgresql h/d: pool='0': write a whole number from 1 to 100"),
    Row("a schema's name that does not fit", "run --database postgresql://h/d?schema=My-Shop",
        "postgresql h/d: schema='My-Shop': write small letters, digits and _, at most 40"),
    Row("a schema that others use", "run --database postgresql://h/d?schema=public",
        "postgresql h/d: schema='public': Tidemill needs one of its own"),
    Row("a pooler's mode that is none", "run --database postgresql://h/d?pooler=statement",
        "postgresql h/d: pooler='statement': write transaction or session"),
    Row("a port of a server that is none", "run --database postgresql://me@h:many/d",
        "the database URL does not fit: a port is a number from 1 to 65535: 'h:many'"),
    Row("a password with a letter that ends it", "run --database postgresql://me:pa/ss@h/d",
        "the database URL does not fit: in a user or password write @ as %40, / as %2F"),
    Row("attributes that are none", "run --database postgresql://h/d?target_session_attrs=leader",
        "postgresql h/d: target_session_attrs=leader: write any, read-write,"),
    Row("a role's name that does not fit", "schema sql --role pg_worker", "--role 'pg_worker': write a name of"),
    Row("asyncpg is not installed", "run --database postgresql://h/d",
        "postgresql://h/d: postgresql: needs asyncpg: pip install 'tidemill[postgres]' or asyncpg",
        files={"asyncpg.py": "raise ModuleNotFoundError(name='asyncpg')"}),
    # --- the way there
    Row("a server's host that is not known", "status --database postgresql://nowhere.invalid/d",
        "postgresql nowhere.invalid/d: [Errno -", code=1),
    Row("a server's port that is closed", "status --database postgresql://127.0.0.1:1/d",
        "postgresql 127.0.0.1:1/d: [Errno 111] Connect call failed", code=1, env={"PGUSER": "me"}),
    Row("a start while the server is away", "run --database postgresql://me@127.0.0.1:1/d",
        "postgresql 127.0.0.1:1/d: [Errno 111] Connect call failed", code=1),
    Row("a socket that is not there", "status --database postgresql:///d?host=/nowhere",
        "postgresql /nowhere/d: no server listens at that socket", code=1),
    Row("a user that is not known", "run --database postgresql://nobody_here@{host}/{base}",
        '{shown}: the server refuses this login: role "nobody_here" does not exist; check user, password and pg_hba'),
    Row("a database that is not there", "run --database postgresql://postgres@{host}/nowhere",
        'postgresql {host}/nowhere: database "nowhere" does not exist; create it (createdb) or name another'),
    Row("TLS with a server that has none", f"run {URL}?sslmode=require",
        '{shown}: TLS: PostgreSQL server at "{host}" rejected SSL upgrade; the server has none: turn it on there'),
    Row("a mode of TLS that is none", f"run {URL}?sslmode=strict", "{shown}: `sslmode` parameter must be one of: dis"),
    Row("a CA that is not there", f"run {URL}?sslmode=verify-full&sslrootcert=ca.pem",
        "{shown}: sslrootcert=ca.pem: there is no such file"),
    Row("a CA that is none", f"run {URL}?sslmode=verify-full&sslrootcert=app.py", "{shown}: TLS: "),
    Row("a client's certificate that is not there", f"run {URL}?sslcert=me.pem&sslkey=me.key",
        "{shown}: sslcert=me.pem: there is no such file"),
    Row("a pooler that was not named", "run --database {bouncer}",
        "{bouncer_shown}: a pooler refuses this: unsupported startup parameter: jit; add pooler=transaction to"),
    Row("a server's setting that is none", f"run {URL}?options=-c%20wrk_mem=1",
        '{shown}: the server refuses a parameter of the URL: unrecognized configuration parameter "wrk_mem"'),
    Row("no connection left", f"status {AS_ROLE}",
        '{shown}: too many connections for role "{base}"; lower ?pool= in the URL, or raise max_connections', code=1,
        sql=f"{ROLE} CONNECTION LIMIT 0"),
    Row("a standby, or a database that is read-only", f"run {URL}",
        "{shown}: the server is a read-only standby, or default_transaction_read_only is on; name the primary, or add",
        sql="ALTER DATABASE {base} SET default_transaction_read_only = on"),
    Row("a standby where a primary is asked for", f"run {URL}?target_session_attrs=standby",
        "{shown}: no server there has the attributes asked for: "),
    # --- what is there
    Row("no right to make a schema", f"run {AS_ROLE}",
        "{shown}: permission denied for database {base}; let the schema's owner run: tidemill schema apply", sql=ROLE),
    Row("a schema that is not ours", f"run {URL}",
        'schema "tidemill" is there already and is not ours; name another with ?schema=',
        sql="CREATE SCHEMA tidemill; CREATE TABLE tidemill.theirs ()"),
    Row("a schema that a newer release made", f"run {URL}", 'schema "tidemill": written in format 99, this release',
        sql=MADE.replace("{format}", "99")),
    Row("a drop of what is not ours", f"schema drop --yes {URL}", 'schema "tidemill" is not ours (it has no table made',
        sql="CREATE SCHEMA tidemill; CREATE TABLE tidemill.theirs ()"),
    Row("a drop that nobody agreed to", f"schema drop {URL}", "nothing was dropped: add --yes",
        sql=MADE.replace("{format}", "1")),
    Row("a table that PostgreSQL does not have", f"run {URL}", "stock: there is no table 'stock'", files=stock()),
    Row("a table whose name is misspelt", f"schema apply {URL}",
        "stok: there is no table 'stok'; did you mean 'stock'?", files=stock("'stok', dict, id='sku'"),
        sql="CREATE TABLE stock (sku text PRIMARY KEY)"),
    Row("a view instead of a table", f"run {URL}", "stock: 'stock' is a view or a foreign table; name the table itself",
        files=stock(), sql="CREATE VIEW stock AS SELECT 1 AS sku"),
    Row("a table without a key", f"run {URL}",
        "stock: table 'stock' has no primary key, and 'sku' is not unique and NOT NULL; add one",
        files=stock(), sql="CREATE TABLE stock (sku text)"),
    Row("a column that is misspelt", f"run {URL}", "stock: table 'stock' has no column 'sku'; did you mean 'sku_no'?",
        files=stock(), sql="CREATE TABLE stock (sku_no text PRIMARY KEY)"),
    Row("a table of somebody else", f"run {AS_ROLE}",
        "{shown}: permission denied for table stock; let the schema's owner run: tidemill schema apply", files=stock(),
        sql=f"{ROLE}; GRANT CREATE ON DATABASE {{base}} TO {{base}}; CREATE TABLE stock (sku text PRIMARY KEY)"),
    Row("a role that this login may not make", f"schema apply --role other_{{base}} {AS_ROLE}",
        "--role other_{base}: permission denied to create role; run it as the owner of the schema and of captured",
        files=SHOP, sql=f"{ROLE}; GRANT CREATE ON DATABASE {{base}} TO {{base}}"),
    Row("a feed of other partitions", f"run {URL}",
        "orders: declared with partitions=2, but its feed was made with 3; declare 3 (keys would change their part",
        files=SHOP, sql=made(CollectionSpec("orders", 3))),
    Row("a key's column that was dropped later", f"run {URL}", "stock: table 'stock' has no column 'place'",
        files=stock("'stock', dict, id='sku', key='place'"),
        sql="CREATE TABLE stock (sku text PRIMARY KEY, place text);" + made(TableSpec("stock", "stock", "sku", "place"))
        + "ALTER TABLE stock DROP COLUMN place CASCADE"),
    Row("a place in a queue that is none", f"queue peek q {URL} --after 1/x", "--after '1/x' is no place in a queue",
        files=SHOP),
)  # fmt: skip
