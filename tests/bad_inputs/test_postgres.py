"""The rows that need a PostgreSQL server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_inputs.postgres import POSTGRES, SHOP
from tests.bad_inputs.table import Row
from tests.bad_inputs.test_bad_inputs import told
from tests.servers import process
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres

COUNTED = "SELECT count(*) FROM pg_roles WHERE rolname = '{0}'"


@pytest.fixture
def base(postgres: Postgres, postgres_url: str) -> Iterator[str]:
    """The name of a fresh database; a role of the same name goes with it."""
    name = postgres_url.rpartition("/")[2]
    yield name
    if postgres.psql(COUNTED.format(name)) == "1":
        postgres.psql(f"SET default_transaction_read_only = off; DROP OWNED BY {name}", name)
        postgres.psql(f"DROP DATABASE {name} WITH (FORCE); DROP ROLE {name}")


@pytest.mark.parametrize("row", POSTGRES, ids=[row.what.replace(" ", "-") for row in POSTGRES])
def test_a_mistake_gets_one_clear_line(
    row: Row, postgres: Postgres, pgbouncer: PgBouncer, base: str, tmp_path: Path
) -> None:
    host, bouncer = f"127.0.0.1:{postgres.port}", f"127.0.0.1:{pgbouncer.port}"
    found = {
        "url": postgres.url(base),
        "host": host,
        "base": base,
        "shown": f"postgresql {host}/{base}",
        "bouncer": pgbouncer.url(base),
        "bouncer_shown": f"postgresql {bouncer}/{base}",
    }
    if row.sql:
        postgres.psql(row.sql.format(**found), base)
    assert told(row, tmp_path, found) == row.code


def test_a_disk_that_is_full(postgres: Postgres, tmp_path: Path) -> None:
    """A database on a small disk, which needs the right to mount one."""
    disk = postgres.folder / "disk"
    process.own(disk)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        process.own(disk / "space")
        postgres.psql(f"CREATE TABLESPACE small LOCATION '{disk}/space'")
        postgres.psql("CREATE DATABASE small TABLESPACE small")
        postgres.psql("SELECT 1", "small")  # the first connection writes a file of its own
        (disk / "rest").write_bytes(b"x" * (shutil.disk_usage(disk).free - 60_000))
        row = Row("a disk that is full", "schema apply --database {url}",
                  "postgresql 127.0.0.1:{port}/small: no room left on the server's disk; nothing was written", code=1,
                  files=SHOP)  # fmt: skip
        assert told(row, tmp_path, {"url": postgres.url("small"), "port": postgres.port}) == row.code
    finally:
        postgres.psql("DROP DATABASE IF EXISTS small WITH (FORCE)")
        postgres.psql("DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", str(disk)], check=True)
