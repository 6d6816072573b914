"""Windows and cursors, alone and on a model of PostgreSQL: nothing is lost, and each row's changes keep their order."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.adapters.postgres_model import PARTS, Process, Row, Server, Transaction
from tidemill.adapters.postgres.windows import END, Cursor, Snapshot, Tick, Ticks, Window, parse_cursor, parse_snapshot
from tidemill.adapters.postgres.windows import tick_of as made

DOCS = 3


def tick(id: int, text: str, seq: int = 0, *, xact: int = 0, era: int = 1) -> Tick:
    return made(id, seq, era, text, str(xact or parse_snapshot(text).xmax))


# --- parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seen", "unseen"),
    [("3:3:", [1, 2], [3, 4]), ("5:9:5,7", [4, 6, 8], [5, 7, 9, 10]), ("5:5:", [3, 4], [5, 6])],
)
def test_what_a_snapshot_sees(text: str, seen: list[int], unseen: list[int]) -> None:
    snapshot = parse_snapshot(text)
    assert all(snapshot.sees(xid) for xid in seen)
    assert not any(snapshot.sees(xid) for xid in unseen)


def test_a_snapshot_of_thousands() -> None:
    running = tuple(range(10, 20_000, 3))
    snapshot = Snapshot(20_000, running)
    assert {xid for xid in range(10, 20_000) if not snapshot.sees(xid)} == set(running)


@pytest.mark.parametrize("text", ["1", "b1", "7>9:12:3", "b7>9:12:3", f"{END}>{END}:{END}:99"])
def test_a_cursor_is_its_text(text: str) -> None:
    assert str(parse_cursor(text)) == text


def test_cursors_stand_in_the_order_in_which_they_are_reached() -> None:
    places = [parse_cursor(text).place() for text in ("7", "7>9:1:1", "7>9:12:2", "9", "9>10:3:1", "10")]
    assert places == sorted(set(places))


@pytest.mark.parametrize(
    ("text", "xact", "running", "latest"),
    [("5:9:5,7", 11, "{5,7,9,10}", "11"), ("5:5:", 5, "{}", "5"), ("5:14:5,11,13", 11, "{5,11,13}", "13")],
)
def test_what_a_tick_does_not_know_was_running_or_came_later(text: str, xact: int, running: str, latest: str) -> None:
    one = tick(2, text, xact=xact)
    assert (one.running, one.latest) == (running, latest)
    unknown = [xid for xid in range(20) if not one.snapshot.sees(xid) and xid != xact]
    was_running = [int(xid) for xid in running.strip("{}").split(",") if xid]
    assert sorted({*was_running, *range(int(latest) + 1, 20)} - {xact}) == unknown


def test_a_cursor_settles_on_ticks_that_are_left() -> None:
    ticks = Ticks([tick(id, "3:3:") for id in (1, 5, 9)])
    settled = {
        text: str(ticks.settle(parse_cursor(text)))
        for text in ("5", "b5", "7", "5>9:4:1", "5>8:4:1", "6>9:4:1", "9>11:4:1", "12", "b12>13:1:1", "1>9:2:2")
    }
    assert settled == {
        "5": "5", "b5": "b5", "7": "5", "5>9:4:1": "5>9:4:1", "5>8:4:1": "5", "6>9:4:1": "5", "9>11:4:1": "9",
        "12": "9", "b12>13:1:1": "b9", "1>9:2:2": "1",
    }  # fmt: skip


def test_windows_are_merged_as_far_as_they_fit_a_page() -> None:
    ticks = Ticks([tick(n, f"{n + 3}:{n + 3}:", seq=10 * n) for n in range(1, 6)])

    def ends(cursor: str, most: int) -> tuple[list[int], int] | None:
        window = ticks.window(parse_cursor(cursor), most)
        return None if window is None else ([tick.id for tick in window.ticks], window.upto)

    assert ends("1", 5) == ([2], 30)
    assert ends("1", 20) == ([2, 3], 40)
    assert ends("1", 100) == ([2, 3, 4, 5], END)
    assert ends("1>2:14:1", 100) == ([2], 30)  # one that was begun is read alone
    assert ends("5", 100) is None


def test_no_window_spans_two_eras() -> None:
    ticks = Ticks([tick(1, "3:3:"), tick(2, "9:9:", 5), tick(3, "3:3:", 5, era=2), tick(4, "7:7:", 8, era=2)])
    window = ticks.window(Cursor(1), 100)
    assert window is not None
    assert ([tick.id for tick in window.ticks], window.upto, window.empty) == ([2], END, False)
    border = ticks.window(Cursor(2), 100)
    assert border is not None
    assert ([tick.id for tick in border.ticks], border.empty) == ([3], True)
    after = ticks.window(Cursor(3), 100)
    assert after is not None
    assert ([tick.id for tick in after.ticks], after.empty) == ([4], False)


def test_a_transaction_is_in_the_first_window_that_sees_it() -> None:
    texts = ["3:8:3,5", "5:9:5", "9:9:", "9:12:9,11", "12:12:"]
    window = Window(tick(1, "3:3:"), tuple(tick(n + 2, text) for n, text in enumerate(texts)), END)
    for xid in range(3, 12):
        (first, *_) = [n for n, text in enumerate(texts) if parse_snapshot(text).sees(xid)]
        assert window.index_of(xid) == first


# --- on the model -----------------------------------------------------------------------------------------------

Seen = dict[int, tuple[int, ...]]
"""By document, the changes that a reading has brought, each at its first time."""


class Writing(RuleBasedStateMachine):
    """Writers and ticks."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        self.open: list[Transaction] = []

    def pick(self, n: int) -> Transaction:
        return self.open[n % len(self.open)]

    @rule(early=st.booleans())
    def begin(self, early: bool) -> None:
        if len(self.open) < 5:
            self.open.append(transaction := self.server.begin())
            if early:
                self.server.number(transaction)

    @precondition(lambda self: self.open)
    @rule(n=st.integers(0, 4), doc=st.integers(0, DOCS - 1))
    def write(self, n: int, doc: int) -> None:
        self.server.write(self.pick(n), doc)

    @rule(doc=st.integers(0, DOCS - 1))
    def write_at_once(self, doc: int) -> None:
        transaction = self.server.begin()
        self.server.write(transaction, doc)
        self.server.end(transaction, commit=True)

    @precondition(lambda self: self.open)
    @rule(n=st.integers(0, 4), save=st.booleans())
    def savepoint(self, n: int, save: bool) -> None:
        (self.server.save if save else self.server.back)(self.pick(n))

    @precondition(lambda self: self.open)
    @rule(n=st.integers(0, 4), commit=st.sampled_from([True, True, False]))
    def end(self, n: int, commit: bool) -> None:
        transaction = self.pick(n)
        self.open.remove(transaction)
        self.server.end(transaction, commit=commit)


