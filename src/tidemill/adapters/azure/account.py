"""Where a service of Azure is and who we are to it: what its URLs have in common.

`<scheme>://<account or host>[:port][/path][?option=value&…]`. Who we are is, in this order:

1. `?connection=NAME`: the variable NAME holds a connection string, as the portal shows it (the habit of Functions);
2. a key in the URL, `<scheme>://:KEY@host` (percent-encoded), better kept in a secret of its own;
3. the service's usual variable (`AZURE_COSMOS_CONNECTION_STRING`), if the URL names no account;
4. else Azure's `DefaultAzureCredential`: workload or managed identity in a cluster, `az login` on a laptop.

Keys are in no `repr` and no error: `Account.words` takes them out of what a driver says.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from urllib.parse import SplitResult, unquote, urlsplit

from azure.core.credentials_async import AsyncTokenCredential

from tidemill.errors import ConfigurationError

CONNECTION = "connection"
"""The option that every one of these URLs knows."""

NO_IDENTITY = "no identity was found: set AZURE_CLIENT_ID for the workload identity, run az login, or give a key"
"""What is told where Azure's default credential has none."""

_SECRETS = ("accountkey", "sharedaccesskey", "sharedaccesssignature")
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Account:
    """An account as a URL and the environment name it. `shown` may stand in a log; `host` is empty where a connection
    string says everything; `connection` and `key` are empty where an identity is to be asked for."""

    scheme: str
    shown: str
    host: str
    path: str
    connection: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict)

    def parts(self) -> Mapping[str, str]:
        """The pairs of the connection string, their names in small letters."""
        pairs = (pair.partition("=") for pair in self.connection.split(";") if pair.strip())
        return {name.strip().lower(): value.strip() for name, _, value in pairs}

    def whole(self, name: str, default: int, lowest: int, highest: int) -> int:
        """An option that is a whole number. Raises `ConfigurationError` if it is none, or out of its range."""
        said = self.options.get(name)
        if said is None:
            return default
        if not re.fullmatch(r"\d{1,9}", said) or not lowest <= int(said) <= highest:
            raise ConfigurationError(f"{self.shown}: {name}={said!r}: write a whole number from {lowest} to {highest}")
        return int(said)

    def choice(self, name: str, known: Sequence[str]) -> str:
        """An option with a few values, the first of which is its default. Raises `ConfigurationError` for others."""
        said = self.options.get(name, known[0])
        if said not in known:
            raise ConfigurationError(f"{self.shown}: {name}={said!r}: write {' or '.join(filter(None, known))}")
        return said

    def base64(self, key: str) -> str:
        """The key, if it is base64; else it was cut or escaped wrongly, and a driver's words would show it."""
        if not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", key) or len(key) % 4:
            raise ConfigurationError(
                f"{self.shown}: the key is no base64 (in a URL write / as %2F, + as %2B and = as %3D)"
            )
        return key

    def protocol(self) -> str:
        """By the option `tls`: https, or http for a stand-in on this machine and nowhere else."""
        if self.choice("tls", ("yes", "no")) == "yes":
            return "https"
        if not _here(urlsplit(f"//{self.host}").hostname or ""):
            raise ConfigurationError(f"{self.shown}: tls=no is for a stand-in on this machine; leave it out")
        return "http"

    def words(self, error: BaseException) -> str:
        """What a driver says, in one line, without our keys."""
        text = " ".join(str(error).split()) or type(error).__name__
        secrets = [self.key, self.connection, *(value for name, value in self.parts().items() if name in _SECRETS)]
        for secret in filter(None, secrets):
            text = text.replace(secret, "***")
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def parse(url: str, *, variable: str, options: Sequence[str], example: str) -> Account:
    """The account of a URL. `variable` holds the connection string if the URL names no account; `options` are known
    beside `connection`. Raises `ConfigurationError`, never with a key in it."""
    try:
        split = urlsplit(url)
        _ = split.port
    except ValueError as error:
        told = "a port is a number from 0 to 65535" if "ort" in str(error) else "it is no URL"
        raise ConfigurationError(f"the URL of {url.partition(':')[0]}: {told}; write {example}") from None
    host = split.netloc.rpartition("@")[2]
    shown = f"{split.scheme}://{host}{split.path}"
    asked = _options(split, shown, options)
    key = _key(split, shown, example)
    path = unquote(split.path).strip("/")
    name = asked.pop(CONNECTION, None)
    if name is None and host:
        return Account(split.scheme, shown, host, path, key=key, options=asked)
    shown = f"{split.scheme}: ({name or variable})"
    connection = os.environ.get(name or variable, "")
    if not connection:
        told = f"set it to the account's connection string, or write {example}"
        raise ConfigurationError(f"{shown}: the variable {name or variable} is not set; {told}")
    if "=" not in connection:
        raise ConfigurationError(f"{shown}: what {name or variable} holds is no connection string (Name=value;…)")
    return Account(split.scheme, shown, "", path or host, connection=connection, options=asked)


def credential() -> AsyncTokenCredential:
    """Who we are when nothing says so: environment, workload identity, managed identity, `az login` (in that order).

    Must be closed. Raises `ModuleNotFoundError` where azure-identity is not installed.
    """
    from azure.identity.aio import DefaultAzureCredential  # takes 0.2 s, and a key needs none of it

    return DefaultAzureCredential(exclude_interactive_browser_credential=True)


def _here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _options(split: SplitResult, shown: str, known: Sequence[str]) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in split.query.split("&") if pair)
    asked = {unquote(name): unquote(value) for name, _, value in pairs}
    ours = [CONNECTION, *known]
    for name in asked:
        if name not in ours:
            near = get_close_matches(name, ours, 1, 0.6)
            words = f"did you mean {near[0]}?" if near else f"there are {', '.join(ours)}"
            raise ConfigurationError(f"{shown}: there is no option {name!r} ({words})")
    return asked


def _key(split: SplitResult, shown: str, example: str) -> str:
    login = split.netloc.rpartition("@")[0]
    if not login:
        if split.fragment or "@" in split.path:
            told = "in a key write / as %2F, + as %2B and = as %3D"
            raise ConfigurationError(f"the URL of {split.scheme}: {told}; or write {example}")
        return ""
    _, colon, key = login.partition(":")
    if not colon or not key:
        raise ConfigurationError(f"{shown}: before the @ stands a key, after a colon (:KEY@); or write {example}")
    return unquote(key)
