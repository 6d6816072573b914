"""What the signature of a function says: its parameters, their markers, and how it gives its value."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from inspect import Parameter
from typing import Annotated, Any, Final, get_args, get_origin

from tidemill.errors import ConfigurationError

_SCOPES: Final = (None, "message", "app", "function", "request")  # the last two are FastAPI's, for each call


class Kind(Enum):
    """How a function gives its value."""

    PLAIN = "plain"
    ASYNC = "async"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"


def wrong_with(marker: Any, function: Any) -> str:
    """What is wrong with a marker by itself, with the fix; "" if nothing is."""
    scope = getattr(marker, "scope", None)
    if marker.dependency is None and (function is Parameter.empty or not inspect.isclass(function)):
        return "has Depends() without a function and no class as its annotation; write Depends(function)"
    if not callable(function):
        return f"depends on {function!r:.60}, which cannot be called; write Depends(function), without ()"
    if scope not in _SCOPES:
        return f"has scope {scope!r}; it is 'message' (each call) or 'app' (once, at start)"
    if scope == "app" and not getattr(marker, "use_cache", True):
        return "has scope 'app' and use_cache=False, but an app's value is made once; drop one of them"
    return ""


def dependency_of(parameter: Parameter) -> Any | None:
    """The marker of a parameter: anything with `.dependency` in its `Annotated[…]`, or as its default."""
    if get_origin(parameter.annotation) is Annotated:
        for marker in get_args(parameter.annotation)[1:]:
            if hasattr(marker, "dependency"):
                return marker
    return parameter.default if hasattr(parameter.default, "dependency") else None


def kind_of(function: Callable[..., Any]) -> Kind:
    """How a function, or an object that is called like one, gives its value."""
    called: Any = function
    if not (inspect.isroutine(called) or inspect.isclass(called)) and not hasattr(called, "func"):
        called = getattr(called, "__call__", called)  # noqa: B004 - the method itself is what is looked at
    if inspect.iscoroutinefunction(called):
        return Kind.ASYNC
    if inspect.isasyncgenfunction(called):
        return Kind.ASYNC_GENERATOR
    return Kind.GENERATOR if inspect.isgeneratorfunction(called) else Kind.PLAIN


def parameters_of(function: Callable[..., Any], owner: str) -> list[Parameter]:
    """The parameters of a function with their annotations evaluated. Raises `ConfigurationError`."""
    try:
        inspect.signature(function)
    except (TypeError, ValueError):
        return []  # a builtin without a signature: it is called without arguments
    whose = f"{owner}: an annotation of {name_of(function)}"
    try:
        return list(inspect.signature(function, eval_str=True).parameters.values())
    except NameError as error:
        raise ConfigurationError(
            f"{whose} names {error.name!r}, which is not there at module level when it runs; "
            "import it outside of TYPE_CHECKING, or move it to module level"
        ) from None
    except Exception as error:  # evaluating an annotation may raise anything
        raise ConfigurationError(f"{whose} cannot be evaluated ({type(error).__name__}: {error}); mend it") from None


def name_of(function: Callable[..., Any]) -> str:
    """A function, or an object that is called like one, as people read it in an error line."""
    return str(getattr(function, "__name__", None) or type(function).__name__)
