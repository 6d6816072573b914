"""The URL of a database in Cosmos DB: `cosmos://account/database?option=value`.

`account` is the name of the account or a host with a port; who we are is told in `adapters.azure.account`. Options:
`store` (the container of leases and other records, `tidemill` unless said), `mode` (`latest`, or `all`: all versions
and deletes), `regions` (preferred ones, by comma), `poll` (seconds between two reads of a range that has nothing new,
at most), `create` (`no`: containers must be there already), `tls` (`no`, for a stand-in on this machine), `leases`
(`dotnet`: those of .NET's change feed processor, in the container `store`), `processors` (`worker:Name` by comma: what
.NET calls the processor of a worker; its own name unless said).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tidemill.adapters.azure.account import Account, parse
from tidemill.errors import ConfigurationError

VARIABLE = "AZURE_COSMOS_CONNECTION_STRING"
OPTIONS = ("store", "mode", "regions", "poll", "create", "tls", "leases", "processors")
EXAMPLE = "cosmos://account/database"
STORE = "tidemill"
POLL = 5


@dataclass(frozen=True, slots=True)
class Address:
    """A database, and how it is to be used. `key` is empty where an identity is asked for."""

    account: Account
    endpoint: str
    database: str
    key: str = field(repr=False)
    store: str = STORE
    every: bool = False
    regions: tuple[str, ...] = ()
    poll: float = POLL
    create: bool = True
    dotnet: bool = False
    processors: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """What may stand in a log."""
        return f"cosmos {self.host}/{self.database}"

    @property
    def host(self) -> str:
        """The account's host without its port."""
        return urlsplit(self.endpoint).hostname or ""


def address(url: str) -> Address:
    """Raises `ConfigurationError` with the part that does not fit; never with a key."""
    account = parse(url, variable=VARIABLE, options=OPTIONS, example=EXAMPLE)
    endpoint, key = _endpoint(account)
    shown = account.shown
    if not re.fullmatch(r"[^/\\?#]{1,255}", account.path):
        raise ConfigurationError(f"{shown}: which database? write {EXAMPLE}")
    store = account.options.get("store", STORE)
    if not re.fullmatch(r"[^/\\?#]{1,255}", store):
        raise ConfigurationError(f"{shown}: store={store!r}: write the name of a container")
    return Address(
        account,
        endpoint,
        account.path,
        key,
        store=store,
        every=account.choice("mode", ("latest", "all")) == "all",
        regions=tuple(filter(None, (name.strip() for name in account.options.get("regions", "").split(",")))),
        poll=float(account.whole("poll", POLL, 1, 300)),
        create=account.choice("create", ("yes", "no")) == "yes",
        dotnet=account.choice("leases", ("tidemill", "dotnet")) == "dotnet",
        processors=_processors(account),
    )


def _processors(account: Account) -> dict[str, str]:
    """By worker, the name of its processor; an empty one is a name."""
    text = account.options.get("processors", "")
    if text and account.options.get("leases") != "dotnet":
        raise ConfigurationError(
            f"{account.shown}: processors={text!r}: that is for leases=dotnet; say both or neither"
        )
    found: dict[str, str] = {}
    for pair in filter(None, (pair.strip() for pair in text.split(","))):
        worker, colon, name = pair.partition(":")
        if not worker or not colon or re.search(r"[/\\?#]", name) or worker in found:
            raise ConfigurationError(
                f"{account.shown}: processors={text!r}: write worker:Name, each worker once, by comma"
            )
        found[worker] = name
    return found


def _endpoint(account: Account) -> tuple[str, str]:
    """Where it answers, and the key."""
    if account.connection:
        parts = account.parts()
        endpoint, key = parts.get("accountendpoint", ""), parts.get("accountkey", "")
        if not endpoint.startswith(("https://", "http://")) or not key:
            raise ConfigurationError(
                f"{account.shown}: the connection string has no AccountEndpoint=https://…; and AccountKey=…;"
            )
        return endpoint, account.base64(key)
    scheme = account.protocol()
    host = account.host if re.search(r"[.:]", account.host) else f"{account.host}.documents.azure.com:443"
    return f"{scheme}://{host}/", account.base64(account.key) if account.key else ""
