"""The store with leases of .NET's shape, on the double: contract, cost, bootstrap beside .NET, and what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.adapters.test_cosmos_dotnet import PREFIX, items
from tests.doubles.cosmos.server import Server
from tests.doubles.cosmos.state import Container, rid_of
from tests.servers.cosmos import cosmos as cosmos
from tests.servers.cosmos import url_of
from tidemill.adapters.cosmos import Cosmos
from tidemill.core import lease as leases
from tidemill.core.lease import Lease, from_value, key_of
from tidemill.engine.clock import SystemClock
from tidemill.errors import ConfigurationError
from tidemill.model import CollectionSpec, Gone, Put, Record, Stale, Swap, Swapped
from tidemill.ports import Store
from tidemill.testing import conformance

ORDERS = CollectionSpec("orders", workers=("bill",))
INVOICES = CollectionSpec("invoices", workers=("ship", "count"))
OPTIONS = "&leases=dotnet"


class TestDotnetLeases(
    conformance.DatabaseConformance,
    conformance.StoreConformance,
    conformance.DocumentsConformance,
    conformance.FeedConformance,
    conformance.DeadLettersConformance,
):
    @pytest.fixture
    async def bench(self, cosmos: Server) -> AsyncIterator[conformance.Bench]:
        clock = SystemClock()
        one, two = (Cosmos.from_url(url_of(cosmos, OPTIONS), clock) for _ in range(2))
        async with conformance.opened(one, clock, peer=two, tick=0.5) as bench:  # _ts counts whole seconds
            yield bench


class LeaseKeys:
    """Implements `Store`: any record as a lease of the worker `bill`. Its key is the partition, in hex digits."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        found = await self._inner.get([_key(key) for key in keys])
        return [record and _plain(record) for record in found]

    async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        return [_plain(record) for record in await self._inner.scan(_key(prefix), _key(after), limit)]

    async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
        sent = [Swap(_key(s.key), s.version, None if s.value is None else {"any": s.value}) for s in swaps]
        return [_answer(result) for result in await self._inner.swap(sent)]


def _key(key: str) -> str:
    return f"lease/bill/{key.encode().hex()}"


def _plain(record: Record) -> Record:
    key = bytes.fromhex(record.key.removeprefix("lease/bill/")).decode()
    return Record(key, record.version, record.value["any"])  # type: ignore[arg-type]


def _answer(result: Swapped) -> Swapped:
    match result:
        case Record():
            return _plain(result)
        case Gone(key):
            return Gone(bytes.fromhex(key.removeprefix("lease/bill/")).decode())
        case Stale(key, current):
            return Stale(bytes.fromhex(key.removeprefix("lease/bill/")).decode(), current and _plain(current))


