"""A small part of the SQL of Cosmos DB: SELECT, WHERE, ORDER BY, TOP over one container; and its plan."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.doubles.cosmos.state import Fault, Item, public


class _Undefined:
    def __repr__(self) -> str:
        return "undefined"


UNDEFINED = _Undefined()
FILTER = "{documentdb-formattableorderbyquery-filter}"

Eval = Callable[[Mapping[str, Any]], Any]

TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"""
    r"""|(?P<parameter>@\w+)|(?P<word>[A-Za-z_]\w*)|(?P<sign><=|>=|<>|!=|[=<>()\[\],.*{}:]))"""
)


@dataclass(slots=True)
class Select:
    """A question, read. `payload`: in the form of a rewritten ordered one; `paths`: the fields asked for, or all."""

    top: int | None
    paths: list[list[str]] | None
    payload: bool
    where: Eval
    orders: list[tuple[list[str], bool]]

    def run(self, items: Sequence[Item]) -> list[Any]:
        found = [item for item in items if self.where(item) is True]
        for path, descending in reversed(self.orders):
            found.sort(key=lambda item: rank(value(item, path)), reverse=descending)
        return [self._shown(item) for item in found[: self.top]]

    def _shown(self, item: Item) -> Any:
        if self.payload:
            values = [value(item, path) for path, _ in self.orders]
            marks = [{} if found is UNDEFINED else {"item": found} for found in values]
            return {"_rid": item["_rid"], "orderByItems": marks, "payload": public(item)}
        if self.paths is None:
            return public(item)
        return {path[-1]: found for path in self.paths if (found := value(item, path)) is not UNDEFINED}


def parse(text: str, parameters: Mapping[str, Any]) -> Select:
    """Raises `Fault` 400 for what is no question, or one beyond this double."""
    return _Parser(text.replace(FILTER, "true"), parameters).select()


def plan(text: str, select: Select) -> dict[str, Any]:
    """How the client is to put the question to each partition, and to put the answers together."""
    rewritten = text
    if select.orders:
        names = ["c" + "".join(f"[{json.dumps(name)}]" for name in path) for path, _ in select.orders]
        items = ", ".join(f'{{"item": {name}}}' for name in names)
        head = f"TOP {select.top} " if select.top is not None else ""
        where = re.search(r"\bWHERE\b(.*)\bORDER BY\b", text, re.DOTALL)
        conditions = f"({where[1].strip()}) AND {FILTER}" if where else FILTER
        order = text[text.rindex("ORDER BY") :]
        rewritten = f"SELECT {head}c._rid, [{items}] AS orderByItems, c AS payload FROM c WHERE {conditions} {order}"
    return {
        "partitionedQueryExecutionInfoVersion": 2,
        "queryInfo": {
            "distinctType": "None",
            "top": select.top,
            "offset": None,
            "limit": None,
            "orderBy": ["Descending" if down else "Ascending" for _, down in select.orders],
            "orderByExpressions": ["c" + "".join(f".{name}" for name in path) for path, _ in select.orders],
            "groupByExpressions": [],
            "groupByAliases": [],
            "aggregates": [],
            "groupByAliasToAggregateType": {},
            "rewrittenQuery": rewritten if select.orders else "",
            "hasSelectValue": False,
            "hasNonStreamingOrderBy": False,
        },
        "queryRanges": [{"min": "", "max": "FF", "isMinInclusive": True, "isMaxInclusive": False}],
    }


def value(item: Mapping[str, Any], path: Sequence[str]) -> Any:
    found: Any = item
    for name in path:
        found = found.get(name, UNDEFINED) if isinstance(found, Mapping) else UNDEFINED
    return found


def rank(found: Any) -> tuple[int, Any]:
    """The order of types: undefined, null, false and true, numbers, texts."""
    match found:
        case _Undefined():
            return (0, 0)
        case None:
            return (1, 0)
        case bool():
            return (2, found)
        case int() | float():
            return (3, found)
        case str():
            return (4, found)
    return (5, json.dumps(found))


