"""The clients, and for each queue the links that are kept open: one that breaks is replaced by the next call.

State: at most one link a purpose, and those that are being closed (which takes the client up to a second). Failure
cases. *A link breaks under several calls*: each of them fails as unknown, the first retires it, the next call opens a
new one. *What was received on the old link is settled on the new one*: the client finds its delivery tag unknown
there and goes by the management link with the lock's token. *The client never renews the credit of a management link*
(10,000 answers): a link is replaced when it is idle after `ANSWERS` requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from azure.core.credentials_async import AsyncTokenCredential
from azure.servicebus import ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from tidemill.adapters.azure.account import credential
from tidemill.adapters.service_bus.address import Address
from tidemill.adapters.service_bus.faults import HARMLESS, translate
from tidemill.errors import ConfigurationError

TRY = 6.0
"""Seconds that opening a link or a request to the management of a queue may take."""
SLICE = 0.02
"""Seconds for which the client waits for a frame at a time: nothing is written meanwhile, so a settle beside a receive
takes that long (0.2 unless said, and said it must be for each link: the client's own option does not reach them)."""
CLOSING = 3.0
"""Seconds that a link may take to close: the client waits without a limit for a peer that does not answer."""
ANSWERS = 5_000
LOOK = 250
"""Messages that are asked for in one look."""

R = TypeVar("R")


class Opened(Protocol):
    """What receivers and senders have in common."""

    async def __aenter__(self) -> Any: ...

    async def close(self) -> None: ...


T = TypeVar("T", bound=Opened)


class Link(Generic[T]):
    """A receiver or a sender that is there when it is needed."""

    def __init__(self, make: Callable[[], T], told: Callable[[Exception, bool], Exception]) -> None:
        self._make = make
        self._told = told
        self._link: T | None = None
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._users = 0
        self._answers = 0

    async def open(self) -> None:
        """Connect. Raises errors of ours, a mistake of the configuration as such."""
        try:
            await self._ready()
        except Exception as error:
            raise self._told(error, True) from error

    async def use(self, call: Callable[[T], Awaitable[R]], *, asks: int = 0) -> R:
        """What the call returns; `asks`: how many requests to the management it makes. Raises the client's errors."""
        link = await self._ready()
        wire = wire_of(link)
        self._users += 1
        self._answers += asks
        try:
            return await call(link)
        except HARMLESS:
            raise
        except Exception:
            self.retire(link)
            raise
        finally:
            self._users -= 1
            if wire_of(link) is not wire:
                await hang_up(wire)

    def retire(self, link: T | None = None) -> None:
        """Use this one (the current one) no more."""
        link = link or self._link
        if link is not None and self._link is link:
            self._link = None
            self._answers = 0
            task = asyncio.create_task(quietly(link))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        self.retire()
        await asyncio.gather(*self._closing)

    async def _ready(self) -> T:
        async with self._opening:
            if self._answers >= ANSWERS and not self._users:
                self.retire()
            if self._link is None:
                link = self._make()
                try:
                    await link.__aenter__()
                except BaseException:
                    await quietly(link)
                    raise
                self._link = link
            return self._link


async def look(link: Link[ServiceBusReceiver], first: int, most: int) -> list[ServiceBusReceivedMessage]:
    """At most so many messages from this sequence number on, without claiming any. Raises the client's errors."""
    found: list[ServiceBusReceivedMessage] = []
    while len(found) < most:
        start, count = (found[-1].sequence_number or 0) + 1 if found else first, min(most - len(found), LOOK)
        some = await link.use(
            partial(ServiceBusReceiver.peek_messages, max_message_count=count, sequence_number=start), asks=1
        )
        if not some:
            break
        found += some
    return found


class Wire(Protocol):
    """A connection's transport."""

    async def close(self) -> None: ...


def wire_of(link: Opened) -> Wire | None:
    """The transport of a link. The client forgets to close it after the service has closed its end: its connection
    takes itself for ended then. (Private in the client; without these names the garbage collector closes it.)"""
    connection = getattr(getattr(link, "_handler", None), "_connection", None)
    return getattr(connection, "_transport", None)


async def hang_up(wire: Wire | None) -> None:
    """Close a transport, for `CLOSING` seconds at most."""
    if wire is not None:
        try:
            await asyncio.wait_for(wire.close(), CLOSING)
        except TimeoutError:  # somebody reads from it for ever; it ends with the process
            pass


async def quietly(link: Opened, wire: Wire | None = None) -> None:
    """Close it, whatever it says, for `CLOSING` seconds at most; `wire`: its transport, where the link may have lost
    sight of it."""
    wire = wire or wire_of(link)
    try:
        await asyncio.wait_for(link.close(), CLOSING)
    except Exception:  # it was broken before, and nothing hangs on it any more
        pass
    await hang_up(wire)


class Clients:
    """One client for sending, whose links the service closes when they are idle, so that it may try twice; one for all
    else, where a second try inside the client would hide whether the first had effect."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._identity: AsyncTokenCredential | None = None
        self._clients: list[ServiceBusClient] = []

    def open(self) -> None:
        """Make the clients; nothing is connected yet."""
        if not self._clients:
            try:
                self._clients = [self._client(0), self._client(1)]
            except ValueError as error:
                words = self.address.account.words(error)
                raise ConfigurationError(f"{self.address.shown}: the connection string does not fit: {words}") from None

    def sender(self, queue: str) -> Link[ServiceBusSender]:
        return Link(lambda: self._one(1).get_queue_sender(queue, socket_timeout=SLICE), self.told(queue))

    def receiver(self, queue: str, *, dead: bool = False) -> Link[ServiceBusReceiver]:
        sub = ServiceBusSubQueue.DEAD_LETTER if dead else None
        return Link(
            lambda: self._one(0).get_queue_receiver(queue, sub_queue=sub, socket_timeout=SLICE), self.told(queue)
        )

    def of_session(self, queue: str, session: Any, wait: float) -> ServiceBusReceiver:
        return self._one(0).get_queue_receiver(queue, session_id=session, max_wait_time=wait, socket_timeout=SLICE)

    def told(self, queue: str) -> Callable[[Exception, bool], Exception]:
        """The client's errors as ours, for this queue."""
        return lambda error, opening: translate(error, self.address, queue, opening=opening)

    async def close(self) -> None:
        clients, self._clients = self._clients, []
        await asyncio.gather(*map(quietly, clients))
        if self._identity is not None:
            await self._identity.close()
            self._identity = None

    def _one(self, which: int) -> ServiceBusClient:
        if not self._clients:
            raise ConfigurationError(f"{self.address.shown}: not open")
        return self._clients[which]

    def _client(self, retries: int) -> ServiceBusClient:
        options: dict[str, Any] = {
            "retry_total": retries,
            "retry_backoff_factor": 0.1,
            "retry_mode": "fixed",
            "try_timeout": TRY,
        }
        if self.address.connection:
            return ServiceBusClient.from_connection_string(self.address.connection, **options)
        self._identity = self._identity or credential()
        return ServiceBusClient(self.address.host, self._identity, **options)
