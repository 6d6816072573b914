"""What may be wrong with a namespace of Service Bus, a URL of one and its queues. `{bus}` is the URL of the double,
`{host}` its host and port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from tests.bad_inputs.table import Row, app, handler
from tests.doubles.service_bus.server import Server
from tests.doubles.service_bus.state import Namespace

NAME = "AZURE_SERVICEBUS_CONNECTION_STRING"
RUN = "run --database azure-service-bus:"
QUEUE = handler()
ORDERED = app("q = app.queue('q', dict, key='k')", "@app.on_message(q)", "async def w(m: dict): ...")


@contextmanager
def double(folder: Path, *, queue: str = "", later: float = 0.0, key: str = "") -> Iterator[Mapping[str, object]]:
    """The double in a thread. `queue`: `q` or `q:sessions`; `later`: its clock is so far ahead; `key`: the URL's."""
    namespace, loop, ready = Namespace(), asyncio.new_event_loop(), threading.Event()
    namespace.clock.offset = later
    server = Server(namespace)
    if queue:
        name, _, sessions = queue.partition(":")
        namespace.create(name, sessions=bool(sessions))
    over = asyncio.Event()

    async def serve() -> None:
        await server.start()
        ready.set()
        await over.wait()
        await server.stop()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    ready.wait(10)
    try:
        host, secret = f"127.0.0.1:{server.port}", quote(key or namespace.key, safe="")
        yield {"bus": f"azure-service-bus://:{secret}@{host}?policy={namespace.policy}&tls=no", "host": host}
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
        loop.close()


SERVICE_BUS = (
    # --- the URL
    Row("an option of Service Bus that is misspelt", f"{RUN}//ns?locks=30",
        "azure-service-bus://ns: there is no option 'locks' (did you mean lock?)", files=QUEUE),
    Row("a lock out of range", f"{RUN}//ns?lock=900",
        "azure-service-bus://ns: lock='900': write a whole number from 1 to 300", files=QUEUE),
    Row("a namespace with a path", f"{RUN}//ns/jobs",
        "azure-service-bus://ns/jobs: a namespace has no path", files=QUEUE),
    Row("a key of Service Bus without its name", f"{RUN}//:a2V5@ns",
        "azure-service-bus://ns: a key in the URL and the name of its policy belong together (?policy=",
        files=QUEUE),
    Row("no TLS to another machine", f"{RUN}//:a2V5@ns?policy=p&tls=no",
        "azure-service-bus://ns: tls=no is for a stand-in on this machine", files=QUEUE),
    Row("a connection string of Service Bus that is not set", RUN,
        f"azure-service-bus: ({NAME}): the variable {NAME} is not set", files=QUEUE),
    Row("a connection string without a key", RUN,
        f"azure-service-bus: ({NAME}): the connection string has no Endpoint=sb://…; with", files=QUEUE,
        env={NAME: "Endpoint=sb://ns.servicebus.windows.net/;"}),
    Row("a connection string for one queue", RUN,
        f"azure-service-bus: ({NAME}): the connection string is for 'q' alone; copy that of the namespace", files=QUEUE,
        env={NAME: "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=p;SharedAccessKey=a2V5;EntityPath=q"}),
    # --- what is there
    Row("a wrong key of Service Bus", "run --database {bus}",
        "service bus {host}: queue 'q': the namespace refuses this key, token or identity; copy key and name again",
        files=QUEUE, before=partial(double, queue="q", key="d3Jvbmc=")),
    Row("a token of Service Bus that has expired", "run --database {bus}",
        "service bus {host}: queue 'q': the namespace refuses this key, token or identity; copy key and name again",
        files=QUEUE, before=partial(double, queue="q", later=7200.0)),
    Row("a queue that Service Bus does not have", "run --database {bus}",
        "service bus {host}: queue 'q': there is no such queue; az servicebus queue create", files=QUEUE,
        before=double),
    Row("a queue with sessions, declared without a key", "run --database {bus}",
        "service bus {host}: queue 'q' requires sessions: declare it with key=", files=QUEUE,
        before=partial(double, queue="q:sessions")),
    Row("a queue with a key, made without sessions", "run --database {bus}",
        "service bus {host}: queue 'q' has no sessions, and key= needs them: create it with --enable-session true",
        files=ORDERED, before=partial(double, queue="q")),
    Row("a feed in Service Bus", "run --database {bus}",
        "service bus {host}: Service Bus has queues only: set another database for o, and this one for the queues",
        files=app("o = app.collection('o', dict, id='n')", "@app.on_change(o)", "async def w(c: Change[dict]): ..."),
        before=double),
    Row("a message that is too large for Service Bus", "queue send --database {bus}&size=64 q @big.jsonl",
        "@big.jsonl, line 1: queue 'q': the body has 70,008 bytes, its backend takes 61,440; keep",
        before=partial(double, queue="q"),
        files={**QUEUE, "big.jsonl": '{"x": "' + "x" * 70_000 + '"}\n'}),
)  # fmt: skip
