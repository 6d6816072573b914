"""A backend as an outsider would write it: one file of JSON lines, for one process.

Each call that writes appends one line, a list of [table, key, value or null], and returns when it is on the disk; so a
call is all there or not at all. What the lines add up to is kept in memory. The number of a line names everything that
it made: versions and claims are never used twice, because lines are never removed. A last line without its end is what
a crash left of a call that never returned; it is cut off at the next start.

There are queues, a store and dead letters; no feed, no documents, no `dedup`.
"""

from __future__ import annotations

import json
import os
from asyncio import Event
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from tidemill.errors import BackendFull, BadOption, ConfigurationError, TooLarge
from tidemill.model import (
    Commit,
    CommitResult,
    Dead,
    DeadLetter,
    Delivery,
    Depth,
    Gone,
    Later,
    Limits,
    Lost,
    Message,
    Outcome,
    QueueSpec,
    Record,
    Settled,
    Source,
    Stale,
    Swap,
    Swapped,
    Waiting,
)
from tidemill.ports import Clock, Documents, Feed, Presence

Row: TypeAlias = dict[str, Any]

BODY = 1 << 20
"""No body is longer, in bytes."""

PURGED = 1_000
"""No more messages are removed by one line."""


class JsonLog:
    """Implements `tidemill.ports.Database`. The directory must be there."""

    features = frozenset(("store", "queue", "dead_letters", "delay", "priority", "order", "peek", "purge"))
    limits = Limits(batch=1000, body=BODY)

    def __init__(self, path: Path, clock: Clock) -> None:
        self._log = Log(path)
        self._clock = clock
        self._queues: dict[str, JsonQueue] = {}

    async def open(self, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> None:
        if sources:
            raise ConfigurationError(f"jsonlog has no collections, as {sources[0].name!r} needs")
        self._log.open()
        for spec in queues:
            self._queues.setdefault(spec.name, JsonQueue(spec.name, self._log, self._clock))

    async def close(self) -> None:
        self._log.close()

    def store(self) -> JsonStore:
        return JsonStore(self._log)

    def queue(self, queue: QueueSpec) -> JsonQueue:
        if queue.name not in self._queues:
            raise ConfigurationError(f"queue {queue.name!r} was not opened")
        return self._queues[queue.name]

    def dead_letters(self) -> JsonDeadLetters:
        return JsonDeadLetters(self._log, self._queues)

    def feed(self, source: Source) -> Feed:
        raise ConfigurationError(f"jsonlog has no feeds, as {source.name!r} needs")

    def documents(self, source: Source) -> Documents:
        raise ConfigurationError(f"jsonlog has no documents, as {source.name!r} needs")

    def presence(self) -> Presence | None:
        return None

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        raise ConfigurationError("jsonlog has no commits")


class Log:
    """The file, and what its lines add up to: rows by table and key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._changes: list[tuple[str, str, Row | None]] = []

    def open(self) -> None:
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            self._load(self._file)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def change(self, table: str, key: str, row: Row | None) -> None:
        """Set or delete a row; it is durable after `write`."""
        self._apply(table, key, row)
        self._changes.append((table, key, row))

    def write(self) -> None:
        """Append what was changed as one line."""
        assert self._file is not None, "not open"
        changes, self._changes = self._changes, []
        if not changes:
            return
        line = json.dumps(changes).encode() + b"\n"
        try:
            if os.write(self._file, line) < len(line):
                raise OSError("short write")
            os.fsync(self._file)
        except OSError as error:
            self._load(self._file)
            raise BackendFull(f"{self._path}: {error}") from error
        self.line += 1

    def _load(self, file: int) -> None:
        self.tables: dict[str, dict[str, Row]] = {"record": {}, "message": {}, "letter": {}}
        self.line = 0
        whole, _, torn = self._path.read_bytes().rpartition(b"\n")
        for line in whole.splitlines():
            for table, key, row in json.loads(line):
                self._apply(table, key, row)
            self.line += 1
        if torn:
            os.ftruncate(file, len(whole) + 1 if whole else 0)

    def _apply(self, table: str, key: str, row: Row | None) -> None:
        if row is None:
            self.tables[table].pop(key, None)
        else:
            self.tables[table][key] = row


class JsonStore:
    """Implements `tidemill.ports.Store`."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        return [self._find(key) for key in keys]

    async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        keys = sorted(key for key in self._log.tables["record"] if key.startswith(prefix) and key > after)
        return [record for key in keys[:limit] if (record := self._find(key))]

    async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
        replies = [self._swap(swap) for swap in swaps]
        self._log.write()
        return replies

    def _find(self, key: str) -> Record | None:
        row = self._log.tables["record"].get(key)
        return Record(key, row["version"], row["value"]) if row else None

    def _swap(self, swap: Swap) -> Swapped:
        current = self._find(swap.key)
        if swap.version != (current.version if current else None):
            return Stale(swap.key, current)
        if swap.value is None:
            if current:
                self._log.change("record", swap.key, None)
            return Gone(swap.key)
        value = json.loads(json.dumps(swap.value))
        record = Record(swap.key, str(self._log.line), value)
        self._log.change("record", swap.key, {"version": record.version, "value": value})
        return record


class JsonQueue:
    """Implements `tidemill.ports.Queue`. Claims belong to their owners."""

    def __init__(self, name: str, log: Log, clock: Clock) -> None:
        self._name = name
        self._log = log
        self._clock = clock
        self._news = Event()
        self._settled: dict[str, Outcome] = {}

    async def send(self, messages: Sequence[Message]) -> Sequence[str]:
        if any(len(message.body) > BODY for message in messages):
            raise TooLarge
        now = self._clock.now()
        for message in messages:
            self.add(asdict(message) | {"sent_at": now, "due": now + message.delay, "body": text(message.body)})
        self._log.write()
        return [message.id for message in messages]

    async def receive(self, owner: str, limit: int, wait: float) -> Sequence[Delivery]:
        end = self._clock.monotonic() + wait
        while not (taken := self._claim(owner, limit)):
            left = end - self._clock.monotonic()
            if left <= 0:
                return []
            dues = [row["due"] - self._clock.now() for row in self._rows() if not row["claim"]]
            self._news.clear()
            await self._clock.wait(self._news, max(min([left, *dues]), 0.001))
        self._log.write()
        return taken

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[float | Lost]:
        return [float("inf") if self._holds(delivery) else Lost() for delivery in deliveries]

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | Lost]:
        replies = [self._settle(outcome) for outcome in outcomes]
        self._log.write()
        self._news.set()
        return replies

    async def free(self, owners: Sequence[str]) -> Sequence[str]:
        held = [row for row in self._rows() if row["claim"]]
        for row in held:
            if row["owner"] in owners:
                self._put(row | {"owner": "", "claim": ""})
        self._log.write()
        self._news.set()
        return sorted({row["owner"] for row in held} - set(owners))

    async def depth(self) -> Depth:
        now = self._clock.now()
        dues = [row["due"] for row in self._rows() if not row["claim"]]
        ready = [due for due in dues if due <= now]
        claimed = len(self._rows()) - len(dues)
        return Depth(len(ready), len(dues) - len(ready), claimed, now - min(ready) if ready else 0.0)

    async def peek(self, after: str, limit: int) -> Sequence[Waiting]:
        behind = parsed(after)
        found = sorted((place(row), row["id"], row) for row in self._rows() if not row["claim"])
        return [waiting(row) for where, _, row in found if where > behind][:limit]

    async def purge(self) -> int:
        doomed = [row for row in self._rows() if not row["claim"]][:PURGED]
        for row in doomed:
            self._log.change("message", self._key(row["id"]), None)
        self._log.write()
        return len(doomed)

    def add(self, fields: Row) -> None:
        """Put a message in that is not there yet, and wake who waits; the caller writes."""
        if self._key(fields["id"]) not in self._log.tables["message"]:
            self._put({"attempt": 0, "deliveries": 0, "reason": "", "owner": "", "claim": ""} | fields)
            self._news.set()

    def _key(self, id: str) -> str:
        return f"{self._name}/{id}"

    def _rows(self) -> list[Row]:
        return [row for row in self._log.tables["message"].values() if row["queue"] == self._name]

    def _put(self, row: Row) -> None:
        self._log.change("message", self._key(row["id"]), row)

    def _holds(self, delivery: Delivery) -> bool:
        row = self._log.tables["message"].get(self._key(delivery.id))
        return row is not None and row["claim"] == delivery.claim

    def _claim(self, owner: str, limit: int) -> list[Delivery]:
        now = self._clock.now()
        due = [row for row in self._rows() if not row["claim"] and row["due"] <= now]
        due.sort(key=lambda row: (-row["priority"], row["due"]))
        taken = [row | {"owner": owner, "claim": f"{self._log.line}/{n}"} for n, row in enumerate(due[:limit])]
        for row in taken:
            row["deliveries"] += 1
            self._put(row)
        return [delivery(row) for row in taken]

    def _settle(self, outcome: Outcome) -> Settled | Lost:
        claim, verdict = outcome.delivery.claim, outcome.verdict
        if not self._holds(outcome.delivery):
            return Settled() if self._settled.get(claim) == outcome else Lost()
        self._settled[claim] = outcome
        row = self._log.tables["message"][self._key(outcome.delivery.id)] | {"owner": "", "claim": ""}
        if not outcome.started:
            self._put(row | {"deliveries": row["deliveries"] - 1})
        elif isinstance(verdict, Later):
            tried = {"attempt": row["attempt"] + verdict.attempt, "deliveries": 0, "reason": verdict.reason}
            self._put(row | tried | {"due": self._clock.now() + verdict.delay})
        else:
            self._log.change("message", self._key(row["id"]), None)
            if isinstance(verdict, Dead):
                letter = {"source": f"queue/{self._name}", "order": self._order(), "attempts": row["attempt"] + 1}
                why = {"reason": verdict.reason, "error": outcome.error, "at": self._clock.now()}
                kept = {name: row[name] for name in ("id", "key", "body", "headers")}
                meta = {"meta": {name: row[name] for name in ("priority", "sent_at")}}
                put_letter(self._log, letter | why | kept | meta)
        return Settled()

    def _order(self) -> int:
        """Above every letter there is: one line may make several."""
        return max((row["order"] for row in self._log.tables["letter"].values()), default=0) + 1


