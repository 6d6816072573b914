"""Twenty apps as people declare them: what a plan and a chart must be right for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tidemill import App, Change
from tidemill.app.worker import Declared
from tidemill.deploy.plan import Plan, plan
from tidemill.settings import Settings

PG = "postgresql://shop@db.example.com/shop"
BUS = "azure-service-bus://shop.servicebus.windows.net"
STORAGE = "azure-storage-queue://shopaccount"

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """An app, and the settings it is deployed with."""

    name: str
    declare: Callable[[App], None]
    api: bool = False
    settings: Mapping[str, Any] = field(default_factory=lambda: {"database": PG})
    app: str = "shop"

    def declared(self) -> Declared:
        app = App(self.app, api="shop.api:api" if self.api else None)
        self.declare(app)
        return app.declared()

    def plan(self, version: str = "1.2.3") -> Plan:
        return plan(self.declared(), Settings.model_validate(self.settings), target="shop.app:app", version=version)


def nothing(app: App) -> None: ...


def feed(partitions: int = 16, group: str = "feeds", name: str = "bill", **options: Any) -> Callable[[App], None]:
    def declare(app: App) -> None:
        orders = app.collection(f"{name}-orders", Row, id="number", partitions=partitions)

        @app.on_change(orders, name=name, group=group, **options)
        async def bill(change: Change[Row]) -> None: ...

    return declare


def queue(
    name: str = "invoices", group: str = "queues", key: str | None = None, **options: Any
) -> Callable[[App], None]:
    def declare(app: App) -> None:
        invoices = app.queue(name, Row, key=key)

        @app.on_message(invoices, name=f"send-{name}", group=group, **options)
        async def send(invoice: Row) -> None: ...

    return declare


def batches(app: App) -> None:
    mails = app.queue("mails", Row)

    @app.on_message(mails, batch=50, concurrency=2)
    async def mail(found: list[Row]) -> None: ...


def table(app: App) -> None:
    customers = app.table("customers", id="id", partitions=4)

    @app.on_change(customers)
    async def index(change: Change[Row]) -> None: ...


def timer(group: str = "timers", per_replica: bool = False) -> Callable[[App], None]:
    def declare(app: App) -> None:
        @app.every("30s", group=group, per_replica=per_replica)
        async def refresh() -> None: ...

    return declare


def cron(app: App) -> None:
    @app.cron("0 3 * * *", tz="Europe/London")
    def nightly() -> None: ...


def task(app: App) -> None:
    @app.task()
    def thumbnail(image: int) -> None: ...


def children(app: App) -> None:
    images = app.queue("images", Row)

    @app.on_message(images, process=True, concurrency=4)
    def resize(image: Row) -> None: ...


def all_of(*parts: Callable[[App], None]) -> Callable[[App], None]:
    def declare(app: App) -> None:
        for part in parts:
            part(app)

    return declare


CASES = (
    Case("an API alone", nothing, api=True),
    Case("a feed", feed()),
    Case("a feed with one partition", feed(partitions=1)),
    Case("a feed of an existing table", table),
    Case("two feeds in one group", all_of(feed(4), feed(8, name="audit"))),
    Case("two feeds in two groups", all_of(feed(4), feed(2, name="audit", group="slow"))),
    Case("a queue", queue()),
    Case("a queue in batches", batches),
    Case("a queue with a key", queue(key="customer")),
    Case("a task", task),
    Case("work in children", children),
    Case("timers", all_of(timer(), cron)),
    Case("a timer in each replica of queues", all_of(queue(), timer("queues", per_replica=True))),
    Case("feeds and queues in one group", all_of(feed(4, group="work"), queue(group="work"))),
    Case("all of it", all_of(feed(), queue(), cron, task), api=True),
    Case("no database said", all_of(feed(), queue()), api=True, settings={}),
    Case("a long grace", queue(time_limit="5m"), settings={"database": PG, "grace": 300, "lame_duck": 20}),
    Case(
        "queues on Azure",
        all_of(feed(), queue(), queue("mails")),
        settings={
            "database": f"{PG}?schema=shop&sslmode=require",
            "queues": {"invoices": {"url": STORAGE}, "mails": {"url": BUS}},
        },
    ),
    Case(
        "a file",
        all_of(feed(), queue(), cron),
        api=True,
        settings={"database": "sqlite:///shop.db", "api_port": 9000, "health_port": 9001},
    ),
    Case("long names", queue(group="q" * 40), api=True, app="a" * 40),
)
