"""The transitions of a lease: what the token and the cursor may do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.lease import (
    SINGLE_AFTER,
    Lease,
    checkpoint,
    claim,
    condemned,
    created,
    from_value,
    key_of,
    prefix_of,
    release,
    reset,
    resume,
)
from tidemill.errors import FormatTooNew

FULL = Lease("c9", "m1", 7, "n7", 2, "halted", "m2", 41, 40, ("p0",), "orders", "w", {"colour": "blue"})


def test_a_lease_comes_back_as_it_was_stored() -> None:
    assert from_value(FULL.to_value()) == FULL
    assert from_value(FULL.to_value()).write == "w"


def test_unknown_fields_survive_every_transition() -> None:
    for changed in (
        claim(FULL, "m3", "n8", buried=True),
        checkpoint(FULL, "c10"),
        release(FULL, None),
        resume(FULL, "n8"),
        reset(FULL, "c1", "n8"),
    ):
        assert from_value(changed.to_value()).extra == {"colour": "blue"}


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(FormatTooNew):
        from_value({**FULL.to_value(), "format": 2})


def test_the_names_of_the_adapters_contract() -> None:
    assert {"epoch", "nonce", "cursor", "owner", "write"} <= FULL.to_value().keys()
    assert key_of("bill", "03") == prefix_of("bill") + "03" == "lease/bill/03"


def test_claims_of_the_released_count_no_crash() -> None:
    lease = claim(created("c0"), "m1", "n1", buried=False)
    lease = claim(release(lease, "m2"), "m2", "n2", buried=False)
    assert (lease.owner, lease.epoch, lease.nonce, lease.crashes, lease.next_owner) == ("m2", 2, "n2", 0, None)


def test_claims_from_the_buried_count_until_the_cursor_moves() -> None:
    lease = created("c0")
    for n in range(3):
        lease = claim(lease, f"m{n}", f"n{n}", buried=n > 0)
    assert lease.crashes == 2
    assert checkpoint(lease, "c0", running_one=17).crashes == 2
    assert checkpoint(lease, "c1").crashes == 0


def test_the_change_that_runs_alone_is_named_until_the_next_mark() -> None:
    lease = checkpoint(created("c0"), "c0", running_one=17)
    assert lease.running_one == 17
    assert checkpoint(lease, "c1").running_one is None


def crashed(lease: Lease, *running: int | None) -> Lease:
    """After these crashes, each with this change running alone (None: nobody had begun)."""
    for one in running:
        lease = claim(checkpoint(lease, lease.cursor, running_one=one), "m", "n", buried=True)
    return lease


def test_who_was_alone_in_three_crashes_running_is_condemned() -> None:
    lease = crashed(created("c0"), None, None, None)
    assert lease.crashes == SINGLE_AFTER
    assert condemned(crashed(lease, 17, 17)) is None
    assert condemned(crashed(lease, 17, 17, 17)) == 17
    assert condemned(crashed(lease, 17, 17, 17, None)) == 17  # it ended before it could be put aside


def test_a_crash_while_nobody_had_begun_condemns_nobody() -> None:
    lease = crashed(created("c0"), None, None, None, 17, None, None, None)
    assert condemned(lease) is None
    assert condemned(crashed(lease, 18, 18)) is None  # another one begins anew
    assert condemned(crashed(lease, 18, 17, 17)) is None
    assert condemned(crashed(lease, 17, None, 17)) == 17


def test_progress_clears_the_suspect_and_calm_everything() -> None:
    lease = crashed(created("c0"), None, None, None, 17)
    assert (checkpoint(lease, "c1").crashes, checkpoint(lease, "c1").suspect) == (SINGLE_AFTER, None)
    assert (checkpoint(lease, "c0").crashes, checkpoint(lease, "c0").suspect) == (SINGLE_AFTER + 1, 17)
    assert (checkpoint(lease, "c0", calm=True).crashes, checkpoint(lease, "c0", calm=True).suspect) == (0, None)


def test_a_release_keeps_the_nonce_and_a_claim_does_not() -> None:
    lease = claim(created("c0"), "m1", "n1", buried=False)
    assert release(lease, None).nonce == "n1"
    assert claim(release(lease, None), "m1", "n2", buried=False).nonce == "n2"


@given(steps=st.lists(st.sampled_from(["claim", "bury", "checkpoint", "release", "resume", "reset"]), max_size=40))
def test_the_token_changes_exactly_where_it_must(steps: list[str]) -> None:
    lease, order = created("0"), 0
    for number, step in enumerate(steps):
        before, nonce = lease, f"n{number}"
        match step:
            case "claim" | "bury":
                lease = claim(lease, f"m{number}", nonce, buried=step == "bury")
            case "checkpoint":
                order += 1
                lease = checkpoint(lease, str(order))
            case "release":
                lease = release(lease, None)
            case "resume":
                lease = resume(lease, nonce)
            case "reset":
                order = 0
                lease = reset(lease, "0", nonce)
        new_token = step in ("claim", "bury", "resume", "reset")
        assert lease.epoch == before.epoch + new_token
        assert (lease.nonce != before.nonce) == new_token
        assert int(lease.cursor) >= int(before.cursor) or step == "reset"
