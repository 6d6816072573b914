"""AMQP 1.0 on the wire: frames and values. They are decoded with the SDK's decoder, and encoded here by their type."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from azure.servicebus._pyamqp import _decode

AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"

OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)
SASL_MECHANISMS, SASL_INIT, SASL_OUTCOME = 0x40, 0x41, 0x44
ERROR, ACCEPTED, REJECTED, RELEASED, MODIFIED, SOURCE, TARGET = 0x1D, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29


class Symbol(bytes):
    """A symbol."""


class Uint(int):
    """An unsigned whole number of 32 bits."""


class Int(int):
    """A whole number of 32 bits."""


class Ulong(int):
    """An unsigned whole number of 64 bits."""


class Ubyte(int):
    """An unsigned whole number of 8 bits."""


class Ushort(int):
    """An unsigned whole number of 16 bits."""


class Millis(int):
    """A time, in milliseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Described:
    """A value with the code of what it is."""

    code: int
    value: Any


@dataclass(frozen=True, slots=True)
class Array:
    """Values of one type."""

    items: Sequence[Any]


_PACKED = ((Uint, b"\x70", ">I"), (Int, b"\x71", ">i"), (Ulong, b"\x80", ">Q"), (Ubyte, b"\x50", ">B"))
_PACKED_TOO = ((Ushort, b"\x60", ">H"), (Millis, b"\x83", ">q"), (int, b"\x81", ">q"), (float, b"\x82", ">d"))


def encode(value: Any) -> bytes:
    """One value with its constructor."""
    if value is None:
        return b"\x40"
    if isinstance(value, bool):
        return b"\x41" if value else b"\x42"
    for kind, constructor, form in (*_PACKED, *_PACKED_TOO):
        if isinstance(value, kind):
            return constructor + struct.pack(form, value)
    if isinstance(value, UUID):
        return b"\x98" + value.bytes
    if isinstance(value, Symbol):
        return b"\xb3" + struct.pack(">I", len(value)) + value
    if isinstance(value, str):
        return encode_bytes(b"\xb1", value.encode())
    if isinstance(value, bytes | bytearray):
        return encode_bytes(b"\xb0", bytes(value))
    if isinstance(value, Described):
        return b"\x00\x53" + bytes([value.code]) + encode(value.value)
    return _compound(value)


def encode_bytes(constructor: bytes, value: bytes) -> bytes:
    return constructor + struct.pack(">I", len(value)) + value


def _compound(value: Any) -> bytes:
    if isinstance(value, Array):
        items = [encode(item) for item in value.items]
        body = struct.pack(">I", len(items)) + (items[0][:1] if items else b"\x40") + b"".join(i[1:] for i in items)
        return encode_bytes(b"\xf0", body)
    if isinstance(value, Mapping):
        items = [encode(item) for pair in value.items() for item in pair]
        return encode_bytes(b"\xd1", struct.pack(">I", len(items)) + b"".join(items))
    if isinstance(value, Sequence):
        items = [encode(item) for item in value]
        return encode_bytes(b"\xd0", struct.pack(">I", len(items)) + b"".join(items))
    raise TypeError(f"{type(value).__name__} has no form on the wire")


def frame(channel: int, code: int, fields: Sequence[Any], payload: bytes = b"", *, kind: int = 0) -> bytes:
    """A whole frame; `kind` is 1 for those of SASL."""
    body = encode(Described(code, list(fields))) + payload
    return struct.pack(">IBBH", len(body) + 8, 2, kind, channel) + body


async def read(reader: asyncio.StreamReader) -> tuple[int, int, list[Any]]:
    """The next frame: channel, code, fields. A protocol header and an empty frame have the codes 0 and 1.

    Raises `asyncio.IncompleteReadError` at the end of the stream.
    """
    head = await reader.readexactly(8)
    if head[:4] == b"AMQP":
        return 0, 0, [head]
    size, offset, _, channel = struct.unpack(">IBBH", head)
    body = await reader.readexactly(size - 8)
    if not body:
        return channel, 1, []
    code, fields = _decode.decode_frame(memoryview(body)[(offset - 2) * 4 :])
    return channel, code, fields


def sections(payload: bytes) -> dict[int, list[tuple[Any, bytes]]]:
    """The sections of a message by their code: each as decoded, and as its bytes."""
    found: dict[int, list[tuple[Any, bytes]]] = {}
    rest = memoryview(payload)
    while rest:
        code, constructor = rest[2], rest[3]
        after, value = _decode._DECODE_BY_CONSTRUCTOR[constructor](rest[4:])
        found.setdefault(code, []).append((value, bytes(rest[: len(rest) - len(after)])))
        rest = after
    return found


def text(value: Any) -> str:
    """A symbol or string as decoded."""
    return value.decode() if isinstance(value, bytes | bytearray | memoryview) else str(value or "")


def plain(value: Any) -> Any:
    """A decoded value for encoding it again: what was text and came as bytes is text."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def error(condition: str, description: str = "") -> Described:
    """An error of the protocol."""
    return Described(ERROR, [Symbol(condition.encode()), description, None])
