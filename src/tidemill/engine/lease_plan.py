"""From what is known of members and leases to what this replica does next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tidemill.core.balance import plan
from tidemill.engine.lease_view import LeaseView
from tidemill.engine.membership import Membership

ANYBODY_AFTER = 2.0


@dataclass(frozen=True, slots=True)
class Moves:
    """Per feed worker: partitions to claim, and to release (to whom). `overdue` are those of the claims that fall to
    somebody who has not come for them. `again`: when more may be due (monotonic)."""

    claims: Mapping[str, Sequence[str]]
    overdue: Mapping[str, Sequence[str]]
    releases: Mapping[str, Sequence[tuple[str, str | None]]]
    again: float

    def touch(self, worker: str) -> bool:
        return bool(self.claims[worker] or self.releases[worker])


def moves(views: Mapping[str, LeaseView], membership: Membership, now: float, *, draining: bool) -> Moves:
    """What falls to us, what is too much; and what has been free for so long that anybody may take it."""
    me, again = membership.member, float("inf")
    divisions = {}
    for name, view in views.items():
        view.free(now, membership.is_buried)
        members = membership.members(view.group)
        weights = {m.id: m.weight for m in members if m.weight > 0 and not (draining and m.id == me)}
        divisions[name] = view.division(weights, membership.is_buried)
    made = plan(me, divisions, cost=lambda worker, partition: _cost(views[worker], partition, now))
    claims, overdue = {}, {}
    for name, view in views.items():
        mine = set(made.claims[name])
        may = me in divisions[name].weights
        others = [p for p in view.free_since if may and p not in mine and view.claimable(p)]
        overdue[name] = [p for p in others if now - view.free_since[p] >= ANYBODY_AFTER]
        claims[name] = [p for p in [*made.claims[name], *overdue[name]] if view.claimable(p)]
        again = min([again, *(view.free_since[p] + ANYBODY_AFTER for p in others)])
    return Moves(claims, overdue, made.releases, again)


def _cost(view: LeaseView, partition: str, now: float) -> float:
    """What is released first: what is on its way, then what is quiet, last what did not get quiet before."""
    hold = view.holds.get(partition)
    if partition in view.giving:
        return -1.0
    if view.kept_until.get(partition, float("-inf")) > now:
        return 2.0
    return 1.0 if hold is not None and hold.busy else 0.0
