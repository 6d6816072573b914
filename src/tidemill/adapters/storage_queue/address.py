"""The URL of an account's queues: `azure-storage-queue://account?option=value`, and the names of queues there.

`account` is the name of the account, its host (`account.queue.core.chinacloudapi.cn`), or a host with a port and the
account's name as path (`127.0.0.1:10001/devstoreaccount1`, as the emulator has it); who we are is told in
`adapters.azure.account`. The options stand in `docs/storage-queue.md`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tidemill.adapters.azure.account import Account, parse
from tidemill.errors import ConfigurationError

VARIABLE = "AZURE_STORAGE_CONNECTION_STRING"
OPTIONS = ("envelope", "encoding", "poll", "claim", "api_version", "create", "tls", "prefix")
EXAMPLE = "azure-storage-queue://account"
POLL = 10
CLAIM = 60
WEEK = 604_800.0
"""The longest time for which the service hides a message."""

LONGEST_NAME = 63
POISON = "-poison"

EMULATOR = "http://127.0.0.1:10001/devstoreaccount1"
EMULATOR_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of `UseDevelopmentStorage=true`: every emulator has this account with this key, as Microsoft documents it."""


@dataclass(frozen=True, slots=True)
class Address:
    """An account, and how its queues are to be used. `credential` is a key with the account's name, a shared access
    signature, or None where an identity is asked for. `longest`: seconds for which a message is hidden at most."""

    account: Account
    endpoint: str
    credential: Mapping[str, str] | str | None = field(repr=False)
    envelope: bool = False
    base64: bool = True
    poll: float = POLL
    claim: float = CLAIM
    api_version: str | None = None
    create: bool = True
    prefix: str = ""
    longest: float = WEEK

    @property
    def shown(self) -> str:
        """What may stand in a log."""
        return self.account.shown


def misnamed(queue: str, name: str) -> str:
    """What is wrong with the name that a declared queue would have in the account; empty if nothing is."""
    if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) and 3 <= len(name) <= LONGEST_NAME:
        return ""
    rule = "3 to 63 small letters, digits and single hyphens between them"
    return f"queue {queue!r}: Azure does not take the name {name!r}: {rule}; rename it, or set prefix="


def poison(name: str) -> str:
    """The queue of the dead letters of one, as Functions names it. A name too long for that is cut, and told from
    others that begin alike by its hash."""
    if len(name) + len(POISON) <= LONGEST_NAME:
        return name + POISON
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - len(POISON) - 9].rstrip('-')}-{digest}{POISON}"


def address(url: str) -> Address:
    """Raises `ConfigurationError` with the part that does not fit; never with a key."""
    account = parse(url, variable=VARIABLE, options=OPTIONS, example=EXAMPLE)
    endpoint, credential = _connection(account) if account.connection else _host(account)
    version = account.options.get("api_version")
    if version is not None and not re.fullmatch(r"\d{4}-\d\d-\d\d", version):
        raise ConfigurationError(f"{account.shown}: api_version={version!r}: write a date, such as 2025-11-05")
    prefix = account.options.get("prefix", "")
    if not re.fullmatch(r"[a-z0-9-]{0,40}", prefix) or prefix.startswith("-") or "--" in prefix:
        raise ConfigurationError(
            f"{account.shown}: prefix={prefix!r}: write at most 40 small letters, digits and single hyphens"
        )
    return Address(
        account,
        endpoint,
        credential,
        envelope=account.choice("envelope", ("no", "yes")) == "yes",
        base64=account.choice("encoding", ("base64", "none")) == "base64",
        poll=float(account.whole("poll", POLL, 1, 300)),
        claim=float(account.whole("claim", CLAIM, 5, 3600)),
        api_version=version,
        create=account.choice("create", ("yes", "no")) == "yes",
        prefix=prefix,
    )


def _host(account: Account) -> tuple[str, Mapping[str, str] | None]:
    protocol, (host, _, port) = account.protocol(), account.host.partition(":")
    if bool(port) != bool(account.path) or "/" in account.path:
        told = "the account's name follows a host with a port, and nothing else does"
        raise ConfigurationError(f"{account.shown}: {told}; write {EXAMPLE} (the queues are those of the app)")
    name = account.path or host.partition(".")[0]
    if not re.fullmatch(r"[a-z0-9]{3,24}(-secondary)?", name):
        raise ConfigurationError(f"{account.shown}: an account's name has 3 to 24 small letters and digits")
    if protocol == "http" and not account.key:
        raise ConfigurationError(f"{account.shown}: tls=no: a stand-in knows no identity; give it a key (:KEY@)")
    where = f"{account.host}/{name}" if port else host if "." in host else f"{host}.queue.core.windows.net"
    return f"{protocol}://{where}", _named(account, name, account.key) if account.key else None


def _connection(account: Account) -> tuple[str, Mapping[str, str] | str]:
    """As the portal shows it, and as the emulator has it."""
    parts = account.parts()
    if parts.get("usedevelopmentstorage", "").lower() == "true":
        return EMULATOR, _named(account, "devstoreaccount1", EMULATOR_KEY)
    name, key, signature = (parts.get(word, "") for word in ("accountname", "accountkey", "sharedaccesssignature"))
    suffix = parts.get("endpointsuffix", "core.windows.net")
    endpoint = parts.get("queueendpoint") or (name and f"https://{name}.queue.{suffix}")
    if not endpoint or not ((name and key) or signature):
        told = "AccountName=…;AccountKey=…; or QueueEndpoint=https://…;SharedAccessSignature=…"
        raise ConfigurationError(f"{account.shown}: the connection string lacks a part; it has {told}")
    return endpoint.rstrip("/"), _named(account, name, key) if key else signature


def _named(account: Account, name: str, key: str) -> Mapping[str, str]:
    return {"account_name": name, "account_key": account.base64(key)}
