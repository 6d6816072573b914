"""The documents of a collection over HTTP, as a router of the user's own FastAPI.

Every write is a compare-and-swap against what was read in the same request, so a header's condition and the answer's
status are those of the very write. Bodies are decoded by the collection's codec, as workers decode them, and answered
as they are stored. `Idempotency-Key`: nothing is kept of the key, for the body names the document: a POST that finds
its document stored, byte for byte as it would store it, is the first one again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Collection as Several
from typing import Annotated, Any, Literal, TypeAlias, get_args
from urllib.parse import quote

from fastapi import APIRouter, Path, Request, Response
from fastapi.params import Depends
from pydantic_core import from_json, to_json
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tidemill.app.client import running
from tidemill.app.handles import Collection
from tidemill.core.duration import Duration, seconds
from tidemill.errors import ConfigurationError, NoJson, TidemillError, Unfit
from tidemill.model import Delete, Expect, Gone, Mismatch, Put, Stored, Write
from tidemill.web import described
from tidemill.web.bounds import Bounds, bounded
from tidemill.web.criteria import criteria, seal
from tidemill.web.merge import merged
from tidemill.web.preconditions import demand, tag, unchanged
from tidemill.web.problems import Problem, refused

Allow: TypeAlias = Literal["create", "replace", "patch", "delete"]
MERGE_PATCH = "application/merge-patch+json"
JSON = "application/json"
TRIES = 20
"""Compare-and-swaps of one request before it gives way."""

_Responses: TypeAlias = dict[int | str, dict[str, Any]]

_log = logging.getLogger("tidemill.web")


def documents(
    collection: Collection[Any],
    *,
    allow: Several[Allow] = (),
    dependencies: Sequence[Depends] = (),
    prefix: str | None = None,
    tags: Sequence[str] | None = None,
    time_limit: Duration = 10.0,
    in_flight: int = 500,
) -> APIRouter:
    """A router with the documents of a collection: reads always, writes as far as `allow` says.

    `dependencies` guard each operation. `prefix`: where it lies ("/" and the collection's name unless said). A
    request beyond `time_limit`, or beyond `in_flight` at once, gets 503. Raises `ConfigurationError`.
    """
    _fits(collection, allow, in_flight)
    name = collection.name
    bounds = Bounds(time_limit=seconds(time_limit), in_flight=in_flight)
    router = APIRouter(
        prefix=f"/{name}" if prefix is None else prefix,
        tags=list(tags) if tags is not None else [name],
        dependencies=list(dependencies),
        route_class=bounded(bounds),
    )
    _Routes(router, collection, frozenset(allow)).add()
    return router


def _fits(collection: object, allow: Several[str], in_flight: int) -> None:
    if not isinstance(collection, Collection):
        raise ConfigurationError(f"documents({collection!r}): takes what App.collection returns")
    known = get_args(Allow)
    words = [allow] if isinstance(allow, str) else list(allow)
    if isinstance(allow, str) or not set(words) <= set(known):
        wrong = ", ".join(repr(word) for word in words if isinstance(allow, str) or word not in known)
        words_known = ", ".join(f'"{word}"' for word in known)
        raise ConfigurationError(f"documents({collection.name}): allow={wrong}: write a set of {words_known}")
    if in_flight < 1:
        raise ConfigurationError(f"documents({collection.name}): in_flight={in_flight}: must be at least 1")


class _Routes:
    """The operations of one collection."""

    def __init__(self, router: APIRouter, collection: Collection[Any], allow: frozenset[str]) -> None:
        self._router = router
        self._collection = collection
        self._name = collection.name
        self._allow = allow
        self._criteria = criteria(collection)

    def add(self) -> None:
        """Add the operations to the router, and the answer to every other method."""
        every, one = ["GET", "HEAD"], ["GET", "HEAD"]
        if "create" in self._allow:  # the first one, for routes are tried in their order
            self._add_create()
            every.append("POST")
        self._add_list()
        self._add_read()
        for word, method, add in (
            ("replace", "PUT", self._add_replace),
            ("patch", "PATCH", self._add_patch),
            ("delete", "DELETE", self._add_delete),
        ):
            if word in self._allow:
                add()
                one.append(method)
        for path, methods in (("", every), ("/{id:path}", one)):
            allowed = ", ".join(methods)
            self._refuse(path, Problem("not_allowed", f"allowed: {allowed}", (), {"Allow": allowed}))
        # A `path` parameter takes no line break, so such an id comes as far as here; none is ever stored.
        self._refuse("/{id}", Problem("not_found", f"there is no such document in {self._name}"))

    def _refuse(self, path: str, problem: Problem) -> None:
        """Answer every request that no other route has taken with this."""
        route = Route(self._router.prefix + path, _Answer(problem), methods=[], include_in_schema=False)
        self._router.routes.append(route)

    # --- reading --------------------------------------------------------------------------------------------

    def _add_list(self) -> None:
        async def list_documents(request: Request) -> Response:
            """A page of documents, filtered by declared fields."""
            query = self._criteria.query(request.query_params.multi_items())
            rows = await running().client.query(self._name, query)
            more = None if rows.continuation is None else seal(query, rows.continuation)
            items = b",".join(_item(stored) for stored in rows.documents)
            page = b'{"items":[' + items + b'],"continuation":' + to_json(more) + b"}"
            link = (
                {} if more is None else {"Link": f'<{request.url.include_query_params(continuation=more)}>; rel="next"'}
            )
            return Response(page, 200, link, JSON)

        parameters = self._criteria.parameters()
        page = {"model": described.page_of(self._collection), "description": "A page"}
        self._route("", "GET", list_documents, {200: page, **described.problems()}, parameters)

    def _add_read(self) -> None:
        async def read_document(request: Request, id: _Id) -> Response:
            """The document, as it is stored."""
            stored = self._there(await self._get(id))
            if unchanged(request.headers, stored):
                return Response(None, 304, {"ETag": tag(stored)})
            return _document(stored)

        found: _Responses = {
            200: described.success(self._collection.type, "The document"),
            304: {"description": "The reader has this version"},
        }
        parameters = described.headers(if_none_match=described.IF_NONE_MATCH)
        self._route(_ONE, "GET", read_document, {**found, **described.problems("not_found")}, parameters)

    # --- writing --------------------------------------------------------------------------------------------

    def _add_create(self) -> None:
        async def create_document(request: Request, body: Any) -> Response:
            """Store a new document; durable when it answers."""
            _media_type(request, JSON)
            put = self._put(body, Expect.NOTHING)
            written = await self._write(put)
            if isinstance(written, Stored):
                return self._created(request, written)
            found = written.current if isinstance(written, Mismatch) else None
            if found is not None and found.body == put.body and "idempotency-key" in request.headers:
                return self._created(request, found)
            raise refused("exists", "a document with this id exists already")

        create_document.__annotations__["body"] = described.body_of(self._collection.type, JSON)
        responses = {
            201: described.success(self._collection.type, "Stored", location=True),
            **described.problems("malformed", "too_slow", "exists", "too_large", "media_type"),
        }
        parameters = described.headers(idempotency_key=described.IDEMPOTENCY_KEY)
        self._route("", "POST", create_document, responses, parameters)

    def _add_replace(self) -> None:
        async def replace_document(request: Request, id: _Id, body: Any) -> Response:
            """Replace the document (or create it, where creating is allowed)."""
            _media_type(request, JSON)
            put = self._put(body, Expect.ANYTHING)
            self._same(put, id)

            async def change(current: Stored | None) -> Write:
                if current is None and "create" not in self._allow:
                    self._there(current)
                return Put(self._name, id, put.key, put.body, current.etag if current else Expect.NOTHING)

            before, stored = await self._swap(request, id, change)
            return _document(stored) if before else self._created(request, stored, of=id)

        replace_document.__annotations__["body"] = described.body_of(self._collection.type, JSON)
        responses: _Responses = {200: described.success(self._collection.type, "Replaced")}
        if "create" in self._allow:
            responses[201] = described.success(self._collection.type, "Created", location=True)
        codes = described.problems("malformed", "not_found", "too_slow", "stale", "too_large", "media_type")
        self._route(_ONE, "PUT", replace_document, responses | codes, described.headers(if_match=described.IF_MATCH))

    def _add_patch(self) -> None:
        async def patch_document(request: Request, id: _Id, body: Any) -> Response:
            """Change members of the document: null removes one (RFC 7396)."""
            _media_type(request, MERGE_PATCH)
            patch = _patch(body)

            async def change(current: Stored | None) -> Write:
                found = self._there(current)
                put = self._put(to_json(merged(from_json(found.body), patch)), found.etag)
                self._same(put, id)
                return put

            _, stored = await self._swap(request, id, change)
            return _document(stored)

        patch_document.__annotations__["body"] = described.body_of(dict[str, Any], MERGE_PATCH)
        responses = {
            200: described.success(self._collection.type, "Changed"),
            **described.problems("malformed", "not_found", "too_slow", "stale", "too_large", "media_type"),
        }
        self._route(_ONE, "PATCH", patch_document, responses, described.headers(if_match=described.IF_MATCH))

    def _add_delete(self) -> None:
        async def delete_document(request: Request, id: _Id) -> Response:
            """Delete the document."""

            async def change(current: Stored | None) -> Write:
                return Delete(self._name, id, expect=self._there(current).etag)

            await self._swap(request, id, change)
            return Response(None, 204)

        responses = {204: {"description": "Deleted"}, **described.problems("not_found", "stale")}
        self._route(_ONE, "DELETE", delete_document, responses, described.headers(if_match=described.IF_MATCH))

    # --- steps ----------------------------------------------------------------------------------------------

    async def _get(self, id: str) -> Stored | None:
        [stored] = await running().client.get(self._name, [id])
        return stored

    async def _write(self, write: Write) -> Stored | Gone | Mismatch:
        [written] = await running().client.write(self._name, [write])
        return written

    async def _swap(
        self, request: Request, id: str, change: Callable[[Stored | None], Awaitable[Write]]
    ) -> tuple[Stored | None, Any]:
        """Read, hold the headers against it, write what `change` makes of it; again if somebody was faster."""
        current = await self._get(id)
        for _ in range(TRIES):
            demand(request.headers, current)
            written = await self._write(await change(current))
            if not isinstance(written, Mismatch):
                return current, written
            current = written.current
        raise refused("overloaded", f"{TRIES} times changed by somebody else meanwhile")

    def _put(self, body: bytes, expect: Expect | str) -> Put:
        """The write of a body. Raises `Unfit`; a fault in a check of the user's own type is one too."""
        try:
            id, key, encoded = self._collection.encode(self._collection.codec.decode(body))
            if b"NaN" in encoded or b"Infinity" in encoded:
                from_json(encoded, allow_inf_nan=False)
        except TidemillError:
            raise
        except ValueError:
            raise Unfit("a number is not finite") from None
        except Exception as error:
            _log.exception("%s: the type's own check failed", self._name)
            raise Unfit(f"the type's own check failed ({type(error).__name__})") from None
        if not id or any(letter < " " for letter in id):
            raise Unfit(f"{self._collection.id} is empty or has a control character: an id must stand in a URL")
        return Put(self._name, id, key, encoded, expect)

    def _same(self, put: Put, id: str) -> None:
        if put.id != id:
            raise Unfit(f"{self._collection.id} differs from the id in the URL")

    def _there(self, stored: Stored | None) -> Stored:
        if stored is None:
            raise refused("not_found", f"there is no such document in {self._name}")
        return stored

    def _created(self, request: Request, stored: Stored, *, of: str = "") -> Response:
        here = quote(request.scope["path"].removesuffix(f"/{of}" if of else ""), safe="/~!$&'()*+,;=:@").rstrip("/")
        return _document(stored, 201, {"Location": f"{here}/{quote(stored.id, safe='')}"})

    def _route(
        self,
        path: str,
        method: str,
        endpoint: Callable[..., Any],
        responses: _Responses,
        parameters: Sequence[dict[str, Any]],
    ) -> None:
        verb = endpoint.__name__.partition("_")[0]
        [success] = [status for status in responses if str(status) in ("200", "201", "204")][:1]
        self._router.add_api_route(
            path,
            endpoint,
            methods=[method],
            status_code=int(success),
            response_model=None,
            responses=responses,
            operation_id=f"{verb}_{self._name}".replace("-", "_"),
            summary=f"{verb.capitalize()} {self._name}",
            openapi_extra=described.extra(parameters),
        )
        if method == "GET":
            self._router.add_api_route(
                path, endpoint, methods=["HEAD"], include_in_schema=False, response_model=None
            )  # fmt: skip


_ONE = "/{id:path}"
_Id: TypeAlias = Annotated[str, Path(description="the document's id")]


class _Answer:
    """An ASGI app that always answers this."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._problem.response()(scope, receive, send)


def _document(stored: Stored, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(stored.body, status, {"ETag": tag(stored), **(headers or {})}, JSON)


def _item(stored: Stored) -> bytes:
    return b'{"id":' + to_json(stored.id) + b',"etag":' + to_json(tag(stored)) + b',"value":' + stored.body + b"}"


def _media_type(request: Request, wanted: str) -> None:
    """Raises `Refused` with 415 for another media type than the one, or plain JSON."""
    given = request.headers.get("content-type")
    if given is not None and given.partition(";")[0].strip().lower() not in (wanted, JSON):
        headers = {"Accept-Patch": MERGE_PATCH} if wanted == MERGE_PATCH else {"Accept-Post": wanted}
        raise refused("media_type", f"the body must be {wanted}", headers=headers)


def _patch(body: bytes) -> dict[str, Any]:
    try:
        patch = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise NoJson() from None
    if not isinstance(patch, dict):
        raise Unfit("a merge patch of a document must be an object")
    return patch
