"""The double as a server on this machine: it listens, hands messages out, and fails when it is told to."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from tests.doubles.service_bus.connection import Connection
from tests.doubles.service_bus.links import Link
from tests.doubles.service_bus.state import Entity, Namespace

TICK = 0.02


@dataclass(slots=True)
class Fault:
    """What is to go wrong, so often: `kind` is `send settle attach cbs` or an operation of `$management`,
    `what` is `drop-before` (the connection ends before it has effect), `drop-after` (after), `busy`, `full`, `lost`,
    `delay`."""

    kind: str
    what: str
    times: int = 1
    seconds: float = 0.0


class Server:
    """A namespace that listens on 127.0.0.1. `counts` tells how often each kind of call was made."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.faults: list[Fault] = []
        self.counts: Counter[str] = Counter()
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._turn = 0

    @property
    def connection_string(self) -> str:
        """As an application gets it."""
        space = self.namespace
        return (
            f"Endpoint=sb://127.0.0.1:{self.port};SharedAccessKeyName={space.policy};"
            f"SharedAccessKey={space.key};UseDevelopmentEmulator=true;"
        )

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, port: int = 0) -> None:
        """Listen; 0 takes any port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self._ticking = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        """End all connections, and listen no more."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        self.drop()
        while self.connections:
            await asyncio.sleep(0.01)
        if self._server is not None:
            await self._server.wait_closed()

    def drop(self) -> None:
        """Every connection ends at this moment, as by a cable that is pulled."""
        for connection in list(self.connections):
            connection.abort()

    def fault(self, kind: str) -> Fault | None:
        """What is to go wrong with this call; it is counted."""
        self.counts[kind] += 1
        for fault in self.faults:
            if fault.kind == kind and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def pump(self, entity: Entity) -> None:
        """Hand out what is ready to who has asked for it, in turns."""
        if entity.settings.sessions:
            self._accept(entity)
        links = [link for connection in self.connections for link in connection.consumers(entity)]
        self._turn += 1
        links = links[self._turn % len(links) :] + links[: self._turn % len(links)] if links else []
        while links:
            links = [link for link in links if link.credit > 0 and self._deliver(entity, link)]

    def _deliver(self, entity: Entity, link: Link) -> bool:
        entry = entity.take(link.session)
        if entry is None:
            return False
        self.counts["deliver"] += 1
        link.connection.deliver(link, entry)
        return True

    def _accept(self, entity: Entity) -> None:
        """Give free sessions to those who wait for one."""
        now = self.namespace.clock.now()
        waiting = [(one, link) for one in list(self.connections) for link in one.waiting(entity)]
        for connection, link in waiting:
            name = entity.free_session()
            if name is not None:
                connection.give_session(link, name)
            elif link.patience <= now:
                connection.refuse_session(link)

    async def _tick(self) -> None:
        while True:
            for queue in list(self.namespace.queues.values()):
                self._turn_of(queue)
                if queue.dead is not None:
                    self._turn_of(queue.dead)
            await asyncio.sleep(TICK)

    def _turn_of(self, entity: Entity) -> None:
        for holder in entity.tick():
            if isinstance(holder, Link):
                holder.connection.lose_session(holder)
        self.pump(entity)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, reader, writer)
        self.connections.add(connection)
        try:
            await connection.run()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went away
        finally:
            self.connections.discard(connection)
            writer.close()
