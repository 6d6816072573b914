"""What the decorators of `App` are to a type checker, and tasks.

The decorators return the function unchanged, so a direct call is the unit test. What they are called with is checked:
the first parameter must take what the queue or feed gives, one value, or a list of them with `batch`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from tidemill.app.context import Context
from tidemill.app.depends import dependency_of
from tidemill.app.handles import Queue
from tidemill.app.values import Change, Deletion
from tidemill.core.codec import arguments_type
from tidemill.core.duration import Duration
from tidemill.core.signature import Kind, kind_of, parameters_of
from tidemill.errors import ConfigurationError

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


class MessageDecorator(Protocol[T]):
    """Declares a function as the handler of a queue's messages, one by one."""

    def __call__(self, handler: Callable[Concatenate[T, P], R], /) -> Callable[Concatenate[T, P], R]: ...


class MessageBatchDecorator(Protocol[T]):
    """Declares a function as the handler of a queue's messages, in lists."""

    def __call__(self, handler: Callable[Concatenate[list[T], P], R], /) -> Callable[Concatenate[list[T], P], R]: ...


class ChangeDecorator(Protocol[T]):
    """Declares a function as the handler of a feed's changes, one by one."""

    @overload
    def __call__(
        self, handler: Callable[Concatenate[Change[T] | Deletion[T], P], R], /
    ) -> Callable[Concatenate[Change[T] | Deletion[T], P], R]: ...
    @overload
    def __call__(
        self, handler: Callable[Concatenate[Change[T], P], R], /
    ) -> Callable[Concatenate[Change[T], P], R]: ...


class ChangeBatchDecorator(Protocol[T]):
    """Declares a function as the handler of a feed's changes, in lists."""

    @overload
    def __call__(
        self, handler: Callable[Concatenate[list[Change[T] | Deletion[T]], P], R], /
    ) -> Callable[Concatenate[list[Change[T] | Deletion[T]], P], R]: ...
    @overload
    def __call__(
        self, handler: Callable[Concatenate[list[Change[T]], P], R], /
    ) -> Callable[Concatenate[list[Change[T]], P], R]: ...


class Task(Generic[P, R]):
    """A function with a queue of its own: call it here, or `send` the call. Made by `App.task`."""

    def __init__(self, function: Callable[P, R], queue: Queue[Any], handler: Callable[..., Any]) -> None:
        self.function = function
        self.queue = queue
        self.handler = handler
        self.__name__: str = getattr(function, "__name__", queue.name)
        self.__doc__ = function.__doc__
        self._signature = inspect.signature(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    async def send(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Send this call as a message; its id. Raises `Unfit` for arguments that do not fit the signature."""
        return await self.queue.send(self._message(args, kwargs))

    async def send_after(self, delay: Duration, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Send this call, due after `delay`."""
        return await self.queue.send(self._message(args, kwargs), delay=delay)

    def _message(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = self._signature.bind_partial(*args, **kwargs)
        return self.queue.codec.check(dict(bound.arguments))


def unpack(function: Callable[..., Any], name: str) -> tuple[Any, Callable[..., Any]]:
    """A function of arguments as a handler of messages: the message type, and the handler that unpacks it.

    Parameters that are a `Context` or have a dependency are left to be injected; all others travel.
    """
    fields: dict[str, tuple[Any, Any]] = {}
    injected: list[inspect.Parameter] = []
    if kind_of(function) in (Kind.GENERATOR, Kind.ASYNC_GENERATOR):
        raise ConfigurationError(f"task {name!r} yields; a task returns (a dependency may yield)")
    for parameter in parameters_of(function, f"task {name!r}"):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ConfigurationError(f"task {name!r}: {parameter} cannot travel in a message; name each argument")
        if parameter.annotation is Context or dependency_of(parameter) is not None:
            injected.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
            continue
        untyped = parameter.annotation is parameter.empty
        annotation = Any if untyped else parameter.annotation
        fields[parameter.name] = (
            annotation,
            ... if parameter.default is parameter.empty else parameter.default,
        )
    type_ = arguments_type(name, fields)
    return type_, _unpacking(function, tuple(fields), type_, injected)


def _unpacking(
    function: Callable[..., Any], names: tuple[str, ...], type_: Any, injected: list[inspect.Parameter]
) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def handler(message: Any, **given: Any) -> Any:
            return await function(**{name: getattr(message, name) for name in names}, **given)

    else:

        @wraps(function)
        def handler(message: Any, **given: Any) -> Any:
            return function(**{name: getattr(message, name) for name in names}, **given)

    first = inspect.Parameter("message", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=type_)
    handler.__signature__ = inspect.Signature([first, *injected])  # type: ignore[attr-defined]
    return handler
