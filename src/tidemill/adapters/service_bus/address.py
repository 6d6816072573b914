"""The URL of a namespace: `azure-service-bus://namespace?option=value`.

Who we are is told in `adapters.azure.account`; a key in the URL needs its name (`policy`). Options: `lock` (seconds of
the queues' lock duration, or fewer), `size` (KiB that a message may have), `dedup` (seconds of the queues' window of
duplicate detection, where they have it), `tls` (`no`, for a stand-in on this machine).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tidemill.adapters.azure.account import Account, parse
from tidemill.errors import ConfigurationError

VARIABLE = "AZURE_SERVICEBUS_CONNECTION_STRING"
OPTIONS = ("policy", "lock", "size", "dedup", "tls")
EXAMPLE = "azure-service-bus://namespace"
LOCK = 30
SIZE = 256
ROOM = 4096
"""Bytes of a message that are left to its headers and to what we note on it."""


@dataclass(frozen=True, slots=True)
class Address:
    """A namespace, and what is said of its queues. `connection` is empty where an identity is asked for."""

    account: Account
    host: str
    connection: str = field(default="", repr=False)
    lock: float = LOCK
    size: int = SIZE * 1024
    window: float = 0.0

    @property
    def shown(self) -> str:
        """What may stand in a log."""
        return f"service bus {self.host}"

    @property
    def body(self) -> int:
        """The largest body, in bytes."""
        return self.size - ROOM


def address(url: str) -> Address:
    """Raises `ConfigurationError` with the part that does not fit; never with a key."""
    account = parse(url, variable=VARIABLE, options=OPTIONS, example=EXAMPLE)
    if account.host and account.path:
        raise ConfigurationError(f"{account.shown}: a namespace has no path: the queues have their names; {EXAMPLE}")
    host, connection = _connection(account)
    return Address(
        account,
        host,
        connection,
        lock=float(account.whole("lock", LOCK, 1, 300)),
        size=account.whole("size", SIZE, 64, 102_400) * 1024,
        window=float(account.whole("dedup", 0, 20, 604_800)),
    )


def _connection(account: Account) -> tuple[str, str]:
    """The host, and a connection string."""
    policy = account.options.get("policy", "")
    if account.connection:
        parts = account.parts()
        host = urlsplit(parts.get("endpoint", "")).netloc
        if not host or not (parts.get("sharedaccesssignature") or parts.get("sharedaccesskey")):
            told = "has no Endpoint=sb://…; with SharedAccessKeyName=…; and SharedAccessKey=…;"
            raise ConfigurationError(f"{account.shown}: the connection string {told}")
        if queue := parts.get("entitypath"):
            told = "copy that of the namespace (Shared access policies)"
            raise ConfigurationError(f"{account.shown}: the connection string is for {queue!r} alone; {told}")
        return host, account.connection
    host = account.host if re.search(r"[.:]", account.host) else f"{account.host}.servicebus.windows.net"
    if bool(account.key) != bool(policy):
        told = "a key in the URL and the name of its policy belong together (?policy=RootManageSharedAccessKey)"
        raise ConfigurationError(f"{account.shown}: {told}")
    plain = account.choice("tls", ("yes", "no")) == "no"
    if plain and not (account.key and re.fullmatch(r"(127\.[\d.]+|localhost)(:\d+)?", host)):
        told = "tls=no is for a stand-in on this machine, with a key; leave it out"
        raise ConfigurationError(f"{account.shown}: {told}")
    if not account.key:
        return host, ""
    tail = "UseDevelopmentEmulator=true;" if plain else ""
    return host, f"Endpoint=sb://{host}/;SharedAccessKeyName={policy};SharedAccessKey={account.key};{tail}"
