"""The URL of a PostgreSQL database, and how to connect to it.

`postgresql://user@host:5432/name?sslmode=verify-full` as libpq and asyncpg read it: what is missing comes from `PG*`
variables. Three parameters are ours: `schema` (where our tables are, `tidemill` unless said), `pool` (how many
connections a process opens at most for its work, 8 unless said; three more keep leases and look for news), `pooler`
(`transaction` or `session`: PgBouncer stands between, and refuses settings that it does not know; in transaction mode
nothing may be kept in a connection).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit, urlunsplit

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
ATTRIBUTES = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile", "servicefile")
EXAMPLE = "write postgresql://user@host:5432/database"
ESCAPES = "in a user or password write @ as %40, / as %2F, ? as %3F, # as %23, : as %3A"


@dataclass(frozen=True, slots=True)
class Address:
    """A database to connect to. `dsn` is what the driver gets, `shown` what may stand in a log."""

    dsn: str
    shown: str
    schema: str = SCHEMA
    pool: int = POOL
    pooler: str = ""

    @property
    def pooled(self) -> bool:
        """Behind a pooler that gives each transaction another connection."""
        return self.pooler == "transaction"


def parse(url: str) -> Address:
    """Raises `ConfigurationError` with the part that does not fit; never with the password."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"the database URL does not fit: {error}; {EXAMPLE}") from None
    login, _, hosts = parts.netloc.rpartition("@")
    _check_hosts(parts, login, hosts)
    asked = _parameters(parts.query)
    if service := os.environ.get("PGSERVICE"):  # the driver reads it too late to find anything by it
        asked.setdefault("service", service)
    elsewhere = f"(service {asked['service']})" if "service" in asked else "(PGHOST)"
    shown = f"postgresql {unquote(hosts) or asked.get('host') or elsewhere}{parts.path or '/'}"
    for name in asked.keys() - LIBPQ - set(OURS):
        near = get_close_matches(name, [*OURS, *LIBPQ], 1, 0.6)
        words = f"did you mean {near[0]}?" if near else f"ours are {', '.join(OURS)}"
        raise ConfigurationError(f"{shown}: there is no parameter {name!r} ({words})")
    if (attributes := asked.get("target_session_attrs", "any")) not in ATTRIBUTES:
        raise ConfigurationError(f"{shown}: target_session_attrs={attributes}: write {', '.join(ATTRIBUTES)}")
    for name in FILES:
        if (file := asked.get(name)) and not Path(file).is_file():
            raise ConfigurationError(f"{shown}: {name}={file}: there is no such file")
    schema, pool, pooler = (asked.pop(name, "") for name in OURS)
    asked.pop("application_name", None)  # our connections are named by what they are for
    asked.pop("connect_timeout", None)  # each has a limit of ours
    rest = urlencode(asked, quote_via=quote, safe="/")
    # The driver takes the first @ for the end of the password, so the others are written as libpq wants them.
    netloc = f"{login.replace('@', '%40')}@{hosts}" if login else hosts
    dsn = urlunsplit(("postgresql", netloc, parts.path, rest, "")) if netloc or parts.path or rest else "postgresql:"
    return Address(dsn, shown, _schema(shown, schema), _pool(shown, pool), _pooler(shown, pooler))


def _check_hosts(parts: SplitResult, login: str, hosts: str) -> None:
    """A password with a letter that ends it is told without a word of it: what seems to be a host is a piece of it."""
    broken = "@" in parts.path or "@" in parts.fragment or (":" in hosts and "@" in parts.query)
    if broken and not login:
        raise ConfigurationError(f"the database URL does not fit: {ESCAPES}")
    if parts.fragment:
        raise ConfigurationError(f"the database URL does not fit: what does # stand for? {ESCAPES}")
    for host in hosts.split(","):
        port = re.fullmatch(r"(?:\[[^\]]*\]|[^:\[\]]*)(?::(.*))?", host, re.DOTALL)
        if port is None or (port[1] and not (port[1].isdecimal() and 0 < int(port[1]) < 65536)):
            said = f": {host!r}" if login else f" ({ESCAPES})"
            raise ConfigurationError(
                f"the database URL does not fit: a port is a number from 1 to 65535{said}; {EXAMPLE}"
            )


def _parameters(query: str) -> dict[str, str]:
    """As they stand: a + is a +, as for libpq."""
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def _schema(shown: str, said: str) -> str:
    if said and not re.fullmatch(r"[a-z_][a-z0-9_]{0,39}", said):
        raise ConfigurationError(f"{shown}: schema={said!r}: write small letters, digits and _, at most 40")
    if said.startswith("pg_") or said in ("public", "information_schema"):
        raise ConfigurationError(
            f"{shown}: schema={said!r}: Tidemill needs one of its own; leave it out, or say another"
        )
    return said or SCHEMA


def _pool(shown: str, said: str) -> int:
    if said and not (said.isdecimal() and 1 <= int(said) <= 100):
        raise ConfigurationError(f"{shown}: pool={said!r}: write a whole number from 1 to 100")
    return int(said) if said else POOL


def _pooler(shown: str, said: str) -> str:
    if said not in ("", "transaction", "session"):
        raise ConfigurationError(f"{shown}: pooler={said!r}: write transaction or session")
    return said
