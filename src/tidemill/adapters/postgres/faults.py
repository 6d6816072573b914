"""The driver's errors as ours: what a person can mend, and what the next try may mend."""

from __future__ import annotations

import ssl

import asyncpg

from tidemill.errors import BackendFull, ConfigurationError, TooLarge, Unavailable, Unfit

LOGIN = (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)
MISSING = (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError)
TOO_LARGE = (asyncpg.ProgramLimitExceededError, asyncpg.StatementTooComplexError)
BAD_TEXT = (asyncpg.CharacterNotInRepertoireError, asyncpg.InvalidTextRepresentationError,
            asyncpg.UntranslatableCharacterError, asyncpg.DataError)  # fmt: skip
DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What the driver raises for reasons that lie outside the program."""


def translate(error: Exception, shown: str, *, opening: bool = False) -> Exception:
    """The error as ours; what is not the driver's comes back as it is.

    `opening`: a wrong password, database, right or certificate is a mistake of the configuration then, an outage later
    (passwords are rotated and roles changed while workers run).
    """
    if opening and (told := _mistake(error, shown)):
        return ConfigurationError(told)
    words = str(error) or type(error).__name__
    match error:
        case asyncpg.DiskFullError():
            return BackendFull(f"{shown}: no room left on the server's disk; nothing was written")
        case asyncpg.OutOfMemoryError() | asyncpg.ConfigurationLimitExceededError():
            return Unavailable(f"{shown}: {words}")
        case _ if isinstance(error, TOO_LARGE):
            return TooLarge(f"{shown}: {words}")
        case _ if isinstance(error, MISSING):
            return Unavailable(f"{shown}: {words}; run tidemill schema apply")
        case _ if isinstance(error, BAD_TEXT):
            return Unfit(f"{shown}: {words}")
        case _ if isinstance(error, DRIVER):
            return Unavailable(f"{shown}: {words}")
    return error


def _mistake(error: Exception, shown: str) -> str:
    """What a person must mend before it can work; empty for an outage."""
    match error:
        case asyncpg.InvalidCatalogNameError():
            return f"{shown}: {error}; create it (createdb) or name another in the URL"
        case _ if isinstance(error, LOGIN):
            return f"{shown}: the server refuses this login: {error}; check user, password and pg_hba.conf"
        case asyncpg.InsufficientPrivilegeError():
            return f"{shown}: {error}; let the schema's owner run: tidemill schema apply (it grants what workers need)"
        case asyncpg.ReadOnlySQLTransactionError():
            return f"{shown}: the server is a read-only standby; name the primary, or add target_session_attrs=primary"
        case asyncpg.TargetServerAttributeNotMatched():
            return f"{shown}: no server there has the attributes asked for: {error}"
        case ssl.SSLError():
            return f"{shown}: TLS: {error.reason or error}; check sslmode, sslrootcert and the host's name"
        case ConnectionError() if "SSL" in str(error):
            return f"{shown}: TLS: {error}; the server has none: turn it on there, or say sslmode=disable"
        case asyncpg.ClientConfigurationError():
            return f"{shown}: {error}"
        case FileNotFoundError():
            return f"{shown}: {error}; check sslrootcert, sslcert and sslkey"
    return ""
