"""The URL of a PostgreSQL database, and how to connect to it.

`postgresql://user@host:5432/name?sslmode=verify-full` as libpq and asyncpg read it: what is missing comes from `PG*`
variables. Three parameters are ours: `schema` (where our tables are, `tidemill` unless said), `pool` (how many
connections a process opens at most for its work, 8 unless said; two more keep leases and look for news), `pooler`
(`transaction`: PgBouncer in transaction mode stands between, so nothing may be kept in a connection).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from tidemill.errors import ConfigurationError

SCHEMA = "tidemill"
POOL = 8
LIBPQ = frozenset(
    [
        "host",
        "port",
        "dbname",
        "database",
        "user",
        "password",
        "passfile",
        "service",
        "servicefile",
        "sslmode",
        "sslcert",
        "sslkey",
        "sslrootcert",
        "sslcrl",
        "sslpassword",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "sslnegotiation",
        "target_session_attrs",
        "krbsrvname",
        "gsslib",
        "options",
        "application_name",
        "connect_timeout",
    ]
)
OURS = ("schema", "pool", "pooler")
EXAMPLE = "write postgresql://user@host:5432/database"


@dataclass(frozen=True, slots=True)
class Address:
    """A database to connect to. `dsn` is what the driver gets, `shown` what may stand in a log."""

    dsn: str
    shown: str
    schema: str = SCHEMA
    pool: int = POOL
    pooled: bool = False
    """Behind a pooler that gives each transaction another connection."""


def parse(url: str) -> Address:
    """Raises `ConfigurationError` with the part that does not fit; never with the password."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"the database URL does not fit: {error}; {EXAMPLE}") from None
    shown = f"postgresql {host}{f':{port}' if port else ''}{parts.path or '/'}".replace(" /", " (PGHOST)/")
    asked = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in asked.keys() - LIBPQ - set(OURS):
        near = get_close_matches(name, [*OURS, *LIBPQ], 1, 0.6)
        words = f"did you mean {near[0]}?" if near else f"ours are {', '.join(OURS)}"
        raise ConfigurationError(f"{shown}: there is no parameter {name!r} ({words})")
    schema, pool, pooler = (asked.pop(name, "") for name in OURS)
    asked.pop("application_name", None)  # our connections are named by what they are for
    asked.pop("connect_timeout", None)  # each has a limit of ours
    rest = urlencode(asked, quote_via=quote, safe="/")
    dsn = urlunsplit(("postgresql", parts.netloc, parts.path, rest, ""))
    return Address(dsn, shown, _schema(shown, schema), _pool(shown, pool), _pooled(shown, pooler))


def _schema(shown: str, said: str) -> str:
    if said and not re.fullmatch(r"[a-z_][a-z0-9_]{0,39}", said):
        raise ConfigurationError(f"{shown}: schema={said!r}: write small letters, digits and _, at most 40")
    return said or SCHEMA


def _pool(shown: str, said: str) -> int:
    if said and not (said.isdecimal() and 1 <= int(said) <= 100):
        raise ConfigurationError(f"{shown}: pool={said!r}: write a whole number from 1 to 100")
    return int(said) if said else POOL


def _pooled(shown: str, said: str) -> bool:
    if said not in ("", "transaction", "session"):
        raise ConfigurationError(f"{shown}: pooler={said!r}: write transaction or session")
    return said == "transaction"