def _compare(sign: str, a: Any, b: Any) -> Any:
    if a is UNDEFINED or b is UNDEFINED:
        return UNDEFINED
    (ka, va), (kb, vb) = rank(a), rank(b)
    if sign in ("=", "!=", "<>"):
        return ((ka, va) == (kb, vb)) is (sign == "=")
    if ka != kb:
        return UNDEFINED
    return {"<": va < vb, "<=": va <= vb, ">": va > vb, ">=": va >= vb}[sign]


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "IS_DEFINED": lambda a: a is not UNDEFINED,
    "IS_NULL": lambda a: a is None,
    "IS_BOOL": lambda a: isinstance(a, bool),
    "IS_NUMBER": lambda a: isinstance(a, int | float) and not isinstance(a, bool),
    "IS_STRING": lambda a: isinstance(a, str),
    "STARTSWITH": lambda a, b: isinstance(a, str) and isinstance(b, str) and a.startswith(b),
    "ENDSWITH": lambda a, b: isinstance(a, str) and isinstance(b, str) and a.endswith(b),
    "ARRAY_CONTAINS": lambda a, b: isinstance(a, list) and b in a,
}


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, text: str, parameters: Mapping[str, Any]) -> None:
        self._parameters = parameters
        self._tokens: list[tuple[str, str]] = []
        place = 0
        while place < len(text.rstrip()):
            found = TOKEN.match(text, place)
            if found is None:
                raise Fault(400, f"Syntax error, incorrect syntax near {text[place : place + 20]!r}.")
            self._tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            place = found.end()
        self._at = 0

    def select(self) -> Select:
        self._need("SELECT")
        top = int(self._take()[1]) if self._word("TOP") else None
        paths, payload = self._what()
        self._need("FROM")
        self._take()
        where: Eval = self._or() if self._word("WHERE") else lambda _: True
        orders: list[tuple[list[str], bool]] = []
        if self._word("ORDER"):
            self._need("BY")
            orders.append(self._order())
            while self._sign(","):
                orders.append(self._order())
        if self._at < len(self._tokens):
            raise Fault(400, f"Syntax error, incorrect syntax near {self._tokens[self._at][1]!r}.")
        return Select(top, paths, payload, where, orders)

    def _what(self) -> tuple[list[list[str]] | None, bool]:
        if self._sign("*"):
            return None, False
        start = self._at
        while not self._peek("FROM"):
            self._at += 1
        if any(token[1] == "orderByItems" for token in self._tokens[start : self._at]):
            return None, True
        self._at = start
        paths = [self._path()]
        while self._sign(","):
            paths.append(self._path())
        return paths, False

    def _order(self) -> tuple[list[str], bool]:
        path = self._path()
        if self._word("DESC"):
            return path, True
        self._word("ASC")
        return path, False

    def _path(self) -> list[str]:
        self._take()  # the alias
        path: list[str] = []
        while True:
            if self._sign("."):
                path.append(self._take()[1])
            elif self._sign("["):
                path.append(json.loads(self._take()[1]))
                self._sign("]")
            else:
                return path

    def _or(self) -> Eval:
        parts = [self._and()]
        while self._word("OR"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else lambda item: any(part(item) is True for part in parts)

    def _and(self) -> Eval:
        parts = [self._not()]
        while self._word("AND"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else lambda item: all(part(item) is True for part in parts)

    def _not(self) -> Eval:
        if self._word("NOT"):
            inner = self._not()
            return lambda item: {True: False, False: True}.get(inner(item), UNDEFINED)
        return self._comparison()

    def _comparison(self) -> Eval:
        left = self._operand()
        kind, sign = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        if kind == "sign" and sign in ("=", "!=", "<>", "<", "<=", ">", ">="):
            self._at += 1
            right = self._operand()
            return lambda item: _compare(sign, left(item), right(item))
        return left

    def _operand(self) -> Eval:
        if self._sign("("):
            inner = self._or()
            self._sign(")")
            return inner
        kind, text = self._tokens[self._at]
        if kind == "word" and text.upper() in FUNCTIONS:
            return self._call()
        if kind == "word" and text.lower() not in ("true", "false", "null"):
            path = self._path()
            return lambda item: value(item, path)
        self._at += 1
        found = self._constant(kind, text)
        return lambda _: found

    def _constant(self, kind: str, text: str) -> Any:
        if kind == "parameter":
            if text not in self._parameters:
                raise Fault(400, f"parameter {text} is not given")
            return self._parameters[text]
        if kind == "text" and text.startswith("'"):
            return text[1:-1]
        return json.loads(text.lower() if kind == "word" else text)

    def _call(self) -> Eval:
        function = FUNCTIONS[self._take()[1].upper()]
        self._sign("(")
        arguments = [self._operand()]
        while self._sign(","):
            arguments.append(self._operand())
        self._sign(")")
        return lambda item: function(*(one(item) for one in arguments))

    def _take(self) -> tuple[str, str]:
        self._at += 1
        return self._tokens[self._at - 1]

    def _peek(self, word: str) -> bool:
        return self._at < len(self._tokens) and self._tokens[self._at][1].upper() == word

    def _word(self, word: str) -> bool:
        found = self._peek(word)
        self._at += found
        return found

    def _need(self, word: str) -> None:
        if not self._word(word):
            raise Fault(400, f"Syntax error, {word} is missing.")

    def _sign(self, sign: str) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at] == ("sign", sign)
        self._at += found
        return found
