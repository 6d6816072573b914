"""Apps and routers: what a router declares is the app's once it is included, under names that are checked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from tidemill import App, Change, Context, Health, Proceed, Router
from tidemill.errors import ConfigurationError
from tidemill.testing.harness import Harness


def shop() -> Router:
    """A router with one of everything."""
    router = Router()
    numbers = router.queue("numbers", int)
    router.table("rows", int, id="id")
    things = router.collection("things", dict[str, str], id="id")

    @router.on_message(numbers)
    async def count(number: int) -> None:
        """Does nothing."""

    @router.on_change(things)
    async def watch(change: Change[dict[str, str]]) -> None:
        await numbers.send(1)

    @router.every("1m")
    async def often() -> None:
        """Does nothing."""

    @router.cron("0 3 * * *")
    def nightly() -> None:
        """Does nothing."""

    @router.task()
    def thumbnail(image: int) -> None:
        """Does nothing."""

    @router.health("fresh", of=[count, thumbnail])
    def fresh() -> Health:
        return Health.healthy()

    return router


NAMES = ["count", "watch", "often", "nightly", "thumbnail"]


def test_what_a_router_declares_is_the_apps() -> None:
    app = App("test")
    app.include(shop())
    declared = app.declared()
    assert [w.name for w in declared.workers] == NAMES
    assert [w.group for w in declared.workers] == ["queues", "feeds", "timers", "timers", "queues"]
    assert [spec.name for spec, _ in declared.queues] == ["numbers", "thumbnail"]
    assert [spec.name for spec, _ in declared.collections] == ["rows", "things"]
    assert [(rule.name, rule.workers) for rule in declared.rules] == [("fresh", ("count", "thumbnail"))]


def test_a_prefix_names_workers_and_rules_and_a_group_moves_the_workers() -> None:
    app = App("test")
    app.include(shop(), prefix="shop.", group="sales")
    declared = app.declared()
    assert [w.name for w in declared.workers] == [f"shop.{name}" for name in NAMES]
    assert {w.group for w in declared.workers} == {"sales"}
    assert [spec.name for spec, _ in declared.queues] == ["numbers", "thumbnail"]
    assert [(r.name, r.workers) for r in declared.rules] == [("shop.fresh", ("shop.count", "shop.thumbnail"))]


def test_routers_include_routers() -> None:
    app, middle = App("test"), Router()
    middle.include(shop(), prefix="b.")
    app.include(middle, prefix="a.")
    assert [w.name for w in app.declared().workers] == [f"a.b.{name}" for name in NAMES]


async def test_included_workers_work() -> None:
    app, router = App("test"), Router()
    numbers = router.queue("numbers", int)
    seen: list[int] = []

    @router.on_message(numbers)
    async def count(number: int) -> None:
        seen.append(number)

    app.include(router, prefix="shop.")
    async with Harness(app) as harness:
        await numbers.send(7)
        await harness.idle()
        assert harness.verdicts == [("shop.count", "done")]
    assert seen == [7]


async def test_the_middleware_of_the_app_is_around_that_of_the_router_and_of_all_workers() -> None:
    seen: list[str] = []

    def noting(name: str) -> Callable[[Context, Proceed], Any]:
        async def around(context: Context, proceed: Proceed) -> None:
            seen.append(f"{name} {context.worker}")
            await proceed()

        return around

    app, router = App("test"), Router()
    inside, outside = router.queue("inside", int), app.queue("outside", int)

    @router.on_message(inside)
    async def of_router(number: int) -> None:
        await outside.send(number)

    @app.on_message(outside)
    async def of_app(number: int) -> None:
        """Does nothing."""

    router.middleware(noting("router"))
    app.include(router)
    app.middleware(noting("first"))
    app.middleware(noting("second"))
    async with Harness(app) as harness:
        await inside.send(7)
        await harness.idle()
        assert harness.verdicts == [("of_router", "done"), ("of_app", "done")]
    assert seen == [
        "first of_router", "second of_router", "router of_router", "first of_app", "second of_app"
    ]  # fmt: skip


def test_names_that_are_taken_are_told_all_at_once() -> None:
    app = App("test")
    app.include(shop())
    with pytest.raises(ConfigurationError) as caught:
        app.include(shop())
    assert caught.value.problems == (
        "collection or table 'rows' is declared here and in the included router: rename one",
        "collection or table 'things' is declared here and in the included router: rename one",
        "queue 'numbers' is declared here and in the included router: rename one",
        "queue 'thumbnail' is declared here and in the included router: rename one",
        *(
            f"worker '{name}' is declared here and in the included router: rename one, or include(…, prefix='…')"
            for name in NAMES
        ),
        "health rule 'fresh' is declared here and in the included router: rename one, or include(…, prefix='…')",
    )
    assert len(app.declared().workers) == len(NAMES)


def _twice() -> None:
    router = shop()
    App("one").include(router)
    App("two").include(router)


def _itself() -> None:
    app = App("test")
    app.include(app)


def _an_app() -> None:
    App("one").include(App("two"))


def _later() -> None:
    router = Router()
    App("test").include(router)
    router.queue("late", int)


def _odd_prefix() -> None:
    App("test").include(Router(), prefix="1.")


def _lifespan_of_app() -> None:
    App("test", lifespan=lambda app: app)


def _lifespan_made() -> None:
    App("test", lifespan=nullcontext())  # type: ignore[arg-type]


def _of_nobody() -> None:
    app, router = App("test"), Router()

    @app.on_message(router.queue("lost", int))
    async def count(number: int) -> None:
        """Never called."""

    app.declared()


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        (_twice, "a router is included once; this one is part of an app or router already"),
        (_itself, "a router is included once; this one is part of an app or router already"),
        (_an_app, "app 'two' cannot be included: make what is shared a Router()"),
        (_later, "this router is included already: declare everything before app.include(router)"),
        (
            _odd_prefix,
            "prefix name '1.': a name has letters, digits, '-', '_' and '.' only, and starts with a letter",
        ),
        (
            _of_nobody,
            "worker 'count': queue 'lost' is not of this app; app.include(…) the router that declares it",
        ),
        (
            _lifespan_of_app,
            "app 'test': lifespan <lambda> is called without arguments (missing a required argument: 'app')",
        ),
        (
            _lifespan_made,
            "app 'test': lifespan=nullcontext cannot be called; give the function, not what it returns",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(mistake: Callable[[], None], line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        mistake()
    assert caught.value.problems == (line,)


@pytest.mark.parametrize(
    "declare",
    [
        lambda router: router.queue("q", int),
        lambda router: router.collection("c", int, id="id"),
        lambda router: router.table("t", id="id"),
        lambda router: router.every("1m")(test_included_workers_work),
        lambda router: router.health("h")(lambda: Health.healthy()),
        lambda router: router.task(name="t")(_of_nobody),
        lambda router: router.include(Router()),
        lambda router: router.middleware(test_included_workers_work),
    ],
)
def test_an_included_router_is_closed(declare: Callable[[Router], object]) -> None:
    router = Router()
    App("test").include(router)
    with pytest.raises(ConfigurationError, match="included already"):
        declare(router)
