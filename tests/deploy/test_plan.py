"""The plan, over twenty apps: grace periods, probes, replicas, triggers, groups; and what cannot be deployed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tidemill.app.worker import Declared, OnChange, OnMessage
from tidemill.core.probes import USUAL
from tidemill.deploy.plan import LAME_DUCK, WAITING, Group, Plan, label, plan, termination
from tidemill.errors import ConfigurationError
from tidemill.model import StreamSpec
from tidemill.settings import Settings

from .apps import BUS, CASES, PG, STORAGE, Case, all_of, cron, feed, nothing, queue, timer

BY_NAME = {case.name: case for case in CASES}


def test_there_are_twenty() -> None:
    assert len(BY_NAME) == 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_plan_of_an_app(case: Case) -> None:
    declared = case.declared()
    made = case.plan()
    _groups_are_disjoint(made, declared)
    for group in made.groups:
        _has_time_to_drain(group, made.settings)
        _probes_fit_thresholds(group)
        _replicas_have_something_to_do(group, declared)
        _triggers_are_the_workers(group, declared, embedded=made.embedded)


def _groups_are_disjoint(made: Plan, declared: Declared) -> None:
    names = [group.name for group in made.groups]
    assert len(set(names)) == len(names) > 0
    workers = [worker for group in made.groups for worker in group.workers]
    assert sorted(workers) == sorted(worker.name for worker in declared.workers), "each worker in one group"
    served = [group for group in made.groups if group.api_port is not None]
    assert len(served) == (1 if declared.api else 0)
    assert made.embedded == (names == ["all"])


def _has_time_to_drain(group: Group, settings: Settings) -> None:
    in_pod = settings.model_copy(update={"lame_duck": settings.lame_duck or LAME_DUCK})
    assert group.termination >= in_pod.budget().total()
    assert group.termination >= settings.grace + LAME_DUCK


def _probes_fit_thresholds(group: Group) -> None:
    """The kubelet acts before the process would end itself, and after it had the time that it gives itself."""
    probes = group.probes
    assert USUAL.handlers + probes.liveness.patience <= USUAL.end
    assert probes.liveness.failures >= 2, "one late answer is no reason to restart"
    assert probes.readiness.patience <= USUAL.handlers
    assert probes.startup.patience >= USUAL.intake
    assert probes.startup.period <= probes.readiness.period <= probes.liveness.period
    assert {probe.timeout for probe in (probes.startup, probes.readiness, probes.liveness)} == {5}


def _replicas_have_something_to_do(group: Group, declared: Declared) -> None:
    triggers = [worker.trigger for worker in declared.workers if worker.name in group.workers]
    partitions = [trigger.source.partitions for trigger in triggers if isinstance(trigger, OnChange)]
    assert group.partitions == max(partitions, default=None)
    assert 1 <= group.replicas <= group.most
    if group.partitions is not None:
        assert group.replicas <= group.most <= group.partitions
    assert not group.rollout.unavailable or group.most == 1, "a rollout never takes away what works"


def _triggers_are_the_workers(group: Group, declared: Declared, *, embedded: bool) -> None:
    worked = {
        worker.name: worker
        for worker in declared.workers
        if worker.name in group.workers and isinstance(worker.trigger, OnMessage | OnChange)
    }
    assert [trigger.worker for trigger in group.triggers] == ([] if embedded else list(worked))
    for trigger in group.triggers:
        worker = worked[trigger.worker]
        at_once = worker.policy.concurrency * (worker.policy.batch or 1)
        assert trigger.per_replica == at_once * WAITING
        assert trigger.kind == ("queue" if isinstance(worker.trigger, OnMessage) else "feed")
        assert bool(trigger.query) == (trigger.kind == "queue" and trigger.scheme == "postgresql")


def test_groups_and_what_runs_in_them() -> None:
    made = BY_NAME["all of it"].plan()
    assert [(group.name, sorted(group.kinds), group.replicas, group.most) for group in made.groups] == [
        ("api", ["api"], 2, 20),
        ("feeds", ["feeds"], 2, 16),
        ("queues", ["queues"], 2, 20),
        ("timers", ["timers"], 1, 20),
    ]
    assert all(earlier.name < later.name for earlier, later in pairwise(made.groups))


def test_work_in_children_asks_for_memory() -> None:
    (group,) = BY_NAME["work in children"].plan().groups
    assert group.memory_mb == 128 + 4 * 64


def test_a_file_is_one_replica_that_is_replaced_before_the_next_begins() -> None:
    made = BY_NAME["a file"].plan()
    (group,) = made.groups
    assert (made.embedded, group.name, group.replicas, group.most, group.triggers) == (True, "all", 1, 1, ())
    assert (group.rollout.surge, group.rollout.unavailable) == (0, 1)
    assert (group.api_port, group.health_port) == (9000, 9001)


def test_each_queue_is_counted_where_it_lives() -> None:
    made = BY_NAME["queues on Azure"].plan()
    found = {trigger.source: trigger for group in made.groups for trigger in group.triggers}
    feed_ = found.pop("bill-orders")
    assert (feed_.kind, feed_.scheme, feed_.query) == ("feed", "postgresql", "")
    assert {(t.source, t.scheme, t.account, t.setting) for t in found.values()} == {
        ("invoices", "azure-storage-queue", "shopaccount", "TIDEMILL_QUEUES__INVOICES__URL"),
        ("mails", "azure-service-bus", "shop.servicebus.windows.net", "TIDEMILL_QUEUES__MAILS__URL"),
    }


def test_a_queue_with_a_key_is_worked_by_partition() -> None:
    case = BY_NAME["a queue with a key"]
    (worker,) = case.declared().workers
    assert isinstance(worker.trigger, OnChange)
    assert isinstance(worker.trigger.source, StreamSpec)
    (group,) = case.plan().groups
    assert (group.kinds, group.most) == (frozenset({"queues"}), worker.trigger.source.partitions)


@pytest.mark.parametrize("said", [{}, {"grace": 0}, {"grace": 90.5}, {"lame_duck": 12}, {"grace": 600, "lame_duck": 1}])
def test_the_grace_period_is_the_whole_budget(said: dict[str, Any]) -> None:
    settings = Settings.model_validate(said)
    beside = settings.budget().total() - settings.grace - settings.lame_duck
    assert termination(settings) >= settings.grace + (settings.lame_duck or LAME_DUCK) + beside
    assert termination(settings) < settings.grace + (settings.lame_duck or LAME_DUCK) + beside + 1


@pytest.mark.parametrize(
    ("case", "lines"),
    [
        (
            Case("", nothing, settings={}),
            ["app 'shop' declares no worker and no web API: there is nothing to deploy"],
        ),
        (
            Case("", queue(group="My_Group"), app="Shop"),
            [
                "app 'Shop' cannot name things in Kubernetes (no DNS-1123 label); call it 'shop' in App",
                "group 'My_Group' cannot name things in Kubernetes (no DNS-1123 label); call it 'my-group' in group=",
            ],
        ),
        (
            Case("", cron, app="a" * 41),
            [
                f"app {'a' * 41!r} cannot name things in Kubernetes (longer than 40 characters);"
                f" call it {'a' * 40!r} in App"
            ],
        ),
        (
            Case("", queue(), settings={"database": "memory:"}),
            ["the database is memory:, which ends with each process; set TIDEMILL_DATABASE to one that pods can share"],
        ),
        (
            Case("", queue(), settings={"database": PG, "queues": {"invoices": {"url": "memory:"}}}),
            ["the database is memory:, which ends with each process; set TIDEMILL_DATABASE to one that pods can share"],
        ),
        (
            Case("", queue(), settings={"database": PG, "groups": "queues", "debug": True}),
            [
                "groups=queues: a chart has all groups, and each pod is told its own; take it out",
                "debug=true: without time-outs no probe ever fails; take it out",
            ],
        ),
        (
            Case("", nothing, api=True, settings={"database": PG, "api_port": 0}),
            ["api_port=0: probes and Services need a port that is known; write one, such as 8081"],
        ),
        (
            Case("", nothing, api=True, settings={"database": PG, "api_port": 8081}),
            ["health_port and api_port are both 8081; a pod needs two"],
        ),
    ],
)
def test_what_cannot_be_deployed_is_told_line_by_line(case: Case, lines: list[str]) -> None:
    with pytest.raises(ConfigurationError) as told:
        case.plan()
    assert list(told.value.problems) == lines


@pytest.mark.parametrize(
    ("name", "proposed"),
    [("Shop", "shop"), ("my_shop.v2", "my-shop-v2"), ("2shop", "app-2shop"), ("", "app"), ("_", "app")],
)
def test_a_name_that_does_not_fit_gets_a_proposal_that_does(name: str, proposed: str) -> None:
    assert label(name) == proposed


def test_ports_of_an_api_that_is_not_there_do_not_matter() -> None:
    settings = Settings.model_validate({"database": PG, "api_port": 8081})
    made = plan(Case("", timer()).declared(), settings, target="shop.app:app", version="1")
    assert made.groups[0].api_port is None


def test_feeds_in_a_group_with_others_keep_to_their_partitions() -> None:
    made = Case("", all_of(feed(1, group="work"), queue(group="work"))).plan()
    assert (made.groups[0].replicas, made.groups[0].most) == (1, 1)


def test_feeds_beside_the_api_do_not_hold_it_down() -> None:
    made = Case("", feed(1, group="api"), api=True).plan()
    (group,) = made.groups
    assert (group.replicas, group.most, group.partitions) == (2, 20, 1)


def test_the_addresses_of_the_table_are_what_they_say() -> None:
    assert (PG.partition(":")[0], BUS.partition(":")[0], STORAGE.partition(":")[0]) == (
        "postgresql",
        "azure-service-bus",
        "azure-storage-queue",
    )