class Reading(Writing):
    """Two processes read by the adapter's own code, crash, and go on from any cursor that was handed out."""

    def __init__(self) -> None:
        super().__init__()
        self.processes = [Process(self.server), Process(self.server, keep=3)]
        self.cursors: list[dict[str, str]] = [{str(n): "1" for n in range(PARTS)} for _ in self.processes]
        self.seen: list[list[Seen]] = [[{} for _ in range(PARTS)] for _ in self.processes]
        self.order: list[list[int]] = [[0] * PARTS for _ in self.processes]
        self.came: list[set[str]] = [set() for _ in self.processes]
        self.highest: list[list[int]] = [[0] * PARTS for _ in self.processes]
        self.handed: list[tuple[str, str, Seen, int]] = []

    @rule()
    def make_tick(self) -> None:
        self.server.step()

    @rule()
    def make_tick_at_once(self) -> None:
        self.server.tick()

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        self.server.time += seconds * 1000

    @rule(place=st.integers(1, 20))
    def thin(self, place: int) -> None:
        """A tick ahead of a reader goes only if the reader was away for long."""
        ticks, cursors = self.server.ticks, [cursor for each in self.cursors for cursor in each.values()]
        if place < len(ticks) and ticks[place].id >= min(parse_cursor(cursor).tick for cursor in cursors):
            self.all_anew()
        self.server.thin(place)

    def all_anew(self) -> None:
        for reader in range(len(self.processes)):
            self.read_anew(reader)

    @rule(reader=st.integers(0, 1), limit=st.integers(1, 4), look=st.booleans(), some=st.booleans())
    def read(self, reader: int, limit: int, look: bool, some: bool) -> None:
        self.read_some(reader, limit, look, some)

    def read_some(self, reader: int, limit: int, look: bool, some: bool) -> bool:
        process, cursors = self.processes[reader], self.cursors[reader]
        if look:
            process.look()
        asked = dict(list(cursors.items())[:1]) if some else cursors
        pages = process.read(asked, limit)
        for name, page in pages.items():
            part = int(name)
            for change in page.changes:
                assert change.order > self.order[reader][part], "the order rises along each reading"
                self.order[reader][part] = change.order
                assert change.id not in self.came[reader], "nothing comes twice to one reading"
                self.came[reader].add(change.id)
                seen, doc, seq = self.seen[reader][part], int(change.document), int(change.id)
                if seq not in seen.get(doc, ()):
                    assert change.order > self.highest[reader][part], "also above what was read before a crash"
                    self.highest[reader][part] = change.order
                    self.seen[reader][part] = seen = {**seen, doc: (*seen.get(doc, ()), seq)}
                history = self.server.history[doc]
                assert list(seen[doc]) == history[: len(seen[doc])], "commits of a row come in order, without a gap"
                assert change.cursor is not None
                self.handed.append((name, change.cursor, seen, self.highest[reader][part]))
            cursors[name] = page.cursor
            self.handed.append((name, page.cursor, self.seen[reader][part], self.highest[reader][part]))
        return any(page.changes for page in pages.values())

    @precondition(lambda self: self.handed)
    @rule(reader=st.integers(0, 1), which=st.integers(0, 1000))
    def go_on_from(self, reader: int, which: int) -> None:
        name, cursor, seen, highest = self.handed[which % len(self.handed)]
        self.cursors[reader][name] = cursor
        self.seen[reader][int(name)] = seen
        self.highest[reader][int(name)] = highest
        self.order[reader][int(name)] = 0
        self.came[reader] = set()

    @rule(reader=st.integers(0, 1))
    def read_anew(self, reader: int) -> None:
        self.processes[reader] = Process(self.server, keep=3 if reader else 1000)
        self.order[reader] = [0] * PARTS
        self.came[reader] = set()

    @rule()
    def crash(self) -> None:
        self.server.crash()
        self.open.clear()
        self.all_anew()

    def teardown(self) -> None:
        while self.open:
            self.end(0, True)
        while self.server.making is not None:
            self.server.step()
        self.server.tick()
        for which in range(-1, min(len(self.handed), 40)):
            if which >= 0:
                self.go_on_from(0, which * 37)
            self.read_anew(0)
            while self.read_some(0, 3, True, False):
                pass
            for doc, history in self.server.history.items():
                assert list(self.seen[0][doc % PARTS].get(doc, ())) == history, "nothing is lost"


