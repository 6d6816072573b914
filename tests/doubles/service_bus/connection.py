"""One connection of a client: sessions of the protocol, links, and the transfers on them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tests.doubles.service_bus import codec, tokens
from tests.doubles.service_bus.codec import (
    ATTACH,
    BEGIN,
    CLOSE,
    DETACH,
    DISPOSITION,
    END,
    FLOW,
    OPEN,
    TRANSFER,
    Array,
    Described,
    Int,
    Symbol,
    Ubyte,
    Uint,
    Ulong,
    Ushort,
    text,
)
from tests.doubles.service_bus.links import Link, apply, padded
from tests.doubles.service_bus.management import SESSION_LOST, answer, entity_path, status_of
from tests.doubles.service_bus.state import LOCK_LOST, Entity, Entry, Namespace, Refused

WINDOW = Uint(2**31 - 1)
CREDIT = 1000
BATCH = 0x80013700
EPOCH = 621_355_968_000_000_000
"""Ticks of .NET at the beginning of Unix time."""
FILTER = b"com.microsoft:session-filter"


class Host(Protocol):
    """The server as a connection knows it."""

    namespace: Namespace

    def fault(self, kind: str) -> Any: ...

    def pump(self, entity: Entity) -> None: ...


class Dropped(OSError):
    """A fault ended the connection."""


class Connection:
    """Speaks with one client until it goes, or until a fault ends it."""

    def __init__(self, host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host = host
        self._reader = reader
        self._writer = writer
        self._links: dict[tuple[int, int], Link] = {}
        self._audiences: set[str] = set()
        self._deliveries: dict[int, int] = {}
        self._largest = 65536
        self._over = False

    # --- for the server -------------------------------------------------------------------------------------

    def abort(self) -> None:
        self._over = True
        self._writer.transport.abort()

    def consumers(self, entity: Entity) -> list[Link]:
        """Links that have asked for messages of this."""
        links = self._links.values()
        ours = [link for link in links if link.entity is entity and link.receives and not link.managed]
        return [link for link in ours if link.credit > 0 and not link.awaits and not self._over]

    def waiting(self, entity: Entity) -> list[Link]:
        """Links that wait for a session of this."""
        return [link for link in self._links.values() if link.awaits and link.entity is entity]

    def deliver(self, link: Link, entry: Entry) -> None:
        assert entry.token is not None
        number = self._transfer(link, entry.payload(), entry.token.bytes_le)
        link.unsettled[number] = entry.token

    def give_session(self, link: Link, name: str) -> None:
        assert link.entity is not None
        try:
            session = link.entity.hold(name, link)
        except Refused as refused:
            self._refuse(link, refused)
            return
        link.awaits, link.session = False, name
        source = [link.address, *([None] * 6), {Symbol(FILTER): name}, None, None, None]
        until = int(session.locked_until * 10_000_000) + EPOCH
        self._attached(link, source, {Symbol(b"com.microsoft:locked-until-utc"): until})

    def refuse_session(self, link: Link) -> None:
        link.awaits = False
        self._refuse(link, Refused("com.microsoft:timeout", "The operation did not complete within the allotted time."))

    def lose_session(self, link: Link) -> None:
        if self._links.pop((link.channel, link.handle), None) is not None and not self._over:
            self._detach(link, Refused(SESSION_LOST, "The session lock has expired on the MessageSession."))

    # --- frames ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            while not self._over:
                channel, code, fields = await codec.read(self._reader)
                await self._frame(channel, code, fields)
                if code == CLOSE:
                    break
        finally:
            self._over = True

    async def _frame(self, channel: int, code: int, fields: list[Any]) -> None:
        match code:
            case 0:
                self._writer.write(fields[0])
                if fields[0] == codec.SASL_HEADER:
                    known = Array([Symbol(b"MSSBCBS"), Symbol(b"ANONYMOUS"), Symbol(b"EXTERNAL")])
                    self._send(0, codec.SASL_MECHANISMS, [known], kind=1)
            case codec.SASL_INIT:
                self._send(0, codec.SASL_OUTCOME, [Ubyte(0), None], kind=1)
            case codec.OPEN:
                self._largest = min(fields[2], 65536)
                self._send(0, OPEN, ["double", None, Uint(65536), Ushort(1000), Uint(240_000)])
            case codec.BEGIN:
                self._send(channel, BEGIN, [Ushort(channel), Uint(1), WINDOW, WINDOW, Uint(255)])
            case codec.ATTACH:
                await self._attach(channel, fields)
            case codec.FLOW:
                self._flow(channel, fields)
            case codec.TRANSFER:
                await self._incoming(channel, fields)
            case codec.DISPOSITION:
                await self._disposition(channel, fields)
            case codec.DETACH:
                self._gone(channel, fields)
            case codec.END:
                self._send(channel, END, [None])
            case codec.CLOSE:
                self._send(0, CLOSE, [None])

    def _send(self, channel: int, code: int, fields: Sequence[Any], payload: bytes = b"", *, kind: int = 0) -> None:
        if not (self._over or self._writer.is_closing()):  # closing: the client has gone
            self._writer.write(codec.frame(channel, code, fields, payload, kind=kind))

    async def _faulty(self, kind: str) -> bool:
        """Whether the connection is to end after what comes now has had its effect. Raises `Refused` or `Dropped`."""
        fault = self._host.fault(kind)
        if fault is None:
            return False
        match fault.what:
            case "drop-before":
                self._drop()
            case "full":
                raise Refused("amqp:resource-limit-exceeded", "The maximum entity size has been reached or exceeded.")
            case "busy":
                raise Refused("com.microsoft:server-busy", "The server is busy. Please retry after 10 seconds.")
            case "lost":
                raise Refused(LOCK_LOST, "The lock supplied is invalid.")
            case "delay":
                await asyncio.sleep(fault.seconds)
        return bool(fault.what == "drop-after")

    def _drop(self) -> None:
        self.abort()
        raise Dropped("dropped by a fault")

    # --- links ----------------------------------------------------------------------------------------------

    async def _attach(self, channel: int, fields: list[Any]) -> None:
        receives = bool(fields[2])
        end = fields[5] if receives else fields[6]
        address = text(end[0])
        link = Link(self, channel, text(fields[0]), fields[1], receives, address, fields)
        self._links[channel, fields[1]] = link
        try:
            await self._faulty("attach")
            if address != "$cbs":
                if not self._audiences:
                    raise Refused("amqp:unauthorized-access", "Unauthorized access. 'Listen,Send' claims are required.")
                link.entity = self._host.namespace.find(entity_path(address)[0])
            if link.receives and not link.managed:
                self._consume(link)
            else:
                self._attached(link, list(fields[5]), None)
        except Refused as refused:
            self._refuse(link, refused)

    def _consume(self, link: Link) -> None:
        source = link.attach[5]
        filters = (source[7] if len(source) > 7 else None) or {}
        entity = link.entity
        assert entity is not None
        if (FILTER in filters) != entity.settings.sessions:
            told = (
                "It is not possible for an entity that requires sessions to create a non-sessionful message receiver."
                if entity.settings.sessions
                else "A sessionful message receiver cannot be created on an entity that does not require sessions."
            )
            raise Refused("amqp:not-allowed", told)
        if FILTER not in filters:
            self._attached(link, list(source), None)
        elif filters[FILTER] is not None:
            self.give_session(link, text(filters[FILTER]))
        else:
            milliseconds = (link.attach[13] or {}).get(b"com.microsoft:timeout", 60_000)
            link.awaits, link.patience = True, self._host.namespace.clock.now() + milliseconds / 1000
            self._host.pump(entity)

    def _attached(self, link: Link, source: Sequence[Any] | None, properties: Mapping[Any, Any] | None) -> None:
        size = link.entity.settings.size if link.entity else 1 << 20
        target = link.attach[6]
        ends = [Described(codec.SOURCE, padded(source, 11)), Described(codec.TARGET, padded(target, 7))]
        fields = [link.name, Uint(link.handle), not link.receives, Ubyte(2), Ubyte(0), *ends, None, None]
        fields += [Uint(0) if link.receives else None, Ulong(size), None, None, properties]
        self._send(link.channel, ATTACH, fields)
        if not link.receives:
            link.credit = CREDIT
            self._grant(link)

    def _refuse(self, link: Link, refused: Refused) -> None:
        """As the protocol has it: attached without an end, and detached with the reason."""
        fields = [link.name, Uint(link.handle), not link.receives, Ubyte(2), Ubyte(0), None, None, None, None]
        fields += [Uint(0) if link.receives else None, Ulong(0), None, None, None]
        self._send(link.channel, ATTACH, fields)
        self._links.pop((link.channel, link.handle), None)
        self._detach(link, refused)

    def _detach(self, link: Link, refused: Refused) -> None:
        self._send(link.channel, DETACH, [Uint(link.handle), True, codec.error(refused.condition, refused.told)])

    def _gone(self, channel: int, fields: Sequence[Any]) -> None:
        """The client detaches: its session is free at once, and nothing counts. Message locks stay until they end."""
        link = self._links.pop((channel, fields[0]), None)
        if link is None:
            return
        if link.session and link.entity is not None and link.entity.sessions[link.session].holder is link:
            link.entity.let_go(link.session, counts=False)
        self._send(channel, DETACH, [Uint(link.handle), True, None])

    def _flow(self, channel: int, fields: Sequence[Any]) -> None:
        link = self._links.get((channel, fields[4])) if fields[4] is not None else None
        if link is None or not link.receives:
            return
        link.credit = (fields[5] or 0) + (fields[6] or 0) - link.count
        if link.entity is not None and not link.managed:
            self._host.pump(link.entity)
        if fields[8]:  # drain
            link.count, link.credit = link.count + max(link.credit, 0), 0
            self._send(channel, FLOW, [Uint(1), WINDOW, Uint(1), WINDOW, Uint(link.handle), Uint(link.count), Uint(0)])

    def _grant(self, link: Link) -> None:
        fields = [Uint(1), WINDOW, Uint(1), WINDOW, Uint(link.handle), Uint(link.count), Uint(link.credit)]
        self._send(link.channel, FLOW, fields)

    # --- transfers ------------------------------------------------------------------------------------------

    def _transfer(self, link: Link, payload: bytes, tag: bytes) -> int:
        number = self._deliveries[link.channel] = self._deliveries.get(link.channel, 0) + 1
        room = self._largest - 512
        parts = [payload[start : start + room] for start in range(0, len(payload), room)] or [b""]
        for place, part in enumerate(parts):
            head = [Uint(link.handle), Uint(number), tag, Uint(0), False, place < len(parts) - 1]
            self._send(link.channel, TRANSFER, head, part)
        link.count, link.credit = link.count + 1, link.credit - 1
        return number

    async def _incoming(self, channel: int, fields: Sequence[Any]) -> None:
        link = self._links.get((channel, fields[0]))
        if link is None:
            return
        if not link.partial:
            link.first = fields
        link.partial += fields[11]
        if fields[5]:  # more
            return
        payload, number = bytes(link.partial), link.first[1]
        link.partial.clear()
        link.count, link.credit = link.count + 1, link.credit - 1
        if link.credit < CREDIT // 2:
            link.credit = CREDIT
            self._grant(link)
        state: Any = Described(codec.ACCEPTED, [])
        after = False
        if link.managed:
            await self._managed(link, payload)
        else:
            try:
                after = await self._faulty("send")
                self._store(link, payload, link.first[3] == BATCH)
            except Refused as refused:
                state = Described(codec.REJECTED, [codec.error(refused.condition, refused.told)])
        if after:
            self._drop()
        self._send(channel, DISPOSITION, [True, Uint(number), Uint(number), True, state])

    def _store(self, link: Link, payload: bytes, batch: bool) -> None:
        entity = link.entity
        assert entity is not None
        if len(payload) > entity.settings.size:
            raise Refused("amqp:link:message-size-exceeded", f"{len(payload)} bytes are more than the link takes")
        for one in [part[0] for part in codec.sections(payload)[117]] if batch else [payload]:
            entity.accept(bytes(one))
        self._host.pump(entity)

    async def _disposition(self, channel: int, fields: Sequence[Any]) -> None:
        first, last = fields[1], fields[2] if fields[2] is not None else fields[1]
        for link in [link for link in self._links.values() if link.channel == channel and link.receives]:
            for number in [number for number in link.unsettled if first <= number <= last]:
                await self._settle(link, number, fields[3], fields[4])

    async def _settle(self, link: Link, number: int, settled: bool, state: Mapping[str, Any]) -> None:
        token, entity = link.unsettled.pop(number), link.entity
        assert entity is not None
        reply: Any
        after = False
        try:
            after = await self._faulty("settle")
            reply = apply(entity, token, state)
        except Refused as refused:
            reply = Described(codec.REJECTED, [codec.error(refused.condition, refused.told)])
        if after:
            self._drop()
        if not settled:
            self._send(link.channel, DISPOSITION, [False, Uint(number), Uint(number), True, reply])
        self._host.pump(entity)

    # --- requests -------------------------------------------------------------------------------------------

    async def _managed(self, link: Link, payload: bytes) -> None:
        found = codec.sections(payload)
        application = found[116][0][0]
        body = found[119][0][0] if 119 in found else {}
        id = found[115][0][0][0]
        after = False
        try:
            if link.address == "$cbs":
                status, value = await self._token(application, text(body)), None
            else:
                operation = text(application[b"operation"])
                after = await self._faulty(operation.removeprefix("com.microsoft:"))
                assert link.entity is not None
                status, value = answer(link.entity, operation, body, lambda name: self._holds(link.entity, name))
            condition, told = None, "OK"
        except Refused as refused:
            status, value, condition, told = status_of(refused), None, refused.condition, refused.told
        if after:
            self._drop()
        self._reply(link, id, status, told, condition, value)
        if link.entity is not None:
            self._host.pump(link.entity)

    def _reply(self, link: Link, id: Any, status: int, told: str, condition: str | None, value: Any) -> None:
        pair = [one for one in self._links.values() if one.receives and one.address == link.address]
        names = ("status-code", "status-description") if link.address == "$cbs" else ("statusCode", "statusDescription")
        application: dict[str, Any] = {names[0]: Int(status), names[1]: told}
        if condition:
            application["errorCondition"] = Symbol(condition.encode())
        parts = [Described(115, [None] * 5 + [id]), Described(116, application), Described(119, value)]
        answers = [one for one in pair if one.channel == link.channel and one.credit > 0]
        for one in answers[:1]:
            self._transfer(one, b"".join(map(codec.encode, parts)), b"\0\0\0\1")

    async def _token(self, application: Mapping[bytes, Any], token: str) -> int:
        await self._faulty("cbs")
        audience = text(application[b"name"])
        if why := tokens.refused(self._host.namespace, token, audience):
            raise Refused("amqp:unauthorized-access", why)
        self._audiences.add(audience)
        return 202

    def _holds(self, entity: Entity | None, name: str) -> bool:
        session = entity.sessions.get(name) if entity else None
        holder = session.holder if session else None
        return isinstance(holder, Link) and holder.connection is self
