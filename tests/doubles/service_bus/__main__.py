"""`python -m tests.doubles.service_bus --port P --queue jobs --lock 10`: the double as a process, until SIGTERM.

It says its connection string on the first line. `--queue NAME` may stand several times; `NAME:sessions` needs sessions.
"""

from __future__ import annotations

import argparse
import asyncio

from tests.doubles.process import until_told
from tests.doubles.service_bus.server import Server
from tests.doubles.service_bus.state import Namespace


async def serve(port: int, queues: list[str], lock: float, deliveries: int) -> None:
    """Listen, say where, and wait for a signal."""
    namespace = Namespace()
    for queue in queues:
        name, _, kind = queue.partition(":")
        namespace.create(name, lock=lock, deliveries=deliveries, sessions=kind == "sessions")
    server = Server(namespace)
    await server.start(port)
    print(server.connection_string, flush=True)
    await until_told()
    await server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--queue", action="append", default=[])
    parser.add_argument("--lock", type=float, default=30.0)
    parser.add_argument("--deliveries", type=int, default=2000)
    said = parser.parse_args()
    asyncio.run(serve(said.port, said.queue or ["jobs"], said.lock, said.deliveries))
