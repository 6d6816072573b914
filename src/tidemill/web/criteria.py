"""What a list asks for, read from the query string: filters on declared fields, order, page.

`city=Rome` is equality, `total.gte=10` a range (`lt`, `lte`, `gt`, `gte`). A value is read as what its field is in the
stored JSON: a number, true or false, else text. The key's field may always be filtered by equality.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from tidemill.app.handles import Collection
from tidemill.errors import ConfigurationError
from tidemill.model import Filter, Query
from tidemill.web.problems import Mistake, refused

MOST_PAGE = 1_000
PAGE = 100
RESERVED = ("order", "limit", "continuation")

Kind: TypeAlias = Literal["text", "number", "integer", "truth", "any"]
_Op: TypeAlias = Literal["=", "<", "<=", ">", ">="]

_KINDS: Mapping[str, Kind] = {"string": "text", "number": "number", "integer": "integer", "boolean": "truth"}
_OPS: Mapping[str, _Op] = {"": "=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_JSON: Mapping[Kind, dict[str, Any]] = {
    "text": {"type": "string"},
    "number": {"type": "number"},
    "integer": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "truth": {"type": "boolean"},
    "any": {"type": "string"},
}


@dataclass(frozen=True, slots=True)
class Criteria:
    """The parameters of a collection's list: each name with its field, comparison and kind of value."""

    conditions: Mapping[str, tuple[str, _Op, Kind]]
    fields: tuple[str, ...]
    key: str

    def query(self, given: Sequence[tuple[str, str]]) -> Query:
        """The query of a request's parameters. Raises `Refused` naming every mistake."""
        mistakes: list[Mistake] = []
        seen: dict[str, str] = {}
        for name, text in given:
            if name in seen:
                mistakes.append(Mistake(name, "is given twice", "parameter"))
            seen[name] = text
        key, filters = None, list[Filter]()
        limit, order, continuation = PAGE, "", None
        for name, text in seen.items():
            try:
                if name == "limit":
                    limit = _limit(text)
                elif name == "order":
                    order = self._order(text)
                elif name == "continuation":
                    continuation = text
                elif name == self.key and self.key not in self.fields:
                    key = text
                else:
                    filters.append(self._filter(name, text))
            except ValueError as error:
                mistakes.append(Mistake(name, str(error), "parameter"))
        if mistakes:
            raise refused("unfit", "the query does not fit", *mistakes)
        asked = Query(key, tuple(filters), order.removeprefix("-") or None, order.startswith("-"), limit)
        return asked if continuation is None else _continued(asked, continuation)

    def parameters(self) -> list[dict[str, Any]]:
        """The parameters as OpenAPI describes them."""
        orders = [way + field for field in self.fields for way in ("", "-")]
        described = [
            _parameter(name, _JSON[kind], f"`{field}` {op} this") for name, (field, op, kind) in self.conditions.items()
        ]
        if self.key not in self.fields:
            described.append(_parameter(self.key, {"type": "string"}, f"`{self.key}` = this"))
        if orders:
            described.append(_parameter("order", {"enum": orders}, "a field; with `-` from high to low; else by id"))
        page = {"type": "integer", "minimum": 1, "maximum": MOST_PAGE, "default": PAGE}
        return [
            *described,
            _parameter("limit", page, "documents on a page"),
            _parameter("continuation", {"type": "string"}, "from the page before; the other parameters stay the same"),
        ]

    def _order(self, text: str) -> str:
        if text.removeprefix("-") not in self.fields:
            raise ValueError(f"is none of the declared fields ({', '.join(self.fields) or 'there are none'})")
        return text

    def _filter(self, name: str, text: str) -> Filter:
        if name not in self.conditions:
            known = ", ".join([*dict.fromkeys([*self.fields, self.key]), *RESERVED])
            raise ValueError(f"there is no such parameter (there are: {known})")
        field, op, kind = self.conditions[name]
        return Filter(field, op, _value(kind, text))


