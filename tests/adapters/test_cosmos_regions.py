"""An account in two regions, on the double: which is read, outages, failover, reads of own writes while one lags."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.doubles.cosmos.regions import Region
from tests.doubles.cosmos.server import Rule, Server
from tests.servers.cosmos import regions as regions
from tests.servers.cosmos import url_of
from tidemill.adapters.cosmos import Cosmos
from tidemill.engine.clock import SystemClock
from tidemill.errors import Unavailable
from tidemill.model import CollectionSpec, Committed, Expect, Mismatch, Page, Put, Query, Record, Stored, Swap
from tidemill.model import Commit as DocumentCommit

ORDERS = CollectionSpec("orders", fields=("n",))


async def opened(server: Server, options: str) -> Cosmos:
    made = Cosmos.from_url(url_of(server, options), SystemClock())
    await made.open([ORDERS], [])
    return made


@pytest.fixture
async def near_there(regions: Server) -> AsyncIterator[Cosmos]:
    """A process that stands near There; Here takes the writes."""
    made = await opened(regions, "&regions=There")
    for region in regions.regions.all:
        region.counts.clear()
    yield made
    await made.close()


def put(id: str, n: int, expect: Expect | str = Expect.ANYTHING) -> Put:
    return Put("orders", id, id, json.dumps({"n": n}).encode(), expect)


def both(server: Server) -> tuple[Region, Region]:
    return server.regions.named("Here"), server.regions.named("There")


async def written(database: Cosmos, id: str, n: int) -> Stored:
    (found,) = await database.documents(ORDERS).write([put(id, n)])
    assert isinstance(found, Stored)
    return found


async def value(database: Cosmos, id: str) -> int | None:
    (found,) = await database.documents(ORDERS).get([id])
    return None if found is None else int(json.loads(found.body)["n"])


async def test_reads_go_to_the_preferred_region_and_writes_to_the_one_that_takes_them(
    regions: Server, near_there: Cosmos
) -> None:
    here, there = both(regions)
    await written(near_there, "a", 1)
    assert await value(near_there, "a") == 1
    assert (here.counts["POST docs"], there.counts["POST docs"]) == (1, 0)
    assert (here.counts["GET docs"], there.counts["GET docs"]) == (0, 1)
    feed = near_there.feed(ORDERS)
    assert len((await feed.read({"0": await feed.start("0", "beginning")}, 10, 0.0))["0"].changes) <= 1  # type: ignore[union-attr]
    assert (here.counts["GET feed"], there.counts["GET feed"]) == (0, 1)


async def test_an_outage_of_the_preferred_region_is_read_around(regions: Server, near_there: Cosmos) -> None:
    """The client knows the preferred regions only, here one: the account's others are put behind it by us."""
    here, there = both(regions)
    await written(near_there, "a", 1)
    there.down = True
    assert await value(near_there, "a") == 1
    tried = there.counts["GET docs"]
    assert await value(near_there, "a") == 1
    assert (there.counts["GET docs"], here.counts["GET docs"]) == (tried, 2), "it is not tried again each time"
    feed = near_there.feed(ORDERS)
    pages = await feed.read({name: await feed.start(name, "beginning") for name in await feed.partitions()}, 10, 0.0)
    found = [change.document for page in pages.values() if isinstance(page, Page) for change in page.changes]
    assert found == ["a"]


async def test_all_regions_down_is_an_outage(regions: Server, near_there: Cosmos) -> None:
    for region in regions.regions.all:
        region.down = True
    with pytest.raises(Unavailable):
        await value(near_there, "a")


async def test_a_failover_of_the_writes_is_followed(regions: Server, near_there: Cosmos) -> None:
    """The region that took them answers 403/3, and the client asks for the account anew."""
    here, there = both(regions)
    first = await written(near_there, "a", 1)
    regions.regions.failover("There")
    second = await written(near_there, "a", 2)
    assert there.counts["POST docs"] == 1
    refused = here.counts["POST docs"]
    (third,) = await near_there.documents(ORDERS).write([put("a", 3, second.etag)])
    assert isinstance(third, Stored)
    assert here.counts["POST docs"] == refused
    assert len({first.etag, second.etag, third.etag}) == 3
    assert await value(near_there, "a") == 3


