"""`python -m tests.doubles.cosmos --port P`: the double as a process of its own, until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio

from tests.doubles.cosmos.server import Server
from tests.doubles.cosmos.state import Account
from tests.doubles.process import until_told


async def serve(port: int, database: str, partitions: int, regions: tuple[str, ...]) -> None:
    """Listen, say where, and wait for a signal."""
    account = Account(partitions)
    account.databases[database] = {}
    server = Server(account, regions=regions)
    await server.start(port)
    print(server.endpoint, flush=True)
    await until_told()
    await server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--database", default="shop")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--regions", default="Here", help="by comma; the first takes writes")
    said = parser.parse_args()
    asyncio.run(serve(said.port, said.database, said.partitions, tuple(said.regions.split(","))))
