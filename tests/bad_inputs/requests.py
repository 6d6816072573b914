"""What a client of the document API may get wrong: the status and the detail of the problem it gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

JSON = {"content-type": "application/json"}
PATCH = {"content-type": "application/merge-patch+json"}
GOOD = b'{"number": "2", "total": 9}'


@dataclass(frozen=True, slots=True)
class Request:
    """One request to an API with one order, number 1. `detail` is how the problem's detail begins."""

    what: str
    method: str
    path: str
    status: int
    detail: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


REQUESTS = (
    Request("a body that is no JSON", "POST", "/orders", 400, "the body is not JSON", b"{", JSON),
    Request("a body that does not fit", "POST", "/orders", 422, "the document does not fit", b'{"number": "2"}', JSON),
    Request("a body of another media type", "POST", "/orders", 415, "the body must be application/json", GOOD,
            {"content-type": "text/csv"}),
    Request("a body that is too large", "POST", "/orders", 413, "the body has more than 1048576 bytes",
            b'"' + b"x" * (1 << 20) + b'"', JSON),
    Request("an order that is there already", "POST", "/orders", 409, "a document with this id exists already",
            b'{"number": "1", "total": 8}', JSON),
    Request("an order that is not there", "GET", "/orders/7", 404, "there is no such document in orders"),
    Request("a patch of what is not there", "PATCH", "/orders/7", 404, "there is no such document", b"{}", PATCH),
    Request("a patch that makes it unfit", "PATCH", "/orders/1", 422, "the document does not fit", b'{"total": null}',
            PATCH),
    Request("an id that differs from the URL's", "PUT", "/orders/1", 422, "the document does not fit", GOOD, JSON),
    Request("an etag that is old", "PUT", "/orders/1", 412, "the document has changed since it was read",
            b'{"number": "1", "total": 3}', {**JSON, "if-match": '"x"'}),
    Request("a method that is not allowed", "DELETE", "/orders/1", 405, "allowed: GET, HEAD, PUT, PATCH"),
    Request("a page that is too long", "GET", "/orders?limit=5000", 422, "the query does not fit"),
    Request("a filter that is not declared", "GET", "/orders?customer=1", 422, "the query does not fit"),
    Request("a filter of another type", "GET", "/orders?total.gte=many", 422, "the query does not fit"),
    Request("an order that is not declared", "GET", "/orders?order=number", 422, "the query does not fit"),
    Request("a continuation of something else", "GET", "/orders?continuation=abc", 422, "the query does not fit"),
)  # fmt: skip