def criteria(collection: Collection[Any]) -> Criteria:
    """What may be asked of a collection. Raises `ConfigurationError` for a field with a reserved name."""
    fields = collection.spec.fields
    kinds = _kinds(collection.type)
    for field in (*fields, collection.key):
        if field in RESERVED:
            raise ConfigurationError(
                f"documents({collection.name}): field {field!r} is a word of the list itself "
                f"({', '.join(RESERVED)}); give it another name in the type"
            )
    return Criteria(dict(_conditions(fields, kinds)), fields, collection.key)


def seal(query: Query, continuation: str) -> str:
    """A backend's continuation as clients get it: marked with the query it belongs to."""
    raw = continuation.encode()
    return base64.urlsafe_b64encode(_mark(query, raw) + raw).decode().rstrip("=")


def _continued(query: Query, sealed: str) -> Query:
    try:
        raw = base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    if len(raw) <= _MARK or raw[:_MARK] != _mark(query, raw[_MARK:]):
        mistake = Mistake("continuation", "is none of this list, with these filters and this order", "parameter")
        raise refused("unfit", "the query does not fit", mistake)
    return Query(query.key, query.filters, query.order, query.descending, query.limit, raw[_MARK:].decode())


_MARK = 12


def _mark(query: Query, raw: bytes) -> bytes:
    filters = [(f.field, f.op, f.value) for f in query.filters]
    asked = json.dumps([query.key, sorted(filters, key=str), query.order, query.descending])
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass") + b"\0" + raw).digest()[:_MARK]


def _conditions(fields: Sequence[str], kinds: Mapping[str, Kind]) -> Iterator[tuple[str, tuple[str, _Op, Kind]]]:
    for field in fields:
        kind = kinds.get(field, "any")
        for word, op in _OPS.items():
            if op == "=" or kind != "truth":
                yield f"{field}.{word}" if word else field, (field, op, kind)


def _kinds(type_: Any) -> Mapping[str, Kind]:
    """What each field is in the stored JSON, as far as the type says it in one word."""
    try:
        schema = TypeAdapter(type_).json_schema(mode="serialization")
    except PydanticInvalidForJsonSchema:
        return {}
    top = _resolved(schema, schema)
    found = {name: set(_types(field, schema)) - {"null"} for name, field in top.get("properties", {}).items()}
    return {name: _KINDS[next(iter(types))] for name, types in found.items() if len(types) == 1 and types <= {*_KINDS}}


def _types(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    field = _resolved(field, schema)
    if "type" in field:
        yield field["type"]
    for word in ("anyOf", "oneOf", "allOf"):
        for one in field.get(word, ()):
            yield from _types(one, schema)


def _resolved(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while (ref := field.get("$ref")) is not None:
        field = schema["$defs"][ref.rpartition("/")[2]]
    return field


def _value(kind: Kind, text: str) -> str | int | float | bool:
    match kind:
        case "text":
            return text
        case "integer":
            return _integer(text)
        case "number":
            return _number(text)
        case "truth":
            if text not in ("true", "false"):
                raise ValueError("must be true or false")
            return text == "true"
        case "any":
            return _any(text)


def _integer(text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 19 and -(2**63) <= int(text) < 2**63):
        raise ValueError("must be a whole number of at most 64 bits")
    return int(text)


def _number(text: str) -> float:
    try:
        number = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("must be a number")
    return number


def _any(text: str) -> str | int | float | bool:
    """The type does not say what the field is: a number or a truth value if it reads as one, `"…"` is text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    return value if isinstance(value, float) and math.isfinite(value) else text


def _limit(text: str) -> int:
    limit = _integer(text)
    if not 1 <= limit <= MOST_PAGE:
        raise ValueError(f"must be from 1 to {MOST_PAGE}")
    return limit


def _parameter(name: str, schema: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": dict(schema), "description": description}
