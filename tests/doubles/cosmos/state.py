"""What the double holds: containers, partitions, items, logs. No HTTP."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from azure.cosmos.partition_key import NonePartitionKeyValue, PartitionKey

Item = dict[str, Any]
END = "FF"
TOP = 1 << 126  # of V2 hashes; the first two bits are 0


class Fault(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, sub: int = 0, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.sub = sub
        self.headers = dict(headers or {})


@dataclass(slots=True)
class Entry:
    """One operation as all versions and deletes tell it."""

    lsn: int
    epk: str
    value: Item


@dataclass(slots=True)
class Partition:
    """A physical partition. `lsn` is that of its newest transaction."""

    id: str
    low: str
    high: str
    parents: list[str] = field(default_factory=list)
    lsn: int = 0
    items: dict[tuple[str, str], Item] = field(default_factory=dict)
    """In the order of their newest versions: a write takes its item out and puts it at the end."""
    log: list[Entry] = field(default_factory=list)
    mortal: bool = False
    """Whether an item was written that has a TTL of its own."""

    def holds(self, epk: str) -> bool:
        return self.low <= epk < self.high


class Container:
    """One container: its partitions, and what is done with its items."""

    def __init__(self, name: str, rid: str, body: Item, partitions: int, clock: Callable[[], float]) -> None:
        self.name = name
        self.rid = rid
        self.definition = body
        self.key = body["partitionKey"]
        self.clock = clock
        self.ttl: int | None = body.get("defaultTtl")
        bounds = ["", *(f"{TOP * n // partitions:032X}" for n in range(1, partitions)), END]
        self.partitions = [Partition(str(n), bounds[n], bounds[n + 1]) for n in range(partitions)]
        self.gone: set[str] = set()
        self.etags = 0
        self.rids = 0
        self._epks: dict[str, str] = {}

    # --- where ----------------------------------------------------------------------------------------------

    def epk(self, key: Sequence[Any]) -> str:
        """The effective partition key, as the client computes it: by murmur3 in Python, so it is kept."""
        text = json.dumps(key)
        if text not in self._epks:
            paths = self.key["paths"]
            kind = PartitionKey(paths[0]) if len(paths) == 1 else PartitionKey(paths, kind="MultiHash")
            values = [NonePartitionKeyValue if value == {} else value for value in key]
            self._epks[text] = str(kind._get_effective_partition_key_string(values))
        return self._epks[text]

    def key_of(self, item: Mapping[str, Any]) -> list[Any]:
        """The values of the partition key; `{}` where there is none, as it stands in headers."""
        return [_at(item, path) for path in self.key["paths"]]

    def frozen(self) -> Container:
        """As it is now, for a region that lags behind."""
        made = copy.copy(self)
        made.partitions = [
            replace(one, items=dict(one.items), log=list(one.log), parents=list(one.parents)) for one in self.partitions
        ]
        return made

    def partition(self, id: str) -> Partition:
        for one in self.partitions:
            if one.id == id:
                return one
        raise Fault(410, f"partition key range {id} is gone", 1002)

    def of(self, epk: str) -> Partition:
        return next(one for one in self.partitions if one.holds(epk))

    def split(self, id: str) -> tuple[str, str]:
        """One becomes two, in the middle of what it spans."""
        old = self.partition(id)
        low = int(old.low or "0", 16)
        high = TOP if old.high == END else int(old.high, 16)
        middle = f"{(low + high) // 2:032X}"
        first, second = self._new(), self._new(1)
        halves = [Partition(first, old.low, middle), Partition(second, middle, old.high)]
        return self._replace([old], halves)[0].id, second

    def merge(self, a: str, b: str) -> str:
        """Two neighbours become one."""
        olds = sorted((self.partition(a), self.partition(b)), key=lambda one: one.low)
        if olds[0].high != olds[1].low:
            raise ValueError(f"{a} and {b} are no neighbours")
        return self._replace(olds, [Partition(self._new(), olds[0].low, olds[1].high)])[0].id

    def _new(self, more: int = 0) -> str:
        ids = [int(one.id) for one in self.partitions] + [int(id) for id in self.gone]
        return str(max(ids) + 1 + more)

    def _replace(self, olds: Sequence[Partition], news: list[Partition]) -> list[Partition]:
        for new in news:
            new.parents = [parent for old in olds for parent in (*old.parents, old.id)]
            new.lsn = max(old.lsn for old in olds)
            for old in olds:
                new.items |= {at: item for at, item in old.items.items() if new.holds(at[0])}
                new.log += [entry for entry in old.log if new.holds(entry.epk)]
                new.mortal = new.mortal or old.mortal
            new.items = dict(sorted(new.items.items(), key=lambda one: int(one[1]["_lsn"])))
            new.log.sort(key=lambda entry: entry.lsn)
        self.gone |= {old.id for old in olds}
        self.partitions = sorted([one for one in self.partitions if one not in olds] + news, key=lambda one: one.low)
        return news

    # --- items ----------------------------------------------------------------------------------------------

    def read(self, key: Sequence[Any], id: str) -> Item:
        epk = self.epk(key)
        partition = self.of(epk)
        self.expire(partition)
        found = partition.items.get((epk, id))
        if found is None:
            raise Fault(404, "Resource Not Found")
        return found

    def write(
        self, key: Sequence[Any], item: Item, *, how: str, match: str | None = None, lsn: int = 0
    ) -> tuple[Item, bool]:
        """`how`: create, upsert or replace; `lsn`: of the transaction that it is part of. The item as it stands then,
        and whether it is new."""
        if self.key_of(item) != list(key):
            raise Fault(400, "PartitionKey extracted from document doesn't match the one specified in the header", 1001)
        check_id(item.get("id"))
        epk = self.epk(key)
        partition = self.of(epk)
        self.expire(partition)
        at = (epk, item["id"])
        old = partition.items.get(at)
        if how == "create" and old is not None:
            raise Fault(409, "Entity with the specified id already exists in the system.")
        if how == "replace" and old is None:
            raise Fault(404, "Resource Not Found")
        if match is not None and (old is None or old["_etag"] != match):
            raise Fault(412, "One of the specified pre-condition is not met")
        partition.lsn = lsn or partition.lsn + 1
        new = self._stamped(partition, item, old)
        partition.items.pop(at, None)
        partition.items[at] = new
        partition.mortal = partition.mortal or "ttl" in new
        self._log(partition, epk, "create" if old is None else "replace", new, old)
        return new, old is None

    def delete(self, key: Sequence[Any], id: str, match: str | None = None, lsn: int = 0) -> None:
        epk = self.epk(key)
        old = self.read(key, id)
        if match is not None and old["_etag"] != match:
            raise Fault(412, "One of the specified pre-condition is not met")
        partition = self.of(epk)
        partition.lsn = lsn or partition.lsn + 1
        del partition.items[(epk, id)]
        self._log(partition, epk, "delete", None, old)

    def all(self, partition: Partition) -> Iterator[Item]:
        self.expire(partition)
        yield from partition.items.values()

    def expire(self, partition: Partition) -> None:
        """TTL: an item's own, else the container's; only where the container has it switched on."""
        if self.ttl is None or (self.ttl <= 0 and not partition.mortal):
            return
        for at, item in list(partition.items.items()):
            ttl = item.get("ttl", self.ttl)
            if isinstance(ttl, int) and ttl > 0 and item["_ts"] + ttl <= self.clock():
                del partition.items[at]
                partition.lsn += 1
                self._log(partition, at[0], "delete", None, item, expired=True)

    def _stamped(self, partition: Partition, item: Item, old: Item | None) -> Item:
        self.etags += 1
        self.rids += old is None
        rid = old["_rid"] if old else f"{self.rid}{self.rids:08d}"
        return {
            **{name: value for name, value in item.items() if name != "_lsn"},
            "_rid": rid,
            "_self": f"dbs/x/colls/{self.rid}/docs/{rid}/",
            "_etag": f'"{self.etags:08x}-0000-0700-0000-{int(self.clock() * 1000):012x}"',
            "_attachments": "attachments/",
            "_ts": int(self.clock()),
            "_lsn": partition.lsn,
        }

    def _log(
        self, partition: Partition, epk: str, kind: str, new: Item | None, old: Item | None, *, expired: bool = False
    ) -> None:
        meta: Item = {"lsn": partition.lsn, "crts": int(self.clock()), "operationType": kind}
        value: Item = {"metadata": meta}
        if new is not None:
            value["current"] = public(new)
        if kind == "delete" and old is not None:
            meta |= {"id": old["id"], "timeToLiveExpired": expired}
            meta["partitionKey"] = dict(zip([p.strip("/") for p in self.key["paths"]], self.key_of(old), strict=True))
        if old is not None:
            meta["previousImageLSN"] = old["_lsn"]
        partition.log.append(Entry(partition.lsn, epk, value))


def public(item: Mapping[str, Any]) -> Item:
    """An item as reads show it: the LSN is for change feeds."""
    return {name: value for name, value in item.items() if name != "_lsn"}


def check_id(id: Any) -> None:
    """What the service refuses as an id."""
    if not isinstance(id, str) or not id or any(letter in id for letter in "/\\?#") or id.endswith(" "):
        raise Fault(400, "The input name 'id' is invalid. Ensure to provide a unique non-empty string without / \\ ? #")
    if len(id.encode()) > 1023:
        raise Fault(400, "The input name 'id' is invalid: it is longer than 1023 bytes")


def _at(item: Mapping[str, Any], path: str) -> Any:
    found: Any = item
    for name in path.strip("/").split("/"):
        found = found.get(name.strip('"'), {}) if isinstance(found, Mapping) else {}
    return found if not isinstance(found, dict | list) else {}


class Account:
    """Databases by name, each with its containers; a clock that can be put forward."""

    def __init__(self, partitions: int = 4) -> None:
        self.databases: dict[str, dict[str, Container]] = {}
        self.partitions = partitions
        self.ahead = 0.0

    def clock(self) -> float:
        return time.time() + self.ahead

    def containers(self, database: str) -> dict[str, Container]:
        if database not in self.databases:
            raise Fault(404, f"Owner resource does not exist: database {database}", 1003)
        return self.databases[database]

    def frozen(self) -> dict[str, dict[str, Container]]:
        """Everything as it is now."""
        return {
            name: {one.name: one.frozen() for one in containers.values()} for name, containers in self.databases.items()
        }

    def container(self, database: str, name: str) -> Container:
        found = self.containers(database).get(name)
        if found is None:
            raise Fault(404, f"Owner resource does not exist: container {name}", 1003)
        return found

    def create(self, database: str, body: Item) -> Container:
        containers = self.containers(database)
        if body["id"] in containers:
            raise Fault(409, "Resource with specified id or name already exists.")
        n = len(containers) + 1
        # A container of records, by id, has one partition, as small ones of Cosmos DB do.
        count = 1 if body["partitionKey"]["paths"] == ["/id"] else self.partitions
        made = containers[body["id"]] = Container(body["id"], f"{rid_of(database)}{n:04d}A=", body, count, self.clock)
        return made


def rid_of(database: str) -> str:
    """The `_rid` of a database; four bytes in base64 are eight letters."""
    return f"{sum(database.encode()) % 9973:04d}AA=="[:6] + "=="
