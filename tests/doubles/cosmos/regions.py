"""Regions of the double's account: each listens on a port of its own; one of them takes writes.

The account's own port stands for the name that always leads to the region that takes writes. A region that lags answers
from what it had when it began to: who brings a session token of something newer is told 404/1002, as the service does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.doubles.cosmos.state import Account, Container, Fault, Item, Partition

READS = ("GET", "HEAD")


@dataclass(slots=True)
class Region:
    """`had`: what it shows while it lags. `down`: connections end without an answer."""

    name: str
    port: int = 0
    down: bool = False
    had: dict[str, dict[str, Container]] | None = None
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


class Regions:
    """All of an account; the first takes writes until `failover`."""

    def __init__(self, account: Account, names: tuple[str, ...]) -> None:
        self._account = account
        self.all = [Region(name) for name in names]
        self.writes = names[0]

    def named(self, name: str) -> Region:
        return next(one for one in self.all if one.name == name)

    def at(self, port: int) -> Region:
        """Whose port this is; the region that takes writes for the account's own."""
        return next((one for one in self.all if one.port == port), self.named(self.writes))

    def lag(self, name: str) -> None:
        """From now on it learns nothing new."""
        self.named(name).had = self._account.frozen()

    def catch_up(self, name: str) -> None:
        self.named(name).had = None

    def failover(self, to: str) -> None:
        """That one takes the writes from now on."""
        self.catch_up(to)
        self.writes = to

    def container(self, region: Region, database: str, name: str) -> Container:
        """As this region shows it."""
        found = self._account.container(database, name)
        return found if region.had is None else region.had[database].get(name, found)

    def check(self, region: Region, write: bool) -> None:
        """Writes go to one region only."""
        if write and region.name != self.writes:
            raise Fault(403, f"The requested operation cannot be performed at this region: {region.name}", 3)

    def shown(self) -> Mapping[str, list[Item]]:
        """As the account tells them; the one that takes writes is the first of the readable ones, too."""
        ordered = sorted(self.all, key=lambda one: one.name != self.writes)
        told = [{"name": one.name, "databaseAccountEndpoint": one.endpoint} for one in ordered]
        return {"writableLocations": told[:1], "readableLocations": told}


def check_session(partition: Partition, token: str | None) -> None:
    """Whether this region has all that the session has seen of a partition, or of those it was made of."""
    for part in (token or "").split(","):
        id, _, rest = part.partition(":")
        lsn = rest.split("#")[-1]
        if id in (partition.id, *partition.parents) and lsn.isdigit() and int(lsn) > partition.lsn:
            raise Fault(404, "The read session is not available for the input session token.", 1002)
