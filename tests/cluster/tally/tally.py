"""The app of the cluster's tests: it keeps books of what reached it, and in which order.

    POST /entries → entries → count (feed: checks the order per account) → receipts queue → book (counts the copies)
                                                                         blocks queue → block (blocks its loop, once)

Effects and acks are one commit, so each entry is counted once however often it is delivered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from fastapi import FastAPI

from tidemill import App, Change, Context


@dataclass(frozen=True)
class Entry:
    """The number `seq` (1, 2, …) of an account."""

    id: str
    account: str
    seq: int


@dataclass(frozen=True)
class Account:
    """The last number that was counted, and how many came out of turn."""

    id: str
    last: int = 0
    wrong: int = 0


@dataclass(frozen=True)
class Receipt:
    """How often an entry was booked."""

    id: str
    times: int = 0


app = App("tally", api="tally:api")
entries = app.collection("entries", Entry, id="id", key="account")
accounts = app.collection("accounts", Account, id="id")
receipts = app.collection("receipts", Receipt, id="id")
blocked = app.collection("blocked", Receipt, id="id")
slips = app.queue("slips", Entry)
blocks = app.queue("blocks", Receipt)
api = FastAPI()


@app.on_change(entries, start="beginning", concurrency=32)
async def count(change: Change[Entry], context: Context) -> None:
    """The next number of its account, or one that came out of turn."""
    entry = change.value
    found = await accounts.get(entry.account)
    before = found.value if found else Account(entry.account)
    wrong = before.wrong + (entry.seq != before.last + 1)
    context.transaction.put(accounts, replace(before, last=entry.seq, wrong=wrong), etag=found.etag if found else None)
    context.transaction.send(slips, entry)


@app.on_message(slips, concurrency=32)
async def book(slip: Entry, context: Context) -> None:
    """Some work, and the receipt."""
    found = await receipts.get(slip.id)
    times = found.value.times + 1 if found else 1
    context.transaction.put(receipts, Receipt(slip.id, times), etag=found.etag if found else None)


@app.on_message(blocks, group="blocks")
async def block(order: Receipt) -> None:
    """Hold the loop for ten minutes, unless that has been done."""
    if await blocked.get(order.id) is None:
        await blocked.put(replace(order, times=1))
        time.sleep(600)


@app.every("5s")
async def tick() -> None: ...


@api.post("/entries", status_code=201)
async def add(entry: Entry) -> None:
    await entries.put(entry)


@api.post("/blocks/{name}", status_code=201)
async def add_block(name: str) -> None:
    await blocks.send(Receipt(name))


@api.get("/books")
async def books() -> dict[str, dict[str, list[int]]]:
    """What was counted: by account its last number and how many came out of turn, by account how often its entries
    were booked."""
    booked: dict[str, list[int]] = {}
    async for found in receipts.all():
        booked.setdefault(found.id.rpartition("-")[0], []).append(found.value.times)
    counted = {found.id: [found.value.last, found.value.wrong] async for found in accounts.all()}
    return {"counted": counted, "booked": booked}