async def test_the_loss_of_the_region_that_takes_writes_is_followed(regions: Server) -> None:
    """It answers nothing at all. By itself the client would ask for the account only after five minutes; it is told to
    whenever a request got no answer."""
    database = await opened(regions, "")
    here, there = both(regions)
    (record,) = await database.store().swap([Swap("lease", None, {"n": 1})])
    assert isinstance(record, Record)
    here.down = True
    with pytest.raises(Unavailable):
        await database.store().swap([Swap("lease", record.version, {"n": 2})])
    regions.regions.failover("There")
    for _ in range(5):
        try:
            (swapped,) = await database.store().swap([Swap("lease", record.version, {"n": 2})])
            break
        except Unavailable:
            continue
    assert isinstance(swapped, Record)
    assert there.counts["PUT docs"] == 1
    await database.close()


async def test_own_writes_are_read_while_the_region_lags(regions: Server, near_there: Cosmos) -> None:
    """By session tokens: There answers 404/1002 to who has seen more, and the client asks where writes are taken."""
    here, _ = both(regions)
    await written(near_there, "a", 1)
    regions.regions.lag("There")
    second = await written(near_there, "a", 2)
    await written(near_there, "b", 1)
    assert (await value(near_there, "a"), await value(near_there, "b")) == (2, 1)
    assert here.counts["GET docs"] == 2
    documents = near_there.documents(ORDERS)
    assert {one.id for one in (await documents.query(Query())).documents} == {"a", "b"}
    assert list(await documents.write([put("a", 9, Expect.NOTHING)])) == [Mismatch("a", second)]
    regions.regions.catch_up("There")
    before = here.counts["GET docs"]
    assert await value(near_there, "b") == 1
    assert here.counts["GET docs"] == before, "There again"


async def test_writes_of_others_may_be_read_late_and_are_never_overwritten(regions: Server, near_there: Cosmos) -> None:
    """Reads may be old; swaps and etags are judged where writes are taken."""
    other = await opened(regions, "&regions=Here")
    first = await written(near_there, "a", 1)
    (record,) = await near_there.store().swap([Swap("lease", None, {"n": 1})])
    assert isinstance(record, Record)
    regions.regions.lag("There")
    await written(other, "a", 2)
    await other.store().swap([Swap("lease", record.version, {"n": 2})])
    assert await value(near_there, "a") == 1, "old, as reads may be"
    (lost,) = await near_there.documents(ORDERS).write([put("a", 3, first.etag)])
    assert isinstance(lost, Mismatch)
    (stale,) = await near_there.store().swap([Swap("lease", record.version, {"n": 3})])
    assert not isinstance(stale, Record)
    assert await value(other, "a") == 2
    (result,) = await near_there.commit([DocumentCommit((put("a", 4),))])
    assert isinstance(result, Committed)
    assert await value(near_there, "a") == 4, "a batch is a write of ours, too"
    await other.close()


async def test_a_feed_goes_on_in_a_region_that_lags(regions: Server, near_there: Cosmos) -> None:
    """A place beyond what the region has is no end of the feed: 404/1002, and the region that takes writes is asked."""
    feed = near_there.feed(ORDERS)
    await written(near_there, "a", 1)
    cursors = {name: await feed.start(name, "now") for name in await feed.partitions()}
    regions.regions.lag("There")
    await written(near_there, "a", 2)
    found: list[str] = []
    for _ in range(3):
        for name, page in (await feed.read(cursors, 10, 0.0)).items():
            assert isinstance(page, Page)
            cursors[name] = page.cursor
            found += [json.loads(change.body or b"")["n"] for change in page.changes]
    assert found == [2]


async def test_regions_that_the_account_does_not_have_are_told_and_passed_over(regions: Server) -> None:
    database = await opened(regions, "&regions=Wset,there")
    (line,) = database.warnings
    assert "regions=Wset,there: the account has no Wset (it has Here, There); passed over" in line
    _, there = both(regions)
    there.counts.clear()
    await value(database, "a")
    assert there.counts["GET docs"] == 1, "names of regions are compared without case and blanks"
    await database.close()
    good = await opened(regions, "&regions=there")
    assert good.warnings == ()
    await good.close()


async def test_a_region_that_is_throttled_is_no_outage(regions: Server, near_there: Cosmos) -> None:
    _, there = both(regions)
    regions.rules.append(Rule("GET dbs/shop/colls/orders/docs", 429, 3200, after_ms=1))
    assert await value(near_there, "a") is None
    assert there.counts["GET docs"] == 2
