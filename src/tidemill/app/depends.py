"""Dependencies in FastAPI's grammar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter
from typing import Annotated, Any, Literal, get_args, get_origin


@dataclass(frozen=True, slots=True)
class Depends:
    """`Annotated[Rates, Depends(rates)]`: the value comes from calling `dependency`.

    The dependency may be a function, an async function, or a generator of one value whose end is its clean-up;
    it may have dependencies of its own. Scope "message": made for each call; "app": once, at start.
    Any other marker with an attribute `dependency` works too, FastAPI's own among them.
    """

    dependency: Callable[..., Any]
    scope: Literal["message", "app"] = "message"


def dependency_of(parameter: Parameter) -> Any | None:
    """The marker of a parameter: anything with `.dependency` in its `Annotated[…]`, or as its default."""
    if get_origin(parameter.annotation) is Annotated:
        for marker in get_args(parameter.annotation)[1:]:
            if hasattr(marker, "dependency"):
                return marker
    return parameter.default if hasattr(parameter.default, "dependency") else None
