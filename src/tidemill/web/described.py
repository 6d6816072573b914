"""How the operations of a collection stand in OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Body
from pydantic import BaseModel, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema, core_schema

from tidemill.app.handles import Collection
from tidemill.core.codec import name_of
from tidemill.web.problems import Code, documented, status_of

T = TypeVar("T")

_ALWAYS: tuple[Code, ...] = ("unfit", "unavailable")
_ETAG = {"ETag": {"description": "names this version", "schema": {"type": "string"}}}
_LOCATION = {"Location": {"description": "where the document is", "schema": {"type": "string"}}}

_WORDS: Mapping[Code, str] = {
    "malformed": "the body is not JSON",
    "not_found": "there is no such document",
    "exists": "a document with this id exists already",
    "stale": "the document has changed since it was read",
    "too_large": "the body has more than 1048576 bytes",
    "media_type": "the body is of another media type",
    "unfit": "the document or a parameter does not fit",
    "too_slow": "the body did not come in time",
    "unavailable": "the backend does not answer, or there is too much to do; try again",
}

IF_MATCH = "the etag that must still be the document's; `*`: there must be one"
IF_NONE_MATCH = "answer 304 if this is still the document's etag"
IDEMPOTENCY_KEY = "any text that is the same in each try: a repeated POST of a stored document gets its first answer"


class Said:
    """Marks a body that is documented as a type, and handed over as it came."""

    def __init__(self, type_: Any) -> None:
        self._type = type_

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.json_or_python_schema(handler.generate_schema(self._type), core_schema.any_schema())


class _Item(BaseModel, Generic[T]):
    """A document on a page; `etag` as it stands in `If-Match`."""

    id: str
    etag: str
    value: T


def body_of(type_: Any, media_type: str) -> Any:
    """The annotation of a body of this type that is decoded by hand."""
    return Annotated[Any, Said(type_), Body(media_type=media_type)]


def page_of(collection: Collection[Any]) -> Any:
    """The type of a page of a list."""
    name = name_of(collection.type)
    name = name if name.isidentifier() and not name.islower() else collection.name.replace("-", "_").title()
    item = create_model(
        f"{name}Item", __base__=_Item[collection.type], __doc__=_Item.__doc__  # type: ignore[name-defined]
    )  # fmt: skip
    return create_model(f"{name}Page", items=(list[item], ...), continuation=(str | None, None))  # type: ignore[valid-type]


def success(type_: Any, description: str, *, location: bool = False) -> dict[str, Any]:
    """A response that holds a document."""
    return {"model": type_, "description": description, "headers": _ETAG | (_LOCATION if location else {})}


def problems(*codes: Code) -> dict[int | str, dict[str, Any]]:
    """The responses of these codes, and of those that any operation may have."""
    return {status_of(code): documented(code, _WORDS[code]) for code in (*codes, *_ALWAYS)}


def headers(**described: str) -> list[dict[str, Any]]:
    """Optional headers: `if_match="…"`."""
    return [
        {
            "name": name.replace("_", "-").title(),
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": description,
        }
        for name, description in described.items()
    ]


def extra(parameters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is added to an operation's description."""
    return {"parameters": list(parameters)} if parameters else {}
