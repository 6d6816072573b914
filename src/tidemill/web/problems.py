"""What goes wrong over HTTP, as RFC 9457 problems. No text of an exception and no value that was sent is in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

from fastapi.exceptions import HTTPException, RequestValidationError
from pydantic import ValidationError
from starlette.responses import Response

from tidemill.errors import BackendFull, NoJson, TidemillError, TooLarge, Unavailable, Unfit

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = "1"
"""Seconds that a client is asked to wait when a moment later may do."""

Code: TypeAlias = Literal[
    "malformed",  # 400
    "refused",  # what a dependency of the router said
    "not_found",  # 404
    "not_allowed",  # 405
    "too_slow",  # 408
    "exists",  # 409
    "stale",  # 412
    "too_large",  # 413
    "media_type",  # 415
    "unfit",  # 422
    "overloaded",  # 503, as all that follow
    "unavailable",
    "full",
    "time_limit",
]
"""The closed list of `code`: what a program decides by."""

_STATUS: Mapping[Code, int] = {
    "malformed": 400,
    "not_found": 404,
    "not_allowed": 405,
    "too_slow": 408,
    "exists": 409,
    "stale": 412,
    "too_large": 413,
    "media_type": 415,
    "unfit": 422,
    "overloaded": 503,
    "unavailable": 503,
    "full": 503,
    "time_limit": 503,
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake: where (`pointer`: a JSON pointer into the body; `parameter`: its name), and what is wrong."""

    where: str
    detail: str
    kind: Literal["pointer", "parameter"] = "pointer"


@dataclass(frozen=True, slots=True)
class Problem:
    """One answer that says no. `status` is the code's own unless a dependency of the user said another."""

    code: Code
    detail: str
    mistakes: tuple[Mistake, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 0

    def response(self) -> Response:
        """As it is sent."""
        status = self.status or _STATUS[self.code]
        headers = dict(self.headers)
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.setdefault("Retry-After", RETRY_AFTER)
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": _phrase(status),
            "status": status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.mistakes:
            body["errors"] = [{m.kind: m.where, "detail": m.detail} for m in self.mistakes]
        return Response(json.dumps(body), status, headers, MEDIA_TYPE)


class Refused(HTTPException):
    """A request ends here, with this problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.status or _STATUS[problem.code], problem.detail)
        self.problem = problem


def refused(code: Code, detail: str, *mistakes: Mistake, headers: Mapping[str, str] | None = None) -> Refused:
    """The exception that ends a request."""
    return Refused(Problem(code, detail, mistakes, headers or {}))


def problem_of(error: Exception) -> Problem:
    """The problem that stands for what a request ended with."""
    match error:
        case Refused():
            return error.problem
        case HTTPException():
            return Problem("refused", _text(error.detail), (), error.headers or {}, error.status_code)
        case RequestValidationError():
            return Problem("unfit", "the request does not fit", tuple(_request_mistakes(error.errors())))
        case NoJson():
            return Problem("malformed", "the body is not JSON")
        case Unfit():
            return Problem("unfit", "the document does not fit its type", tuple(_body_mistakes(error)))
        case TooLarge():
            return Problem("too_large", "the body is larger than the backend takes")
        case BackendFull():
            return Problem("full", "the backend has no room left; nothing was written")
        case Unavailable():
            return Problem("unavailable", "the backend does not answer; whether it took effect is unknown")
        case TidemillError():
            return Problem("unavailable", "no worker and no client runs behind this API")
        case _:
            raise error


def pointer(path: Sequence[object]) -> str:
    """A JSON pointer (RFC 6901) as a URI fragment, from a path of names and numbers."""
    return "#" + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _body_mistakes(error: Unfit) -> Iterator[Mistake]:
    """Every mistake that pydantic found, else the line that the codec or the handle has for it."""
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        yield Mistake("#", str(error) if cause is None else "the value cannot be written as JSON")
        return
    for found in cause.errors(include_url=False, include_context=False, include_input=False):
        yield Mistake(pointer(found["loc"]), found["msg"])


def _request_mistakes(found: Sequence[Any]) -> Iterator[Mistake]:
    """What FastAPI found in parameters, here those of the user's own dependencies."""
    for one in found:
        place, *path = one["loc"]
        if place == "body":
            yield Mistake(pointer(path), one["msg"])
        else:
            yield Mistake(".".join(str(part) for part in path), one["msg"], "parameter")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"


def _text(detail: object) -> str:
    return detail if isinstance(detail, str) else json.dumps(detail, default=str)


# --- how it stands in OpenAPI -------------------------------------------------------------------------------

_SCHEMA: Mapping[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "what a program decides by"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer into the body"},
                    "parameter": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}


def documented(code: Code, description: str) -> dict[str, Any]:
    """The response of a code, for the description of an operation."""
    status = _STATUS[code]
    example = {
        "type": "about:blank",
        "title": _phrase(status),
        "status": status,
        "code": code,
        "detail": description,
    }
    response: dict[str, Any] = {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": _SCHEMA, "example": example}},
    }
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "string"}}}
    return response


def status_of(code: Code) -> int:
    """The status that a code stands with."""
    return _STATUS[code]
