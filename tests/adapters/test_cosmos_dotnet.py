"""Leases of .NET's processor and ours, both ways: items of real shape are read, taken, renewed and given back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.adapters.cosmos import cursor as cursors
from tidemill.adapters.cosmos.dotnet import (
    FULL_FIDELITY,
    INCREMENTAL,
    Around,
    Place,
    bounds_of,
    covered,
    from_item,
    stamp,
    to_item,
)
from tidemill.adapters.cosmos.ranges import Range
from tidemill.core import lease as leases
from tidemill.core.lease import Lease, from_value
from tidemill.errors import ConfigurationError

FILES = Path(__file__).parent / "leases"
PREFIX = "billshop-account.documents.azure.com_Sh0pAA==_Sh0pAOr0A="
PLACE = Place("bill", "orders", PREFIX, INCREMENTAL)
BOUNDS = ["", *(f"{n}{'0' * 31}" for n in (1, 2, 3)), "FF"]
RANGES = tuple(Range(str(n), BOUNDS[n], BOUNDS[n + 1]) for n in range(4))
MIDDLE = "18" + "0" * 30
SPLIT = (RANGES[0], Range("4", BOUNDS[1], MIDDLE, ("1",)), Range("5", MIDDLE, BOUNDS[2], ("1",)), *RANGES[2:])
MERGED = (RANGES[0], Range("6", BOUNDS[1], BOUNDS[3], ("1", "2")), RANGES[3])
NOW = 1_700_000_200.0
SYSTEM = ("_rid", "_self", "_etag", "_attachments", "_ts")


def items(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FILES / f"{name}.json").read_text("utf-8"))
    return found


def lease_of(item: Mapping[str, Any], place: Place = PLACE, ranges: tuple[Range, ...] = RANGES, **around: Any) -> Lease:
    bounds = around.pop("bounds", {})
    return from_value(from_item(item, place, Around(ranges, bounds, **around)))


def stored(lease: Lease, partition: str, place: Place = PLACE) -> dict[str, Any]:
    """The item as it comes back from the service."""
    item: dict[str, Any] = json.loads(json.dumps(to_item(lease.to_value(), place, partition, NOW)))
    return item | {"_etag": '"new"', "_ts": int(NOW)}


def strip(item: Mapping[str, Any]) -> dict[str, Any]:
    """What .NET wrote, without what each owner writes and what the service adds."""
    fields = {k: v for k, v in item.items() if k not in (*SYSTEM, "Owner", "timestamp")}
    notes = fields.pop("properties", None) or {}
    return fields | {"properties": {k: v for k, v in notes.items() if not k.startswith("tidemill.")}}


def dotnet_replaces(item: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """What .NET writes back: fields that it knows, `properties` copied."""
    known = (
        "id",
        "version",
        "LeaseToken",
        "PartitionId",
        "FeedRange",
        "Owner",
        "ContinuationToken",
        "properties",
        "Mode",
    )
    return {name: item[name] for name in known if name in item} | {"timestamp": stamp(NOW), "_ts": NOW} | fields


# --- reading what .NET wrote --------------------------------------------------------------------------------


def test_a_whole_partition_is_read_under_its_owner() -> None:
    info, held, free = items("v0")
    lease = lease_of(held, info_at=info["_ts"])
    assert cursors.parse(lease.cursor) == cursors.Cursor(BOUNDS[0], BOUNDS[1], '"1234"')
    assert (lease.owner, lease.foreign, lease.nonce, lease.epoch) == ("checkout-7d4f", True, "", 1)
    assert lease.renewed_at == pytest.approx(1_700_000_098.123, abs=0.01)
    assert lease.source == "orders"
    assert (lease_of(free).owner, lease_of(free).foreign) == (None, False)


def test_a_lease_that_was_never_checkpointed_tells_since_when() -> None:
    info, lease = items("v0_never_checkpointed")
    known = lease_of(lease, info_at=info["_ts"])
    assert (known.cursor, known.since, known.epoch) == ("", 1_699_999_999.0, 0)
    assert known.renewed_at == lease["_ts"], "no timestamp yet: the service's own"
    assert lease_of(lease).since == lease["_ts"] - 1, "no .info yet"
    assert lease_of(lease, info_at=lease["_ts"] + 500).since == lease["_ts"] - 1, "who created it died before .info"
    assert lease_of({**lease, "Mode": FULL_FIDELITY}, replace(PLACE, mode=FULL_FIDELITY)).since == 0


def test_bounds_are_read_as_they_are_named() -> None:
    [item] = items("v1")
    lease = lease_of(item)
    assert lease.cursor == f'{BOUNDS[1]}-{MIDDLE}|"77"'


def test_a_lease_of_the_second_version_keeps_what_it_came_with() -> None:
    [item] = items("migrated_from_v2")
    lease = lease_of(item)
    assert lease.cursor == f'{BOUNDS[2]}-{BOUNDS[3]}|"900"', "it has no FeedRange; the service lists its bounds"
    back = stored(leases.claim(lease, "me", "n1", buried=True), "2")
    assert (back["PartitionId"], back["state"], back["SequenceNumber"]) == ("2", 2, 14)
    assert (back["LeaseToken"], back["version"]) == ("2", 0)
    assert back["properties"]["team"] == "billing"


def test_a_child_waits_for_the_parent_that_is_still_there() -> None:
    parent, child = items("split_half_done")
    bounds = {"1": (BOUNDS[1], BOUNDS[2]), "4": (BOUNDS[1], MIDDLE)}
    assert lease_of(child, ranges=SPLIT).parents == ("1",), "as the service lists it"
    assert lease_of(child, ranges=SPLIT, bounds=bounds).parents == ("1",)
    assert lease_of(parent, ranges=SPLIT, bounds=bounds).parents == ()
    assert lease_of(child, ranges=SPLIT).epoch == 1, "it has a token: a split of ours leaves it as it is"


def test_a_merge_that_was_left_half_done() -> None:
    """The v1 lease of the old bounds waits for the v0 lease that it comes from, whose range is listed no more."""
    parent = items("v0")[2]
    token = f"{BOUNDS[1]}-{BOUNDS[2]}"
    child = {**parent, "id": f"{PREFIX}..{token}", "LeaseToken": token, "version": 1}
    bounds = {"1": (BOUNDS[1], BOUNDS[2]), token: (BOUNDS[1], BOUNDS[2])}
    assert lease_of(child, ranges=MERGED, bounds=bounds).parents == ("1",)
    assert lease_of(parent, ranges=MERGED, bounds=bounds).parents == ()
    assert lease_of(parent, ranges=MERGED, bounds=bounds).cursor.startswith(token), "bounds from FeedRange"


def test_without_feed_range_the_children_tell_the_bounds() -> None:
    parent = {**items("split_half_done")[0], "FeedRange": None}
    assert bounds_of(parent, "1", SPLIT) == (BOUNDS[1], BOUNDS[2])
    with pytest.raises(ConfigurationError, match=r"\.\.1: its range is no longer there and it has no FeedRange"):
        lease_of(parent, ranges=(RANGES[0], *RANGES[2:]))


@pytest.mark.parametrize("name", ["v0", "v1", "migrated_from_v2", "split_half_done", "unknown"])
def test_taken_renewed_and_given_back_nothing_is_changed_that_is_not_ours(name: str) -> None:
    for item in items(name):
        if not item["id"].startswith(f"{PREFIX}.."):
            continue
        partition = item["id"].removeprefix(f"{PREFIX}..")
        taken = leases.claim(lease_of(item), "me", "n1", buried=False)
        first = stored(taken, partition)
        assert (first["Owner"], first["timestamp"]) == ("me", "2023-11-14T22:16:40.000000Z")
        mine = lease_of(first)
        assert not mine.foreign
        assert (mine.owner, mine.nonce, mine.epoch) == ("me", "n1", 2)
        back = stored(leases.release(mine, None), partition)
        assert back["Owner"] is None
        assert "tidemill.owner" not in back["properties"]
        wanted = {"version": 0, "LeaseToken": partition, "Mode": INCREMENTAL} | strip(item)
        assert strip(back) == wanted | {"FeedRange": item.get("FeedRange") or strip(back)["FeedRange"]}
        assert back["ContinuationToken"] == item["ContinuationToken"], "the raw etag, with its quotes"


# --- what .NET does to ours ---------------------------------------------------------------------------------


def held() -> Lease:
    return leases.claim(leases.created(f'{BOUNDS[0]}-{BOUNDS[1]}|"5"', source="orders"), "me", "n1", buried=False)


def test_a_theft_is_no_lost_reply_of_ours() -> None:
    """.NET copies our properties, our nonce among them."""
    item = stored(held(), "0")
    stolen = lease_of(dotnet_replaces(item, Owner="checkout-7d4f"))
    assert (stolen.owner, stolen.foreign, stolen.nonce, stolen.epoch) == ("checkout-7d4f", True, "", 1)
    returned = lease_of(dotnet_replaces(item, Owner=None))
    assert (returned.owner, returned.foreign, returned.nonce) == (None, False, "")


def test_our_own_release_is_known_by_its_nonce() -> None:
    lease = lease_of(stored(leases.release(held(), "other"), "0"))
    assert (lease.owner, lease.nonce, lease.next_owner) == (None, "n1", "other")


def test_what_a_stranger_has_worked_is_no_longer_halted_or_suspected() -> None:
    ill = replace(held(), state="halted", crashes=4, running_one=7, suspect=7)
    item = stored(ill, "0")
    assert lease_of(item) == replace(ill, extra=lease_of(item).extra)
    moved = lease_of(dotnet_replaces(item, Owner=None, ContinuationToken='"9"'))
    assert (moved.state, moved.crashes, moved.running_one, moved.suspect, moved.epoch) == ("running", 0, None, None, 1)


def test_what_was_copied_to_a_child_says_nothing_of_the_child() -> None:
    parent = stored(replace(held(), state="halted", notes={"team": "billing"}), "0")
    child = dotnet_replaces(
        parent, id=f"{PREFIX}..4", LeaseToken="4", Owner=None, FeedRange={"Range": {"min": BOUNDS[1], "max": MIDDLE}}
    )
    lease = lease_of(child, ranges=SPLIT)
    assert (lease.owner, lease.nonce, lease.state, lease.parents) == (None, "", "running", ("1",))
    assert lease.epoch == 1, "somebody has worked up to its token"
    assert lease.notes == {"team": "billing"}


def test_a_start_that_has_no_etag_is_kept_in_a_property() -> None:
    begins = replace(held(), cursor=f"{BOUNDS[0]}-{BOUNDS[1]}|beginning|1699999999.000")
    item = stored(begins, "0")
    assert item["ContinuationToken"] is None
    assert lease_of(item).cursor == begins.cursor
    later = lease_of(dotnet_replaces(item, Owner=None, ContinuationToken='"3"'))
    assert later.cursor == f'{BOUNDS[0]}-{BOUNDS[1]}|"3"|1699999999.000', "older ones are passed over, whoever reads"


# --- what is refused ----------------------------------------------------------------------------------------


def test_leases_of_java_are_refused() -> None:
    [item] = items("java")
    with pytest.raises(ConfigurationError, match=r"that of Java's processor.*processors=bill:NAME") as raised:
        lease_of(item)
    assert len(raised.value.problems) == 1


@pytest.mark.parametrize("n", [0, 1])
def test_another_mode_is_refused_however_it_is_written(n: int) -> None:
    item = items("full_fidelity")[n]
    with pytest.raises(ConfigurationError, match=r"in mode 'F.*and mode=latest is 'Incremental Feed'; say mode=all"):
        lease_of(item)
    assert lease_of(item, replace(PLACE, mode=FULL_FIDELITY)).epoch == 1
    with pytest.raises(ConfigurationError, match=r"and mode=all is 'Full-Fidelity Feed'; say mode=latest"):
        lease_of(items("v0")[1], replace(PLACE, mode=FULL_FIDELITY))


# --- any lease ----------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts
flat = plain | st.lists(plain, max_size=3) | st.dictionaries(texts, plain, max_size=3)
values = flat | st.lists(flat, max_size=2) | st.dictionaries(texts, flat, max_size=2)
ours = st.builds(
    Lease,
    cursor=st.sampled_from(['"1"', '"1234"', "beginning", "now", '"7"|5.500', "beginning|5.500"]).map(
        lambda etag: f"{BOUNDS[0]}-{BOUNDS[1]}|{etag}"
    ),
    owner=st.none() | st.just("me"),
    epoch=st.integers(0, 9),
    nonce=st.sampled_from(["", "n1"]),
    crashes=st.integers(0, 7),
    state=st.sampled_from(["running", "halted", "paused"]),
    next_owner=st.none() | st.just("other"),
    running_one=st.none() | st.integers(0, 2**53),
    suspect=st.none() | st.integers(0, 2**53),
    parents=st.sampled_from([(), ("7",), ("7", "8")]),
    source=st.just("orders"),
    notes=st.dictionaries(texts.filter(lambda name: not name.startswith("tidemill.")), texts, max_size=3),
    extra=st.dictionaries(st.sampled_from(["renamed", "colour", "x"]), values, max_size=3),
)


@given(ours)
def test_every_lease_of_ours_comes_back(lease: Lease) -> None:
    found = lease_of(stored(lease, "0"))
    raw = found.extra["dotnet"]
    assert found == replace(lease, extra={**lease.extra, "dotnet": raw})
    assert lease_of(stored(found, "0")) == found, "and again"


@given(
    st.dictionaries(texts.filter(lambda name: name not in to_item({}, PLACE, "0", 0.0) and name[:1] != "_"), values),
    st.dictionaries(texts.filter(lambda name: not name.startswith("tidemill.")), texts),
)
def test_what_we_do_not_know_is_kept(fields: dict[str, Any], notes: dict[str, str]) -> None:
    item = {**items("v0")[1], **fields, "properties": notes}
    back = stored(leases.claim(lease_of(item), "me", "n1", buried=True), "0")
    assert strip(back) == strip(item)


def test_what_covers_everything() -> None:
    assert covered(RANGES, [(one.low, one.high) for one in RANGES])
    assert covered(RANGES, [("", MIDDLE), (MIDDLE, "FF")])
    assert not covered(RANGES, [("", MIDDLE), (BOUNDS[2], "FF")])
    assert not covered(RANGES, [])
