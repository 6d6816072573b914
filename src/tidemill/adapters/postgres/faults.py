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
POOLED = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What the driver raises for reasons that lie outside the program."""


def translate(error: Exception, shown: str, *, opening: bool = False) -> Exception:
    """The error as ours; what is not the driver's comes back as it is.

    `opening`: a wrong password, database, right or certificate is a mistake of the configuration then, an outage later
    (passwords are rotated and roles changed while workers run).
    """
    if opening and (told := _mistake(error)):
        return ConfigurationError(f"{shown}: {told}")
    words = _words(error)
    match error:
        case asyncpg.DiskFullError():
            return BackendFull(f"{shown}: no room left on the server's disk; nothing was written")
        case asyncpg.TooManyConnectionsError():
            return Unavailable(f"{shown}: {words}; lower ?pool= in the URL, or raise max_connections")
        case asyncpg.OutOfMemoryError() | asyncpg.ConfigurationLimitExceededError():
            return Unavailable(f"{shown}: {words}")
        case _ if isinstance(error, TOO_LARGE):
            return TooLarge(f"{shown}: {words}")
        case _ if isinstance(error, MISSING):
            return Unavailable(f"{shown}: {words}; run tidemill schema apply")
        case _ if isinstance(error, POOLED):
            return Unavailable(f"{shown}: {words}; behind PgBouncer in transaction mode add pooler=transaction")
        case _ if isinstance(error, BAD_TEXT):
            return Unfit(f"{shown}: {words}")
        case _ if isinstance(error, DRIVER):
            return Unavailable(f"{shown}: {words}")
    return error


def _words(error: Exception) -> str:
    """What the driver says, in one line."""
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    if isinstance(error, FileNotFoundError):
        return "no server listens at that socket"
    return " ".join(str(error).split()) or type(error).__name__


def _mistake(error: Exception) -> str:
    """What a person must mend before it can work; empty for an outage."""
    words = _words(error)
    match error:
        case asyncpg.InvalidCatalogNameError():
            return f"{words}; create it (createdb) or name another in the URL"
        case _ if isinstance(error, LOGIN):
            return f"the server refuses this login: {words}; check user, password and pg_hba.conf"
        case asyncpg.InsufficientPrivilegeError():
            return (
                f"{words}; let the schema's owner run: tidemill schema apply (with --role it grants what workers need)"
            )
        case asyncpg.ReadOnlySQLTransactionError():
            return (
                "the server is a read-only standby, or default_transaction_read_only is on; name the primary, or add"
                " target_session_attrs=primary"
            )
        case asyncpg.TargetServerAttributeNotMatched():
            return f"no server there has the attributes asked for: {words}; check target_session_attrs and the hosts"
        case asyncpg.PostgresError() if "unsupported startup parameter" in words:
            return f"a pooler refuses this: {words}; add pooler=transaction to the URL (or pooler=session)"
        case asyncpg.InvalidParameterValueError() | asyncpg.CantChangeRuntimeParamError():
            return f"the server refuses a parameter of the URL: {words}"
        case asyncpg.UndefinedObjectError() if "configuration parameter" in words:
            return f"the server refuses a parameter of the URL: {words}"
        case ssl.SSLCertVerificationError():
            return f"TLS: the server's certificate does not fit: {error.verify_message}; {_CHECK}"
        case ssl.SSLError():
            return f"TLS: {error.reason or words}; {_CHECK}"
        case ConnectionError() if "SSL" in words:
            return f"TLS: {words}; the server has none: turn it on there, or say sslmode=disable"
        case asyncpg.ClientConfigurationError() | asyncpg.UnsupportedClientFeatureError():
            return words
        case KeyError() if "getpwuid" in words:
            return "which user? This process has none by name: write postgresql://user@host/database, or set PGUSER"
    return ""


_CHECK = "check sslmode, sslrootcert (the CA), sslcert, sslkey and the host's name"