class TestLeasesAsRecords(conformance.StoreConformance):
    """The items of leases keep every line of the store's contract, as records of ours do."""

    @pytest.fixture
    async def bench(self, cosmos: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[conformance.Bench]:
        clock = SystemClock()
        databases = [Cosmos.from_url(url_of(cosmos, OPTIONS), clock) for _ in range(2)]
        for database in databases:
            await database.open([ORDERS], [])
            store = LeaseKeys(database.store())
            monkeypatch.setattr(database, "store", lambda store=store: store)
        yield conformance.Bench(databases[0], clock, databases[1], 0.5)
        for database in databases:
            await database.close()


async def opened(server: Server, options: str = "", *sources: CollectionSpec) -> Cosmos:
    database = Cosmos.from_url(url_of(server, OPTIONS + options), SystemClock())
    try:
        await database.open(sources or [ORDERS], [])
    except ConfigurationError:
        await database.close()
        raise
    return database


@pytest.fixture
async def database(cosmos: Server) -> AsyncIterator[Cosmos]:
    made = await opened(cosmos)
    yield made
    await made.close()


def state(server: Server, name: str = "tidemill") -> Container:
    return server.account.container("shop", name)


def prefix(server: Server, processor: str = "bill", name: str = "orders") -> str:
    return f"{processor}127.0.0.1_{rid_of('shop')}_{state(server, name).rid}"


def stored(server: Server) -> dict[str, dict[str, Any]]:
    return {item["id"]: item for one in state(server).partitions for item in state(server).all(one)}


def write(server: Server, item: dict[str, Any], **more: Any) -> None:
    """As .NET would, under this account's names."""
    item = {**item, "id": item["id"].replace(PREFIX, prefix(server)), **more}
    state(server).write([item["id"]], item, how="upsert")


async def known(store: Store) -> dict[str, tuple[str, Lease]]:
    records = await store.scan("lease/bill/", "lease/bill/", 100)
    return {r.key.removeprefix("lease/bill/"): (r.version, from_value(r.value)) for r in records}


async def take(database: Cosmos, partition: str, **fields: Any) -> Record:
    """Create and claim the lease of a partition, as the engine does."""
    cursor = await database.feed(ORDERS).start(partition, "beginning")
    lease = leases.claim(leases.created(cursor, source="orders"), "me", f"n{partition}", buried=False)
    [result] = await database.store().swap([Swap(key_of("bill", partition), None, lease.to_value())])
    assert isinstance(result, Record)
    return result


# --- what is written ----------------------------------------------------------------------------------------


async def test_a_checkpoint_is_one_call(cosmos: Server, database: Cosmos) -> None:
    """.NET needs three: its replace does not carry the new etag on."""
    store = database.store()
    record = await take(database, "0")
    for partition in "123":
        await take(database, partition)
    before = dict(cosmos.counts)
    for n in range(5):
        lease = leases.checkpoint(from_value(record.value), f'-{"1" + "0" * 31}|"{n}"')
        [result] = await store.swap([Swap(record.key, record.version, lease.to_value())])
        assert isinstance(result, Record)
        record = result
    asked = {what: n - before.get(what, 0) for what, n in cosmos.counts.items() if n != before.get(what, 0)}
    assert asked == {"PUT docs": 5}
    item = stored(cosmos)[f"{prefix(cosmos)}..0"]
    assert (item["ContinuationToken"], item["Owner"], item["version"]) == ('"4"', "me", 0)
    assert item["FeedRange"] == {"Range": {"min": "", "max": "1" + "0" * 31}}


async def test_records_of_ours_stand_beside_them(cosmos: Server, database: Cosmos) -> None:
    await take(database, "0")
    others = [Swap(key, None, {"n": 1}) for key in ("member/a", "lease/other/0", "lease/bill", "park/bill/0")]
    await database.store().swap(others)
    ours = {f"tidemill|{key}".replace("/", "%2F") for key in ("member/a", "lease/other/0", "lease/bill", "park/bill/0")}
    assert set(stored(cosmos)) == {f"{prefix(cosmos)}..0", *ours}
    found = await database.store().scan("", "", 100)
    assert [r.key for r in found] == ["lease/bill", "lease/bill/0", "lease/other/0", "member/a", "park/bill/0"]
    page = await database.store().scan("lease/", "lease/bill", 2)
    assert [r.key for r in page] == ["lease/bill/0", "lease/other/0"]
    read = await database.store().get(["lease/bill/0", "member/a", "lease/bill/9"])
    assert [record and record.key for record in read] == ["lease/bill/0", "member/a", None]


async def test_swaps_of_leases_keep_the_contract(database: Cosmos) -> None:
    store = database.store()
    record = await take(database, "0")
    value = record.value
    [stale] = await store.swap([Swap(record.key, None, value)])
    assert isinstance(stale, Stale)
    assert stale.current is not None
    assert stale.current.version == record.version
    [stale] = await store.swap([Swap(record.key, '"no"', value)])
    assert isinstance(stale, Stale)
    assert await store.swap([Swap(record.key, record.version, None)]) == [Gone(record.key)]
    assert await store.swap([Swap(record.key, record.version, value)]) == [Stale(record.key, None)]
    assert await store.swap([Swap(record.key, None, None)]) == [Gone(record.key)]
    [again] = await store.swap([Swap(record.key, None, value)])
    assert isinstance(again, Record)
    assert again.version != record.version


async def test_processors_by_name(cosmos: Server) -> None:
    database = await opened(cosmos, "&processors=bill:,ship:Shipping", ORDERS, INVOICES)
    await take(database, "0")
    for worker in ("ship", "count"):
        cursor = await database.feed(INVOICES).start("0", "beginning")
        value = leases.created(cursor, source="invoices").to_value()
        await database.store().swap([Swap(key_of(worker, "0"), None, value)])
    wanted = {prefix(cosmos, ""), prefix(cosmos, "Shipping", "invoices"), prefix(cosmos, "count", "invoices")}
    assert {id.removesuffix("..0") for id in stored(cosmos)} == wanted
    assert list(await known(database.store())) == ["0"]
    keys = [record.key for record in await database.store().scan("lease/", "lease/", 10)]
    assert keys == ["lease/bill/0", "lease/count/0", "lease/ship/0"]
    await database.close()


# --- beside .NET at the start -------------------------------------------------------------------------------


async def test_info_is_written_when_all_partitions_have_leases(cosmos: Server, database: Cosmos) -> None:
    info = f"{prefix(cosmos)}.info"
    for partition in "012":
        await take(database, partition)
    assert info not in stored(cosmos)
    await take(database, "3")
    assert {name: value for name, value in stored(cosmos)[info].items() if name[0] != "_"} == {"id": info}


@pytest.mark.parametrize(("age", "there"), [(40, True), (46, False)])
async def test_a_lock_is_removed_when_its_holder_died(cosmos: Server, database: Cosmos, age: int, there: bool) -> None:
    """Where the container has no TTL, it would stay for ever, and every .NET host would wait for it."""
    lock = f"{prefix(cosmos)}.lock"
    state(cosmos).ttl = None
    state(cosmos).write([lock], {"id": lock, "ttl": 30}, how="create")
    cosmos.account.ahead += age
    await take(database, "0")
    assert (lock in stored(cosmos)) is there
    assert f"{prefix(cosmos)}..0" in stored(cosmos), "a lease is created beside it"


async def test_a_lease_that_both_create_is_created_once(cosmos: Server, database: Cosmos) -> None:
    write(cosmos, items("v0")[2], LeaseToken="0", id=f"{PREFIX}..0".replace(PREFIX, prefix(cosmos)))
    value = leases.created('-FF|"1"', source="orders").to_value()
    [stale] = await database.store().swap([Swap(key_of("bill", "0"), None, value)])
    assert isinstance(stale, Stale)
    assert stale.current is not None
    assert from_value(stale.current.value).epoch == 1


async def test_a_null_token_with_a_start_now_skips_nothing(cosmos: Server, database: Cosmos) -> None:
    """What was written between .NET's bootstrap and our takeover is read, and what was before is not."""
    documents, feed = database.documents(ORDERS), database.feed(ORDERS)
    await documents.write([Put("orders", "before", "before", b'{"id": "before"}')])
    cosmos.account.ahead += 100
    for item in items("v0_never_checkpointed"):
        write(cosmos, item)
    for n in range(1, 4):
        lease = {**items("v0_never_checkpointed")[1], "id": f"{PREFIX}..{n}", "LeaseToken": str(n), "FeedRange": None}
        write(cosmos, lease)
    await documents.write([Put("orders", f"d{n}", f"d{n}", json.dumps({"id": f"d{n}"}).encode()) for n in range(20)])
    cosmos.account.ahead += 100
    cursors = {
        name: await feed.start(name, lease.since) for name, (_, lease) in (await known(database.store())).items()
    }
    found = {change.document for page in (await feed.read(cursors, 100, 0.0)).values() for change in page.changes}  # type: ignore[union-attr]
    assert found == {f"d{n}" for n in range(20)}


# --- splits that were left half done ------------------------------------------------------------------------


async def test_a_split_that_dotnet_left_half_done_shows_what_is_missing(cosmos: Server, database: Cosmos) -> None:
    parent, child = items("split_half_done")
    write(cosmos, parent)
    first, second = state(cosmos, "orders").split("1")
    await database.feed(ORDERS).partitions()
    write(cosmos, child, LeaseToken=first, id=f"{prefix(cosmos)}..{first}")
    found = await known(database.store())
    assert set(found) == {"1", first}, f"{second} was not created"
    assert found[first][1].parents == ("1",)
    assert found["1"][1].cursor.endswith('|"40"')


async def test_a_partition_that_is_gone_can_be_begun_by_its_feed_range(cosmos: Server, database: Cosmos) -> None:
    """Never checkpointed, and then merged away: its bounds are in the lease only."""
    lease = items("v0_never_checkpointed")[1]
    bounds = [(one.low, one.high) for one in state(cosmos, "orders").partitions]
    low, high = bounds[1]
    write(cosmos, {**lease, "id": f"{PREFIX}..1", "LeaseToken": "1", "FeedRange": {"Range": {"min": low, "max": high}}})
    state(cosmos, "orders").merge("1", "2")
    feed = database.feed(ORDERS)
    assert "1" not in await feed.partitions()
    found = await known(database.store())
    assert found["1"][1].cursor == ""
    assert await feed.start("1", 5.0) == f"{low}-{high}|beginning|5.000"
    assert await feed.start("1", "now") == f"{low}-{high}|now"


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("java", "that of Java's processor, which cannot share leases"),
        ("full_fidelity", "it is in mode 'Full-Fidelity"),
    ],
)
async def test_leases_that_we_may_not_touch_are_refused_at_open(cosmos: Server, name: str, words: str) -> None:
    await (await opened(cosmos)).close()
    write(cosmos, items(name)[0])
    with pytest.raises(ConfigurationError, match=words):
        await opened(cosmos)
    await (await opened(cosmos, "&processors=bill:Other")).close()


