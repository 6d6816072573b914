"""PostgreSQL as far as the order of changes depends on it: numbers, row locks, commits, snapshots, ticks.

Numbers of transactions are given at the first write or before; those of changes are drawn while the row is locked. A
snapshot knows what had ended when it was taken, and its `xmax` is one above the last transaction that *ended*. Ticks
are made in the steps of `make_tick`, between which anything may happen.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar, cast

from tidemill.adapters.postgres.feed import Feed
from tidemill.adapters.postgres.names import Names
from tidemill.adapters.postgres.session import OpenSource, Session
from tidemill.adapters.postgres.windows import NOTHING, Snapshot, Tick, Ticks, parse_snapshot, tick_of
from tidemill.model import CollectionSpec, Expired, Page

T = TypeVar("T")

PARTS = 2
SPEC = CollectionSpec("things", partitions=PARTS)


class Row(NamedTuple):
    xid: int
    seq: int
    doc: int

    @property
    def part(self) -> int:
        return self.doc % PARTS


@dataclass(eq=False)
class Transaction:
    xid: int | None = None
    highest: int = 0  # of it and its savepoints
    rows: list[Row] = field(default_factory=list)
    locks: frozenset[int] = frozenset()
    saved: list[tuple[int, frozenset[int]]] = field(default_factory=list)


class Server:
    """`own_first`: a tick's transaction gets its number before the number of the last change is read."""

    def __init__(self, *, own_first: bool = False) -> None:
        self.own_first = own_first
        self.next_xid, self.last_seq, self.ended = 3, 0, 2
        self.running: list[Transaction] = []
        self.rows: list[Row] = []
        self.history: dict[int, list[int]] = {}
        """The changes of each document in the order of their commits."""
        self.time = 1
        self.ticks: list[Tick] = [tick_of(1, 0, 1, NOTHING, "2")]
        self.waiting: set[int] = set()
        self.durable = 1
        self.making: Generator[None] | None = None

    # --- transactions ---------------------------------------------------------------------------------------

    def begin(self) -> Transaction:
        self.running.append(transaction := Transaction())
        return transaction

    def number(self, transaction: Transaction) -> int:
        if transaction.xid is None:
            transaction.xid = transaction.highest = self._xid()
        return transaction.xid

    def _xid(self) -> int:
        self.next_xid += 1
        return self.next_xid - 1

    def write(self, transaction: Transaction, doc: int) -> bool:
        """False: somebody else has locked the row."""
        if any(doc in other.locks for other in self.running if other is not transaction):
            return False
        transaction.locks |= {doc}
        xid = self.number(transaction)
        if transaction.saved:
            transaction.highest = self._xid()  # the savepoint's own
        self.last_seq += 1
        transaction.rows.append(Row(xid, self.last_seq, doc))
        return True

    def save(self, transaction: Transaction) -> None:
        transaction.saved.append((len(transaction.rows), transaction.locks))

    def back(self, transaction: Transaction) -> None:
        if transaction.saved:
            kept, transaction.locks = transaction.saved.pop()
            del transaction.rows[kept:]

    def end(self, transaction: Transaction, *, commit: bool) -> None:
        self.running.remove(transaction)
        self.ended = max(self.ended, transaction.highest)
        if commit and transaction.rows:
            self.rows += transaction.rows
            for row in transaction.rows:
                self.history.setdefault(row.doc, []).append(row.seq)
            self.durable = self.ticks[-1].id  # the commit waits for the disk, and what came before goes along

    def snapshot(self) -> str:
        xmax = self.ended + 1
        running = sorted(t.xid for t in self.running if t.xid is not None and t.xid < xmax)
        return f"{min([*running, xmax])}:{xmax}:{','.join(map(str, running))}"

    # --- ticks ----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """The next step of the tick that is being made, or the first of a new one."""
        if self.making is None:
            self.making = self._make()
        if next(self.making, self) is self:
            self.making = None

    def tick(self) -> None:
        """A tick that knows all that has ended by now."""
        for _ in range(2):
            self.step()
            while self.making is not None:
                self.step()

    def _make(self) -> Generator[None]:
        last = self.ticks[-1]
        now = parse_snapshot(self.snapshot())
        if self.last_seq == last.seq and not any(now.sees(xid) for xid in self.waiting):
            return
        maker = self.begin()
        if self.own_first:
            own = self.number(maker)
            yield
            drawn = self.last_seq
        else:
            drawn = self.last_seq
            yield
            own = self.number(maker)
        yield
        now = parse_snapshot(self.snapshot())
        others = {*now.running, *range(now.xmax, own)}
        if drawn == last.seq:
            others &= self.waiting
        yield
        text = self.snapshot()
        yield
        self.time += 1
        self.ticks.append(tick_of(max(last.id + 1, self.time), drawn, 1, text, str(own)))
        self.waiting = others
        self.end(maker, commit=False)

    def thin(self, place: int) -> None:
        if 0 < place < len(self.ticks) - 1:
            del self.ticks[place]

    def crash(self) -> None:
        """What was not on the disk is gone: who was running, ticks after the last commit, and numbers."""
        self.making = None
        self.running.clear()
        self.ticks = [tick for tick in self.ticks if tick.id <= self.durable]
        last = self.ticks[-1]
        self.last_seq = max([last.seq, *(row.seq for row in self.rows)])
        self.next_xid = max([last.xact, last.snapshot.xmax - 1, *(row.xid for row in self.rows)]) + 1
        self.ended = self.next_xid - 1
        self.waiting = {*last.snapshot.running, *range(last.snapshot.xmax, last.xact)}
        self.time += 1