TestReading = Reading.TestCase
TestReading.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize(("own_first", "wanted"), [(False, ["1", "2"]), (True, ["1"])])
def test_the_number_is_read_before_a_tick_has_its_own(own_first: bool, wanted: list[str]) -> None:
    """The other way round, what begins and draws between the two is lost."""
    server = Server(own_first=own_first)
    process, cursors, found = Process(server), {"0": "1"}, list[str]()

    def write() -> Transaction:
        server.write(transaction := server.begin(), 0 if server.last_seq == 0 else 2)
        return transaction

    server.end(write(), commit=True)
    server.step()
    late = write()
    while server.making is not None:
        server.step()
    server.end(late, commit=True)
    server.tick()
    process.look()
    while pages := process.read(cursors, 1):
        cursors["0"] = pages["0"].cursor
        found += [change.id for change in pages["0"].changes]
    assert found == wanted


class Naive(Writing):
    """A reader by one rule, without ticks."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Row] = []

    def found_now(self) -> list[Row]:
        raise NotImplementedError

    @rule()
    def read(self) -> None:
        self.found += self.found_now()
        for doc, history in self.server.history.items():
            seen = [row.seq for row in self.found if row.doc == doc]
            assert seen == history[: len(seen)]

    def teardown(self) -> None:
        while self.open:
            self.end(0, True)
        self.read()
        assert len(self.found) == len(self.server.rows)


class AboveTheLastNumber(Naive):
    def found_now(self) -> list[Row]:
        last = self.found[-1].seq if self.found else 0
        return sorted((row for row in self.server.rows if row.seq > last), key=lambda row: row.seq)


class BelowTheOldestTransaction(Naive):
    """Complete, but not in order: the number of a transaction may be older than its turn at a row."""

    def found_now(self) -> list[Row]:
        xmin = int(self.server.snapshot().split(":")[0])
        last = max(((row.xid, row.seq) for row in self.found), default=(0, 0))
        return sorted(row for row in self.server.rows if row.xid < xmin and (row.xid, row.seq) > last)


@pytest.mark.parametrize("machine", [AboveTheLastNumber, BelowTheOldestTransaction])
def test_the_model_bites(machine: type[Writing]) -> None:
    chosen = settings(
        max_examples=5_000, stateful_step_count=40, deadline=None, derandomize=True, phases=[Phase.generate],
        report_multiple_bugs=False,
    )  # fmt: skip
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=chosen)
