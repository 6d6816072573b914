"""Two releases side by side: of the user's app (a field added, renamed, removed), and of Tidemill (fields it does not
know in what is stored)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from tidemill import App, Change
from tidemill.adapters.memory import Memory
from tidemill.model import Record, Stale, Swap
from tidemill.ports import Store
from tidemill.testing.clock import FakeClock
from tidemill.testing.harness import Harness


class Old(BaseModel):
    id: str
    customer: str
    note: str = ""


class New(BaseModel):
    """`currency` was added, `customer` became `client` (the old name is still read), `note` was removed."""

    model_config = ConfigDict(populate_by_name=True)

    id: str
    client: str = Field(validation_alias=AliasChoices("client", "customer"))
    currency: str = "EUR"


def release(type_: type[Any]) -> tuple[App, Any, Any, list[str]]:
    """One release of the app: its handles, and the ids that its handlers have seen."""
    app = App("shop")
    queue = app.queue("invoices", type_)
    orders = app.collection("orders", type_, id="id", partitions=4)
    seen: list[str] = []

    @app.on_message(queue, name="send")
    async def send(invoice: Any) -> None:
        seen.append(f"message {invoice.id}")

    @app.on_change(orders, name="bill", start="beginning")
    async def bill(change: Change[Any]) -> None:
        if change.value.id == "bad":
            raise ValueError("bad today")
        seen.append(f"change {change.value.id}")

    @app.every("10s", name="tick")
    async def tick() -> None: ...

    return app, queue, orders, seen


async def test_a_rolling_update_of_the_app_loses_nothing() -> None:
    clock = FakeClock()
    shared = Memory(clock)
    old, old_queue, old_orders, old_seen = release(Old)
    new, new_queue, new_orders, new_seen = release(New)
    async with Harness(new, database=shared, clock=clock, replica="new") as after:
        async with Harness(old, database=shared, clock=clock, replica="old") as before:
            for n in range(20):
                await old_queue.send(Old(id=f"o{n}", customer="c", note="x"))
                await old_orders.put(Old(id=f"o{n}", customer="c", note="x"))
                await new_queue.send(New(id=f"n{n}", client="c"))
                await new_orders.put(New(id=f"n{n}", client="c"))
            await before.advance("60s")
        await after.advance("11m")  # what the old release could not read has waited for the new one
        assert await after.dead_letters(new_queue) == []
        assert await shared.dead_letters().count("") == {}
    wanted = {f"{kind} {release}{n}" for kind in ("message", "change") for release in "on" for n in range(20)}
    assert {*old_seen, *new_seen} == wanted
    assert not [what for what in old_seen if " n" in what], "the old release cannot read what the new one writes"


async def test_fields_of_a_newer_release_are_kept_and_do_not_disturb() -> None:
    clock = FakeClock()
    shared = Memory(clock)
    app, queue, orders, seen = release(Old)
    async with Harness(app, database=shared, clock=clock, replica="one"):
        await orders.put(Old(id="1", customer="c"))
        await orders.put(Old(id="bad", customer="c"))
        await clock.run_until(lambda: "change 1" in seen, 30)
        await clock.run_until(lambda: False, 120)  # until it is parked
    added = await _add_field(shared.store())
    assert {key.split("/")[0] for key in added} >= {"lease", "park", "timer"}
    async with Harness(app, database=shared, clock=clock, replica="two") as harness:
        await orders.put(Old(id="bad", customer="behind"))
        await orders.put(Old(id="2", customer="c"))
        await queue.send(Old(id="2", customer="c"))
        await harness.advance("60s")
        assert {"change 2", "message 2"} <= {*seen}
        after = await _records(shared.store())
        kept = {key for key, record in after.items() if "invented" in record.value}
        assert added & {*after} <= kept
        [parked] = [one for r in after.values() for one in dict(r.value.get("keys") or {}).values()]  # type: ignore[arg-type]
        assert (parked["count"], parked["invented"]) == (2, {"by": "a newer release"})  # type: ignore[index, call-overload]


async def _records(store: Store) -> Mapping[str, Record]:
    return {record.key: record for record in await store.scan("", "", 1000)}


async def _add_field(store: Store) -> set[str]:
    """To each record, and to each key in an index of parked keys."""
    new = {"invented": {"by": "a newer release"}}
    swaps = []
    for key, record in (await _records(store)).items():
        value = {**record.value, **new}
        if isinstance(parked := value.get("keys"), dict):
            value["keys"] = {name: {**one, **new} for name, one in parked.items() if isinstance(one, dict)}
        swaps.append(Swap(key, record.version, value))
    assert not [reply for reply in await store.swap(swaps) if isinstance(reply, Stale)]
    return {swap.key for swap in swaps}
