"""The connection to one account, and its queues by name.

The client's own retries would outlast the limits of the engine, so they are few and short; what takes or ends a claim
is sent once, for a repeated request cannot tell the effect of the first from that of somebody else.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from azure.core.exceptions import HttpResponseError
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from tidemill.adapters.azure.account import credential
from tidemill.adapters.storage_queue.address import Address
from tidemill.adapters.storage_queue.faults import EXISTS, LOST, NO_QUEUE, code, translate
from tidemill.errors import ConfigurationError, Unavailable

T = TypeVar("T")

RETRIES = {"retry_total": 2, "initial_backoff": 0, "increment_base": 1, "random_jitter_range": 1}
ONCE: Mapping[str, Any] = {"retry_total": 0}
TIMEOUT = 10
FOREVER = -1
"""A message lives until it is settled; the service's own default is a week."""

PAGE = 32
"""Messages that one request brings at most."""


class Service:
    """The client of one account. `open` before anything else; `close` may come at any time."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._stack: AsyncExitStack | None = None
        self._client: QueueServiceClient | None = None

    async def open(self) -> None:
        """Connect. Idempotent. Raises `ConfigurationError` for what a person must mend."""
        if self._client is not None:
            return
        address = self.address
        said: dict[str, Any] = {"api_version": address.api_version} if address.api_version else {}
        said |= {**RETRIES, "connection_timeout": TIMEOUT, "read_timeout": TIMEOUT}
        said["logger"] = logging.Logger("azure", logging.WARNING)  # by itself it writes two lines for each request
        async with AsyncExitStack() as stack, self.told(opening=True):
            who: Any = address.credential or await stack.enter_async_context(credential())
            try:
                client = QueueServiceClient(address.endpoint, who, **said)
            except ValueError as error:
                raise ConfigurationError(f"{address.shown}: {_misfit(error, address)}") from None
            self._client = await stack.enter_async_context(client)
            self._stack = stack.pop_all()

    async def close(self) -> None:
        """Disconnect. Idempotent, and legal before `open`."""
        stack, self._stack, self._client = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    def queue(self, name: str) -> Queue:
        """A queue, which may be missing."""
        return Queue(self, name)

    def client(self, name: str) -> QueueClient:
        """The client's own, of a queue."""
        if self._client is None:
            raise Unavailable(f"{self.address.shown}: not connected")
        return self._client.get_queue_client(name)

    @asynccontextmanager
    async def told(self, *, opening: bool = False) -> AsyncIterator[None]:
        """What the client raises, as ours."""
        try:
            yield
        except Exception as error:
            ours = translate(error, self.address, opening=opening)
            if ours is error:
                raise
            raise ours from None


def _misfit(error: ValueError, address: Address) -> str:
    """What the client itself refuses, before it asks anybody."""
    told = address.account.words(error).partition("Please select")[0].strip()
    if "API version" not in told:
        return told
    return f"api_version={address.api_version!r}: the client knows no such version; write 2025-11-05, or leave it out"


class Queue:
    """One queue of the account, in the service's words. Messages are texts, times seconds, of which the service takes
    whole ones. A queue that was removed is made again by who needs it, where we are to create."""

    def __init__(self, service: Service, name: str) -> None:
        self.name = name
        self._service = service
        self._creates = service.address.create

    @property
    def _client(self) -> QueueClient:
        return self._service.client(self.name)

    async def make(self) -> None:
        """Create it, unless it is there; or see that it is, where we are not to create."""
        if self._creates:
            await self._create(opening=True)
        elif await self.count(opening=True) is None:
            raise ConfigurationError(
                f"{self._service.address.shown}: there is no queue {self.name!r}; create it (az storage queue create"
                f" --name {self.name}), or leave create=no out"
            )

    async def send(self, text: str, hidden: int = 0) -> str:
        """Its id."""
        sent = await self._there(
            lambda: self._client.send_message(text, visibility_timeout=hidden, time_to_live=FOREVER)
        )
        return sent.id

    async def receive(self, limit: int, claim: float) -> list[QueueMessage]:
        """Some of those that can be seen; hidden from all for `claim` seconds."""

        async def receive() -> list[QueueMessage]:
            found = self._client.receive_messages(
                messages_per_page=min(limit, PAGE), visibility_timeout=round(claim), **ONCE
            )
            async for page in found.by_page():  # the client would ask again until nothing comes
                return [message async for message in page]
            return []

        return await self._there(receive)

    async def update(self, id: str, receipt: str, hidden: float, text: str | None = None) -> str | None:
        """Hide it for so long from now, with another text if one is given. The new receipt; None: the claim is lost."""
        said: dict[str, Any] = {"visibility_timeout": round(hidden), **ONCE}
        updated = await self._ask(lambda: self._client.update_message(id, receipt, text, **said), *LOST)
        return None if updated is None else updated.pop_receipt

    async def delete(self, id: str, receipt: str) -> bool:
        """Remove it; False: the claim is lost."""

        async def delete() -> bool:
            await self._client.delete_message(id, receipt, **ONCE)
            return True

        return await self._ask(delete, *LOST) or False

    async def peek(self) -> list[QueueMessage]:
        """The first of those that can be seen, a page of them; none if there is no such queue."""
        return await self._ask(lambda: self._client.peek_messages(PAGE), NO_QUEUE) or []

    async def count(self, *, opening: bool = False) -> int | None:
        """About how many there are, hidden ones included; None if there is no such queue."""
        found = await self._ask(lambda: self._client.get_queue_properties(), NO_QUEUE, opening=opening)
        return None if found is None else found.approximate_message_count or 0

    async def _create(self, *, opening: bool = False) -> None:
        await self._ask(lambda: self._client.create_queue(), EXISTS, opening=opening)

    async def _ask(self, do: Callable[[], Awaitable[T]], *codes: str, opening: bool = False) -> T | None:
        """What it answers; None where the service's word for it is one of these."""
        async with self._service.told(opening=opening):
            try:
                return await do()
            except HttpResponseError as error:
                if code(error) not in codes:
                    raise
                return None

    async def _there(self, do: Callable[[], Awaitable[T]]) -> T:
        async with self._service.told():
            try:
                return await do()
            except HttpResponseError as error:
                if code(error) != NO_QUEUE or not self._creates:
                    raise
            await self._create()
            return await do()
