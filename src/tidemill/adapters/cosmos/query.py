"""Questions for documents in the SQL of Cosmos DB. Pure: text and parameters.

Pages go on behind the last document by its values (`order`, then `id`), not by the service's continuation: azure-cosmos
has none for ordered questions across partitions, and one of values holds while others come and go. Comparing finds
values of the same type only, so what stands behind a value is: greater ones of its type, and all of the types behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tidemill.errors import BadOption, ConfigurationError
from tidemill.model import Query

KINDS = ("IS_NULL", "IS_BOOL", "IS_NUMBER", "IS_STRING")
"""Types in the order in which ORDER BY puts them; before them all stands what has no such field."""

Parameters = list[dict[str, object]]

Conditions = Sequence[tuple[str, Sequence[object]]]
"""Paths of the partition key, and the values that each may have."""


def sql(query: Query, name: str, fields: Sequence[str], key: Conditions) -> tuple[str, Parameters]:
    """The question for one page; `key`: what the query's key means. Raises `ConfigurationError` for a field that was
    not declared."""
    for field in (*(one.field for one in query.filters), *([query.order] if query.order else [])):
        if field not in fields:
            known = ", ".join(fields) or "none"
            raise ConfigurationError(f"collection {name!r}: {field!r} is no declared field (declared: {known})")
    parameters: Parameters = []

    def put(value: object) -> str:
        parameters.append({"name": f"@p{len(parameters)}", "value": value})
        return f"@p{len(parameters) - 1}"

    wheres = [f"({' OR '.join(_is(at(path), value, put) for value in values)})" for path, values in key]
    wheres += [f"{at(one.field)} {one.op} {put(one.value)}" for one in query.filters]
    if query.continuation is not None:
        wheres.append(_behind(query, put))
    way = "DESC" if query.descending else "ASC"
    orders = [f"{at(query.order)} {way}"] if query.order else []
    where = f" WHERE {' AND '.join(wheres)}" if wheres else ""
    order = ", ".join([*orders, f"c.id {way}"])
    return f"SELECT TOP {query.limit + 1} * FROM c{where} ORDER BY {order}", parameters


def _is(field: str, value: object, put: Callable[[object], str]) -> str:
    """Null is the key of what has none, too."""
    return f"{field} = {put(value)}" if value is not None else f"IS_NULL({field}) OR NOT IS_DEFINED({field})"


def at(path: str) -> str:
    """A field, however it is called."""
    return "c" + "".join(f"[{json.dumps(name)}]" for name in path.split("/"))


def continuation(item: Mapping[str, Any], query: Query) -> str:
    """Where the page that ends with this item ends."""
    place = {"id": item["id"]}
    if query.order and query.order in item:
        place["at"] = item[query.order]
    return json.dumps(place)


def _behind(query: Query, put: Any) -> str:
    """The condition for what stands behind the place where the last page ended."""
    try:
        place = json.loads(query.continuation or "")
        id = place["id"]
    except (ValueError, KeyError, TypeError):
        raise BadOption(f"{query.continuation!r} is no continuation of this query") from None
    sign = "<" if query.descending else ">"
    further = f"c.id {sign} {put(id)}"
    if not query.order:
        return further
    field = at(query.order)
    if "at" not in place:
        same = f"(NOT IS_DEFINED({field}) AND {further})"
        return same if query.descending else f"({same} OR IS_DEFINED({field}))"
    value = place["at"]
    kind = _kind(value)
    beyond = KINDS[:kind] if query.descending else KINDS[kind + 1 :]
    tests = [f"{test}({field})" for test in beyond]
    if query.descending:
        tests.append(f"NOT IS_DEFINED({field})")
    if value is None:
        same = f"(IS_NULL({field}) AND {further})"
    else:
        mark = put(value)
        same = f"({field} {sign} {mark} OR ({field} = {mark} AND {further}))"
    return f"({' OR '.join([same, *tests])})"


def _kind(value: object) -> int:
    match value:
        case None:
            return 0
        case bool():
            return 1
        case int() | float():
            return 2
        case str():
            return 3
    raise BadOption(f"{value!r} is no place of a query")
