"""A queue with sessions: the messages of a key are its session, and go one after the other.

State: each session that we hold has at most one message out of its queue, which stays locked until a verdict removes
it. It is handed out, and again after a `Later`, by us alone, so nothing overtakes it. What a verdict leaves
(attempts, the reason, when it is due) stands in the session's own state beside the message's number, so whoever holds
the session next goes on from there. Trust: the session's lock, counted from before the request that gave it;
`receive` renews those of which a third is over, `extend` those it is asked for. Failure cases. *A lock is lost*, or
the connection of its session (each has one of its own): all that was claimed of it is `Lost`, and the service hands
it to somebody when the lock ends. *We close* a session that has nothing for a moment, or all of them at the end: that
counts as no hand-out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import OperationTimeoutError, SessionCannotBeLockedError

from tidemill.adapters.service_bus.claims import Claims
from tidemill.adapters.service_bus.faults import BUSY, DRIVER, unable
from tidemill.adapters.service_bus.letters import bury
from tidemill.adapters.service_bus.links import CLOSING, Clients, Link, Wire, quietly, wire_of
from tidemill.adapters.service_bus.wire import Note, delivery, fresh, note_of, put
from tidemill.model import Dead, Delivery, Depth, Later, Lost, Message, Outcome, QueueSpec, Settled, Waiting
from tidemill.ports import Clock

ACCEPT = 3.0
"""Seconds for which the service looks for a session that is free; less than `links.TRY`, which bounds the opening."""
HANDSHAKE = 1.0
"""Seconds for which a connection that is being made is not cancelled: the client would leave it open."""
ABREAST = 4
"""Sessions that are asked for at a time, while there are some; else one."""
IDLE = 2.0
"""A session without messages for so many seconds is closed, so that another replica may have the next ones."""
MOST = 256
"""Sessions that are held at a time; those whose message waits for its time are among them."""
GLANCE = 0.1

R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Live:
    """A session that we hold. `note` is of `message`; `claim` is empty while nobody works on it."""

    id: str
    receiver: ServiceBusReceiver
    wire: Wire | None
    state: dict[str, object]
    deadline: float
    used: float
    message: ServiceBusReceivedMessage | None = None
    note: Note | None = None
    due: float = 0.0
    claim: str = ""
    turns: int = 0


class SessionQueue:
    """Implements `tidemill.ports.Queue` for a queue with `key`."""

    def __init__(self, clients: Clients, spec: QueueSpec, clock: Clock) -> None:
        self._clients = clients
        self._spec = spec
        self._clock = clock
        self._told = clients.told(spec.name)
        self.sender: Link[ServiceBusSender] = clients.sender(spec.name)
        self._claims: Claims[Live] = Claims()
        self._live: dict[str, Live] = {}
        self._accepting: dict[asyncio.Task[Live | None], float] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._lucky = False

    async def open(self) -> None:
        """Connect, and see whether the queue has sessions. Raises errors of ours."""
        await asyncio.gather(self.sender.open(), self._look_in())

    async def _look_in(self) -> None:
        """Whether the queue can be received from. A session that comes is let go: perhaps nobody works here."""
        try:
            live = await self._accept(GLANCE)
        except Exception as error:
            raise self._told(error, True) from error
        if live is not None:
            self._shut(live.receiver, live.wire)

    async def close(self) -> None:
        ended = await asyncio.gather(*map(self._stop, self._accepting), return_exceptions=True)
        self._accepting.clear()
        found = [live for live in ended if isinstance(live, Live)]
        for live in (*self._live.values(), *found):
            self._shut(live.receiver, live.wire)
        self._live.clear()
        await asyncio.gather(self.sender.close(), *self._closing)

    async def _stop(self, task: asyncio.Task[Live | None]) -> Live | None:
        age = self._clock.monotonic() - self._accepting[task]
        await asyncio.wait({task}, timeout=max(HANDSHAKE - age, 0.0))
        task.cancel()
        await asyncio.wait({task}, timeout=CLOSING)
        return task.result() if task.done() else None

    async def send(self, messages: Sequence[Message]) -> Sequence[str]:
        once, now = self._clients.address.window > 0, self._clock.now()
        made = [fresh(message, keyed=True, once=once, now=now) for message in messages]
        if made:
            await self._guarded(self.sender.use(lambda link: put(link, [message for _, message in made])))
        return [id for id, _ in made]

    # --- receiving ------------------------------------------------------------------------------------------

    async def receive(self, owner: str, limit: int, wait: float) -> Sequence[Delivery]:
        until = self._clock.monotonic() + max(wait, GLANCE)
        try:
            await asyncio.wait_for(self._turn.acquire(), until - self._clock.monotonic())
        except TimeoutError:
            return []
        try:
            await self._keep()
            while not (taken := self._due(limit)) and (left := until - self._clock.monotonic()) > 0:
                self._seek(limit)
                await self._look(min(left, GLANCE))
            self._rest()
            return taken
        finally:
            self._turn.release()

    def _due(self, limit: int) -> list[Delivery]:
        """Hand out what is there and may be worked on."""
        now, taken = self._clock.monotonic(), list[Delivery]()
        for live in self._live.values():
            if live.message is None or live.note is None or live.claim or live.due > now or len(taken) >= limit:
                continue
            live.turns += 1
            live.claim = f"{live.message.sequence_number}.{live.turns}.{id(live)}"
            live.used = now
            self._claims.held[live.claim] = live
            taken.append(delivery(self._spec.name, live.message, live.note, live.claim, live.deadline))
        return taken

    def _seek(self, limit: int) -> None:
        """Ask for sessions while there is room for what they bring."""
        for task in [task for task in self._accepting if task.done()]:
            del self._accepting[task]
            error = task.exception()
            live = None if error else task.result()
            self._lucky = live is not None
            if live is not None:
                self._live[live.id] = live
            elif isinstance(error, Exception):
                raise self._told(error, False) from error
        worked = sum(bool(live.claim) for live in self._live.values())
        active = sum(live.due <= self._clock.monotonic() for live in self._live.values())
        room = min(worked + limit - active, MOST - len(self._live), ABREAST if self._lucky else 1)
        for _ in range(room - len(self._accepting)):
            self._accepting[asyncio.create_task(self._accept(ACCEPT))] = self._clock.monotonic()

    async def _accept(self, wait: float) -> Live | None:
        """The next session that is free, None if there is none within `wait`. Raises the client's errors."""
        receiver = self._clients.of_session(self._spec.name, NEXT_AVAILABLE_SESSION, wait)
        try:
            await receiver.__aenter__()
            name = receiver.session.session_id
            if not isinstance(name, str):
                raise OperationTimeoutError
            asked = self._clock.monotonic()
            await receiver.session.renew_lock()  # it may have been locked at any moment since we asked
            state = _state(await receiver.session.get_state())
        except BaseException as error:
            self._shut(receiver)
            if isinstance(error, OperationTimeoutError | SessionCannotBeLockedError):
                return None
            raise
        return Live(name, receiver, wire_of(receiver), state, asked + self._clients.address.lock, asked)

    async def _look(self, wait: float) -> None:
        """Look into the sessions that have nothing out, else wait for one."""
        idle = [live for live in self._live.values() if live.message is None]
        if idle:
            await asyncio.gather(*(self._fill(live, wait) for live in idle))
        elif self._accepting:
            await asyncio.wait(self._accepting, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        else:
            await self._clock.sleep(wait)

    async def _fill(self, live: Live, wait: float) -> None:
        try:
            received = await live.receiver.receive_messages(1, wait)
        except BUSY:
            return
        except DRIVER:
            self._forget(live)
            return
        if not received:
            return
        message, now = received[0], self._clock.monotonic()
        said = live.state if live.state.get("sequence") == message.sequence_number else {}
        note, count = note_of(message), message.delivery_count or 0
        note = replace(note, handed=count + 1 - int(_number(said, "base")))
        live.note = replace(note, attempt=int(_number(said, "attempt")), reason=str(said.get("reason", "")))
        live.message, live.due, live.used = message, now + max(_number(said, "due") - self._clock.now(), 0.0), now

    async def _keep(self) -> None:
        """Renew the locks of which a third is over."""
        lock, now = self._clients.address.lock, self._clock.monotonic()
        await asyncio.gather(
            *(self._renew(live) for live in list(self._live.values()) if live.deadline - now < lock * 2 / 3)
        )

    async def _renew(self, live: Live) -> None:
        asked = self._clock.monotonic()
        try:
            await live.receiver.session.renew_lock()
        except BUSY:
            if asked > live.deadline:
                self._forget(live)
        except DRIVER:
            self._forget(live)
        else:
            live.deadline = asked + self._clients.address.lock

    def _rest(self) -> None:
        """Close the sessions that have had nothing for a moment."""
        now = self._clock.monotonic()
        for live in [live for live in self._live.values() if live.message is None and now - live.used > IDLE]:
            self._forget(live)

    def _forget(self, live: Live) -> None:
        """It is not ours any more, and so is nothing that was handed out of it."""
        if self._live.get(live.id) is live:
            del self._live[live.id]
        self._claims.held.pop(live.claim, None)
        self._shut(live.receiver, live.wire)

    def _shut(self, receiver: ServiceBusReceiver, wire: Wire | None = None) -> asyncio.Task[None]:
        task = asyncio.create_task(quietly(receiver, wire))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    # --- verdicts -------------------------------------------------------------------------------------------

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[float | Lost]:
        held = [self._claims.of(delivery) for delivery in deliveries]
        await asyncio.gather(*(self._renew(live) for live in dict.fromkeys(held) if live is not None))
        kept = [self._claims.of(delivery) for delivery in deliveries]
        return [Lost() if live is None else live.deadline for live in kept]

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | Lost]:
        first = {outcome.delivery.claim: outcome for outcome in reversed(outcomes)}
        ours = [(one, live) for one in first.values() if (live := self._claims.of(one.delivery)) is not None]
        results = await asyncio.gather(*(self._settle(one, live) for one, live in ours), return_exceptions=True)
        for error in results:
            if isinstance(error, Exception):
                raise self._told(error, False) from error
        return [self._claims.absent(outcome) for outcome in outcomes]

    async def _settle(self, outcome: Outcome, live: Live) -> None:
        """Give it effect; a lock that was lost is no error. Raises the client's errors that say nothing."""
        message, note = live.message, live.note
        assert message is not None and note is not None  # noqa: PT018
        try:
            match outcome.verdict:
                case _ if not outcome.started:
                    live.claim, live.due = "", self._clock.monotonic()
                case Later(delay, reason, attempt):
                    await self._later(
                        live, replace(note, attempt=note.attempt + attempt, reason=reason, handed=1), delay
                    )
                case Dead(reason):
                    told = bury(reason, outcome.error, note.attempt + 1, self._clock.now())
                    await live.receiver.dead_letter_message(message, **told)
                    await self._next(live)
                case _:
                    await live.receiver.complete_message(message)
                    await self._next(live)
        except BUSY:
            raise
        except DRIVER:
            self._forget(live)
            return
        live.claim, live.used = "", self._clock.monotonic()
        self._claims.ended(outcome)

    async def _next(self, live: Live) -> None:
        """Its message is gone, and what stood in the state about it goes too: the service keeps it for ever."""
        live.message, noted, live.state = None, live.state, {}
        if noted:
            try:
                await live.receiver.session.set_state(None)
            except DRIVER:  # it is of no message that comes again
                pass

    async def _later(self, live: Live, note: Note, delay: float) -> None:
        message = live.message
        assert message is not None
        state: dict[str, object] = {
            "sequence": message.sequence_number,
            "attempt": note.attempt,
            "reason": note.reason[:1_000],
            "base": message.delivery_count or 0,
            "due": self._clock.now() + delay,
        }
        await live.receiver.session.set_state(json.dumps({"tidemill": state}))
        live.state, live.note, live.due = state, note, self._clock.monotonic() + delay

    async def free(self, owners: Sequence[str]) -> Sequence[str]:
        return []

    async def depth(self) -> Depth:
        """What we hold: messages of sessions cannot be seen without holding the session."""
        held = [live for live in self._live.values() if live.message is not None]
        claimed = sum(bool(live.claim) for live in held)
        now = self._clock.monotonic()
        delayed = sum(not live.claim and live.due > now for live in held)
        return Depth(len(held) - claimed - delayed, delayed, claimed, 0.0)

    async def peek(self, after: str, limit: int) -> Sequence[Waiting]:
        raise unable(self._spec.name, "the messages of sessions cannot be seen without holding the session")

    async def purge(self) -> int:
        raise unable(self._spec.name, "messages are removed one by one; delete the queue and create it again")

    async def _guarded(self, call: Awaitable[R]) -> R:
        try:
            return await call
        except Exception as error:
            raise self._told(error, False) from error


def _state(raw: bytes | None) -> dict[str, object]:
    """What we left in a session; nothing if it is not ours."""
    try:
        state = json.loads(raw or b"{}")["tidemill"]
    except (ValueError, KeyError, TypeError):
        return {}
    return state if isinstance(state, dict) else {}


def _number(state: dict[str, object], name: str) -> float:
    value = state.get(name, 0)
    return float(value) if isinstance(value, int | float) else 0.0
