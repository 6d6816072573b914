"""Bodies to values and back: the user's types, validated by pydantic. The only module that imports it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic_core import to_json

from tidemill.errors import NoJson, Unfit

T = TypeVar("T")

_SHOWN = 3


class Codec(Generic[T]):
    """One declared type: anything pydantic takes (models, dataclasses, TypedDicts, `dict`, `list[int]`, `Any`)."""

    def __init__(self, type_: Any) -> None:
        self.type = type_
        self._adapter: TypeAdapter[T] = TypeAdapter(type_)
        self._validate = self._adapter.validator.validate_json

    def encode(self, value: T) -> bytes:
        """The value as JSON bytes. Raises `Unfit` for what the type does not allow."""
        try:
            return to_json(self._adapter.dump_python(value, mode="json", warnings="error"))
        except Exception as error:  # pydantic_core raises several unrelated kinds here
            raise Unfit(f"{type(value).__name__} does not fit {name_of(self.type)}: {error}") from error

    def check(self, value: Any) -> T:
        """The value, validated as if it had come in from outside. Raises `Unfit` with the path of the field."""
        try:
            return self._adapter.validate_python(value)
        except ValidationError as error:
            raise Unfit(_explain(error)) from error

    def decode(self, body: bytes) -> T:
        """The value of a body. Raises `NoJson`, or `Unfit` with the path of the field; never casts silently
        what pydantic's JSON mode would not."""
        try:
            value: T = self._validate(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            if first["type"] == "json_invalid":
                raise NoJson(f"the body is not JSON ({first['msg']})") from error
            raise Unfit(_explain(error)) from error
        return value


def name_of(type_: Any) -> str:
    """A type as people read it in an error line."""
    return getattr(type_, "__name__", None) or str(type_)


def _explain(error: ValidationError) -> str:
    """The first mistakes, each with the path of its field; never the input, which may be secret."""
    mistakes = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{'.'.join(str(p) for p in m['loc']) or 'the body'}: {m['msg']}" for m in mistakes[:_SHOWN]]
    more = len(mistakes) - _SHOWN
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")


def arguments_type(name: str, fields: dict[str, tuple[Any, Any]]) -> Any:
    """A type whose values are the arguments of a function: field → (annotation, default or `...`).

    Unknown fields are refused: an argument nobody takes is a mistake of the sender, not something to drop.
    """
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=False)
    return create_model(name, __config__=config, **fields)  # type: ignore[call-overload]