# --- reading --------------------------------------------------------------------------------------------------


class Process:
    """A process that reads: the adapter's own feed, on the model instead of a connection."""

    def __init__(self, server: Server, keep: int = 1000) -> None:
        self._server, self._keep = server, keep
        self._watch = SimpleNamespace(ticks=Ticks(server.ticks[-1:]))
        session = SimpleNamespace(
            source=lambda name: OpenSource(SPEC, tuple(map(str, range(PARTS)))),
            names=Names("tidemill"),
            data=self,
            clock=SimpleNamespace(monotonic=lambda: 0.0),
            watch=self._watch,
        )
        self._feed = Feed(cast(Session, session), SPEC)
        self._feed._reader.ahead = False  # there is no loop here to do it meanwhile
        self._feed._reader.resumable = 1  # any change may be gone on from

    def look(self) -> None:
        """Learn the ticks that were made since the last look."""
        ticks: Ticks = self._watch.ticks
        for tick in [tick for tick in self._server.ticks if tick.id > ticks.newest.id]:
            ticks.add(tick)
        ticks.forget(self._keep)

    def read(self, cursors: dict[str, str], limit: int) -> dict[str, Page]:
        """The pages that there are now."""
        pages: dict[str, Page | Expired] = ended(self._feed._pages(cursors, limit))
        assert not any(isinstance(page, Expired) for page in pages.values())
        return cast(dict[str, Page], pages)

    async def fetch(self, sql: str, *args: Any) -> Sequence[Any]:
        if "trimmed" in sql:
            return []
        if ") found" not in sql:
            first = max(tick.id for tick in self._server.ticks if tick.id <= args[0])
            return [(t.id, t.seq, t.era, t.text, str(t.xact)) for t in self._server.ticks if t.id >= first]
        return window(self._server.rows, with_xid=", xid" in sql, args=args)

    async def value(self, sql: str, *args: Any) -> object:
        assert "WHERE id = $1" in sql
        return 1 if any(tick.id == args[0] for tick in self._server.ticks) else None


def window(rows: Sequence[Row], *, with_xid: bool, args: Sequence[Any]) -> Sequence[Any]:
    """What the query of a window finds."""
    after, upto, xact, _, text, parts, _, limit, *late = args
    seen: Snapshot = parse_snapshot(text)
    running = {int(xid) for xid in late[0].strip("{}").split(",")} if late else set()
    within = late[1] if late else 0
    found = sorted(
        (row for row in rows if seen.sees(row.xid) and row.part in parts
         and ((after < row.seq <= upto and row.xid > int(xact)) or (row.xid in running and row.seq > within))),
        key=lambda row: row.seq,
    )[:limit]  # fmt: skip
    assert len({row.seq for row in found}) == len(found)
    return [
        (row.part, row.seq, 0, str(row.doc), str(row.doc), b"", None, 0.0, *([row.xid] if with_xid else []))
        for row in found
    ]


def ended(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("it waits")