class JsonDeadLetters:
    """Implements `tidemill.ports.DeadLetters`."""

    def __init__(self, log: Log, queues: Mapping[str, JsonQueue]) -> None:
        self._log = log
        self._queues = queues

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            put_letter(self._log, asdict(letter) | {"body": None if letter.body is None else text(letter.body)})
        self._log.write()

    async def page(self, source: str, after: int, limit: int, key: str | None = None) -> Sequence[DeadLetter]:
        found = [row for row in self._log.tables["letter"].values() if row["source"] == source and row["order"] > after]
        rows = sorted((row for row in found if key in (None, row["key"])), key=lambda row: int(row["order"]))
        return [
            DeadLetter(**row | {"body": None if row["body"] is None else b64decode(row["body"])})
            for row in rows[:limit]
        ]

    async def count(self, prefix: str) -> Mapping[str, int]:
        sources = [row["source"] for row in self._log.tables["letter"].values() if row["source"].startswith(prefix)]
        return {source: sources.count(source) for source in sorted(set(sources))}

    async def release(self, source: str, ids: Sequence[str]) -> int:
        queue = self._queues.get(source.removeprefix("queue/"))
        if queue is None or not source.startswith("queue/"):
            raise ConfigurationError(f"{source!r} is no queue to release into")
        rows = self._take(source, ids)
        for row in rows:
            kept = {name: row[name] for name in ("id", "key", "body", "headers")}
            queue.add(kept | row["meta"] | {"queue": source.removeprefix("queue/"), "due": row["at"]})
        self._log.write()
        return len(rows)

    async def drop(self, source: str, ids: Sequence[str]) -> int:
        dropped = self._take(source, ids)
        self._log.write()
        return len(dropped)

    def _take(self, source: str, ids: Sequence[str]) -> list[Row]:
        keys = [key for id in dict.fromkeys(ids) if (key := f"{source}/{id}") in self._log.tables["letter"]]
        rows = [self._log.tables["letter"][key] for key in keys]
        for key in keys:
            self._log.change("letter", key, None)
        return rows


def put_letter(log: Log, row: Row) -> None:
    """Keep a dead letter unless it is there; the caller writes."""
    key = f"{row['source']}/{row['id']}"
    if key not in log.tables["letter"]:
        log.change("letter", key, row)


def delivery(row: Row) -> Delivery:
    names = ("queue", "id", "key", "headers", "priority", "sent_at", "attempt", "deliveries", "reason", "claim")
    return Delivery(body=b64decode(row["body"]), **{name: row[name] for name in names})


def place(row: Row) -> list[Any]:
    return [-row["priority"], row["due"], row["id"]]


def parsed(after: str) -> list[Any]:
    try:
        priority, due, id = json.loads(after or '[-1e9, 0.0, ""]')
        return [int(priority), float(due), str(id)]
    except (ValueError, TypeError):
        raise BadOption(f"{after!r} is no place in a queue; take it from the page before") from None


def waiting(row: Row) -> Waiting:
    names = ("id", "key", "headers", "priority", "sent_at", "due", "attempt", "reason")
    return Waiting(body=b64decode(row["body"]), place=json.dumps(place(row)), **{name: row[name] for name in names})


def text(body: bytes) -> str:
    return b64encode(body).decode()
