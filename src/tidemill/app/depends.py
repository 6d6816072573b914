"""Dependencies in FastAPI's grammar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tidemill.core.signature import dependency_of

__all__ = ["Depends", "Marker", "dependency_of"]

Scope: TypeAlias = Literal["message", "app"]


@dataclass(frozen=True, slots=True)
class Marker:
    """What `Depends` leaves in a signature."""

    dependency: Callable[..., Any] | None
    scope: Scope
    use_cache: bool


def Depends(  # noqa: N802 - FastAPI's spelling; a function, so that `= Depends(f)` has the type of any default
    dependency: Callable[..., Any] | None = None, *, scope: Scope = "message", use_cache: bool = True
) -> Any:
    """`Annotated[Rates, Depends(rates)]`, or `= Depends(rates)`: the value comes from calling `dependency`.

    The dependency may be a function, an async function, or a generator of one value whose end is its clean-up;
    it may have dependencies of its own. Without one the annotated class itself is called. Scope "message": made
    once for each call (each time it is asked for with `use_cache=False`); "app": once, at start.
    Any other marker with an attribute `dependency` works too, FastAPI's own among them.
    """
    return Marker(dependency, scope, use_cache)