async def test_leases_of_our_own_schema_are_not_passed_over(cosmos: Server) -> None:
    """To begin anew beside them would repeat or skip what they have done."""
    old = Cosmos.from_url(url_of(cosmos), SystemClock())
    await old.open([ORDERS], [])
    await old.store().swap([Swap("lease/bill/0", None, leases.created('-FF|"1"', source="orders").to_value())])
    await old.close()
    with pytest.raises(ConfigurationError, match="worker 'bill' has leases of Tidemill's own schema there"):
        await opened(cosmos)


async def test_two_workers_of_one_container_need_two_processors(cosmos: Server) -> None:
    with pytest.raises(ConfigurationError, match="workers 'ship' and 'count' have one processor for 'invoices'"):
        await opened(cosmos, "&processors=ship:,count:", INVOICES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("&processors=bill:X", "processors='bill:X': that is for leases=dotnet"),
        ("&leases=dotnet&processors=bill", "processors='bill': write worker:Name"),
        ("&leases=dotnet&processors=bill:a/b", "processors='bill:a/b': write worker:Name"),
        ("&leases=dotnet&processors=bill:a,bill:b", "each worker once"),
    ],
)
def test_processors_that_are_none(options: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Cosmos.from_url(f"cosmos://account/shop?poll=5{options}", SystemClock())
