"""The client's errors as ours: what a person can mend, and what the next try may mend."""

from __future__ import annotations

from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosHttpResponseError

from tidemill.adapters.azure.account import NO_IDENTITY
from tidemill.adapters.cosmos.address import Address
from tidemill.adapters.cosmos.wire import Throttled
from tidemill.errors import BackendFull, ConfigurationError, TidemillError, TooLarge, Unavailable, Unfit

DRIVER = (AzureError, OSError, TimeoutError, Throttled)
"""What the client raises for reasons that lie outside the program."""

USED_UP = "the throughput is used up (429); raise the RU/s of the container, or lower the load"

GONE = 410
SPLIT = (1002, 1007)
"""Sub-statuses of 410: the range is gone, a split is being completed."""


def translate(error: Exception, address: Address, *, opening: bool = False) -> Exception:
    """The error as ours; what is not the client's comes back as it is.

    `opening`: a wrong key or a missing database is a mistake of the configuration then, an outage later (keys are
    rotated and roles changed while workers run).
    """
    if isinstance(error, TidemillError) or not isinstance(error, DRIVER):
        return error
    if opening and (told := _mistake(error, address)):
        return ConfigurationError(f"{address.shown}: {told}")
    if isinstance(error, Throttled):
        return Unavailable(f"{address.shown}: {USED_UP} (the service asks to wait for {error.seconds:g} s)")
    words = f"{address.shown}: {_words(error, address)}"
    match status(error):
        case 413:
            return TooLarge(f"{address.shown}: the document is larger than Cosmos DB takes (2 MB with all its fields)")
        case 400 if "composite index" in str(error).lower():
            return ConfigurationError(
                f"{address.shown}: an order needs an index of two fields that this container does not have; add to the"
                " compositeIndexes of its indexing policy the ordered field and /id, both ascending and both descending"
            )
        case 400 if opening is False and _about_the_body(error):
            return Unfit(words)
        case 429:
            return Unavailable(f"{address.shown}: {USED_UP}")
        case 403 if _sub_status(error) == 1014:
            return BackendFull(f"{address.shown}: a logical partition has reached its 20 GB; nothing was written")
    return Unavailable(words)


def status(error: BaseException) -> int:
    """The HTTP status, 0 where there was no answer."""
    told = isinstance(error, CosmosHttpResponseError | CosmosBatchOperationError)
    return int(getattr(error, "status_code", 0) or 0) if told else 0


def moved(error: BaseException) -> bool:
    """The range of ids that was asked for is no longer there: it was split or merged."""
    return status(error) == GONE and _sub_status(error) in (0, *SPLIT)


def _sub_status(error: BaseException) -> int:
    return int(getattr(error, "sub_status", 0) or 0)


def _words(error: BaseException, address: Address) -> str:
    """What the service says, in one line; its diagnostics fill a page."""
    text = getattr(error, "http_error_message", None) or getattr(error, "message", None) or str(error)
    code = status(error)
    told = address.account.words(Exception(str(text).partition("ActivityId:")[0])).replace(address.key or "\0", "***")
    return f"{code}: {told}" if code and not told.startswith(str(code)) else told


def _about_the_body(error: BaseException) -> bool:
    words = str(error).lower()
    return "invalid" in words and ("json" in words or "'id'" in words or "partition key" in words)


def _refused(error: BaseException, address: Address) -> str:
    clock = "look at the clock of this machine"
    if "expired" in str(error).lower():
        return f"the account says that the token has expired; {clock}, and at the identity's login (az login)"
    if address.key:
        return f"the account refuses this key; copy it again, or {clock}"
    return f"the account refuses the token of this identity ({_words(error, address)}); is it of the account's tenant?"


def _mistake(error: BaseException, address: Address) -> str:
    """What a person must mend before it can work; empty for an outage."""
    if isinstance(error, ClientAuthenticationError) and not isinstance(error, CosmosHttpResponseError):
        return f"{NO_IDENTITY} ({_words(error, address)})"
    match status(error):
        case 401:
            return _refused(error, address)
        case 403 if _sub_status(error) in (0, 5300, 5301, 5302):
            told = "give it the role Cosmos DB Built-in Data Contributor (az cosmosdb sql role assignment create)"
            return f"the account forbids this ({_words(error, address)}); {told}, or allow this network"
        case 404:
            return (
                f"there is no database {address.database!r}, or no container for it; create it:"
                f" az cosmosdb sql database create --name {address.database} …"
            )
        case 400:
            return _words(error, address)
    return ""
