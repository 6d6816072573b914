"""Dependencies in FastAPI's grammar, compiled once to a plan of steps.

A plan is made at start from signatures alone; a call then walks a tuple of steps and looks nothing up. What is
made first is closed last, also when the call fails: the failure is thrown into each generator, which may raise
another one in its place (a `Retry`, say) but cannot make it unhappen. Sync and async dependencies mix: every
awaitable is taken through `reach`, which awaits it where it belongs (here, or from a thread on the loop), so that one
code path serves loops, threads and child processes. With nothing to inject a plan is `free` and costs nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from types import GeneratorType
from typing import Annotated, Any, Final, Protocol, TypeAlias, TypeVar, get_args, get_origin

from tidemill.core.signature import Kind, dependency_of, kind_of, name_of, parameters_of, wrong_with
from tidemill.errors import ConfigurationError

T = TypeVar("T")

CONTEXT = 0
"""Where the call's context stands among the values of a call."""


class Reach(Protocol):
    """How to await something from where the call runs."""

    def __call__(self, work: Awaitable[T], /) -> Awaitable[T]: ...


def here(work: Awaitable[T], /) -> Awaitable[T]:
    """Await it right here: the call runs on the loop itself."""
    return work


@dataclass(frozen=True, slots=True)
class Step:
    """Make one value: call `function` with the values at these places, and append what it gives.

    A place is an index into the values of the call, or, below 0, `~index` into those of the app.
    """

    function: Callable[..., Any]
    kind: Kind
    wants: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to call one function. `free` when nothing is injected: call it with its items alone."""

    function: Callable[..., Any]
    kind: Kind
    steps: tuple[Step, ...]
    wants: tuple[tuple[str, int], ...]
    needs_context: bool
    first: Parameter | None
    shared: list[Any]

    @property
    def free(self) -> bool:
        return not self.wants

    async def call(
        self,
        arguments: tuple[Any, ...],
        context: Any,
        reach: Reach = here,
        check: Callable[[], None] | None = None,
    ) -> Any:
        """Call the function with `arguments` and what it wants injected; close what was made, last first.

        `check` is called right before the function, after all is made, and may raise to prevent it.
        """
        values: list[Any] = [context]
        opened: list[Opened] = []
        failure: BaseException | None = None
        result: Any = None
        try:
            if self.steps:
                await make_all(self.steps, values, self.shared, opened, reach)
            if check is not None:
                check()
            result = self.function(*arguments, **_gather(self.wants, values, self.shared))
            if hasattr(result, "__await__"):
                result = await reach(result)
        except BaseException as error:
            failure = error
        if opened:
            failure = await close(opened, failure, reach)
        if failure is not None:
            raise failure
        return result


class AppScope:
    """The values that are made once, at start, and closed at stop, both in the task that calls this."""

    def __init__(self, steps: list[Step], shared: list[Any]) -> None:
        self._steps = steps
        self._shared = shared
        self._opened: list[Opened] = []

    async def open(self) -> None:
        """Make them all, in order. Closes what was made if one fails, and raises its failure."""
        try:
            await make_all(self._steps, self._shared, self._shared, self._opened, here)
        except BaseException as error:
            failure = await close(self._opened, error, here)
            self._shared.clear()
            raise failure or error from None

    async def close(self) -> None:
        """Close them, last first. Raises the last failure of these, after all were closed."""
        failure = await close(self._opened, None, here)
        self._shared.clear()
        if failure is not None:
            raise failure


class Injector:
    """Compiles functions of one app. `context` is the type that is injected by annotation alone; `overrides`
    puts other functions in the place of dependencies (tests)."""

    def __init__(
        self, context: type, *, overrides: Mapping[Callable[..., Any], Callable[..., Any]] | None = None
    ) -> None:
        self._context = context
        self._overrides = dict(overrides or {})
        self._app_steps: list[Step] = []
        self._app_places: dict[Callable[..., Any], int] = {}
        self._shared: list[Any] = []

    def app_scope(self) -> AppScope:
        """What was compiled so far with scope "app"."""
        return AppScope(self._app_steps, self._shared)

    def compile(self, function: Callable[..., Any], *, owner: str, items: int, app_scope: bool = True) -> Plan:
        """The plan of a function whose first `items` parameters (0 or 1) are given by position.

        `owner` names it in errors ("worker 'bill'"). `app_scope=False` where the app's values are not at hand.
        Raises `ConfigurationError` with the owner, the parameter and the fix.
        """
        compiling = _Compiling(self, owner, app_scope)
        parameters = parameters_of(function, owner)
        first: Parameter | None = None
        if items:
            if not parameters or self.place_of(parameters[0]) is not None:
                raise ConfigurationError(
                    f"{owner}: the first parameter of {name_of(function)} must take the item; add one"
                )
            first = parameters.pop(0)
        wants = compiling.wants(parameters, name_of(function), ())
        return Plan(
            function,
            kind_of(function),
            tuple(compiling.steps),
            wants,
            compiling.needs_context,
            first,
            self._shared,
        )

    def place_of(self, parameter: Parameter) -> Any | None:
        """The marker of a parameter that is injected, the context type itself for one of those, else None."""
        annotation = parameter.annotation
        if get_origin(annotation) is Annotated and get_args(annotation)[0] is self._context:
            annotation = self._context
        return self._context if annotation is self._context else dependency_of(parameter)

    def resolve(self, marker: Any, parameter: Parameter) -> Callable[..., Any]:
        """The function behind a marker, after overrides; `Depends()` alone means the annotated class."""
        function = marker.dependency
        if function is None:
            args = get_args(parameter.annotation)
            function = args[0] if args else parameter.annotation
        found: Callable[..., Any] = self._overrides.get(function, function)
        return found

    def app_place(self, function: Callable[..., Any]) -> int | None:
        """The place of an app-scoped value that is compiled already."""
        return self._app_places.get(function)

    def add_app_step(self, step: Step, function: Callable[..., Any]) -> int:
        """One more value that is made at start; its place."""
        self._app_steps.append(step)
        place = self._app_places[function] = ~(len(self._app_steps) - 1)
        return place


class _Compiling:
    """One function being compiled: the steps so far, and where each cached value stands."""

    def __init__(self, injector: Injector, owner: str, app_scope: bool) -> None:
        self._injector = injector
        self._owner = owner
        self._app_scope = app_scope
        self._places: dict[Callable[..., Any], int] = {}
        self.steps: list[Step] = []
        self.needs_context = False

    def wants(
        self, parameters: list[Parameter], of: str, path: tuple[Callable[..., Any], ...], *, app: bool = False
    ) -> tuple[tuple[str, int], ...]:
        """What is injected into these parameters, and from which place."""
        wanted: list[tuple[str, int]] = []
        for parameter in parameters:
            if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
                continue
            marker = self._injector.place_of(parameter)
            if marker is None:
                self._check_optional(parameter, of)
                continue
            if parameter.kind is Parameter.POSITIONAL_ONLY:
                raise self._problem(parameter, of, "is positional only and cannot be injected; drop the '/'")
            place = self._place(marker, parameter, of, path, app)
            wanted.append((parameter.name, place))
        return tuple(wanted)

    def _place(
        self, marker: Any, parameter: Parameter, of: str, path: tuple[Callable[..., Any], ...], app: bool
    ) -> int:
        if not hasattr(marker, "dependency"):
            if app:
                raise self._problem(parameter, of, "is a call's context, and scope 'app' has no call; drop it")
            self.needs_context = True
            return CONTEXT
        function = self._injector.resolve(marker, parameter)
        if wrong := wrong_with(marker, function):
            raise self._problem(parameter, of, wrong)
        if function in path:
            circle = " → ".join(name_of(f) for f in (*path[path.index(function) :], function))
            raise self._problem(parameter, of, f"closes a circle ({circle}); break it")
        if getattr(marker, "scope", None) == "app":
            return self._app(function, parameter, of, path)
        if app:
            raise self._problem(
                parameter, of, f"is made for each call, but {of} is made once; give it Depends(…, scope='app') too"
            )
        cached = getattr(marker, "use_cache", True)
        if cached and function in self._places:
            return self._places[function]
        step = self._step(function, path, app=False)
        self.steps.append(step)
        place = len(self.steps)  # the context stands at 0
        if cached:
            self._places[function] = place
        return place

    def _app(
        self, function: Callable[..., Any], parameter: Parameter, of: str, path: tuple[Callable[..., Any], ...]
    ) -> int:
        if not self._app_scope:
            raise self._problem(
                parameter, of, "has scope 'app', which a child process does not have; use scope 'message' there"
            )
        place = self._injector.app_place(function)
        return (
            place if place is not None else self._injector.add_app_step(self._step(function, path, app=True), function)
        )

    def _step(self, function: Callable[..., Any], path: tuple[Callable[..., Any], ...], *, app: bool) -> Step:
        parameters = parameters_of(function, self._owner)
        wants = self.wants(parameters, f"dependency {name_of(function)}", (*path, function), app=app)
        return Step(function, kind_of(function), wants)

    def _check_optional(self, parameter: Parameter, of: str) -> None:
        if parameter.default is Parameter.empty:
            raise self._problem(
                parameter,
                of,
                "has nothing to fill it: annotate it Annotated[…, Depends(function)] or Context, or give a default",
            )

    def _problem(self, parameter: Parameter, of: str, what: str) -> ConfigurationError:
        return ConfigurationError(f"{self._owner}: parameter {parameter.name!r} of {of} {what}")


# --- making and closing -------------------------------------------------------------------------------------

Opened: TypeAlias = "GeneratorType[Any, Any, Any] | AsyncGenerator[Any, Any]"

_NOTHING: Final = object()


async def make_all(
    steps: Sequence[Step], values: list[Any], shared: list[Any], opened: list[Opened], reach: Reach
) -> None:
    """Append each step's value to `values`. Generators stay in `opened` until `close`."""
    for step in steps:
        given = step.function(**_gather(step.wants, values, shared))
        if step.kind is Kind.GENERATOR:
            value = next(given, _NOTHING)
        elif step.kind is Kind.ASYNC_GENERATOR:
            value = await reach(anext(given, _NOTHING))
        else:
            values.append(await reach(given) if step.kind is Kind.ASYNC or hasattr(given, "__await__") else given)
            continue
        if value is _NOTHING:
            raise RuntimeError(f"dependency {name_of(step.function)} ended without yielding a value")
        opened.append(given)
        values.append(value)


async def close(opened: list[Opened], failure: BaseException | None, reach: Reach) -> BaseException | None:
    """End these generators, last first, each told of the failure so far. The failure that remains, if any."""
    while opened:
        generator = opened.pop()
        try:
            if isinstance(generator, GeneratorType):  # asking the abstract class costs as much as all the rest
                _finish(generator, failure)
            else:
                await reach(_finish_async(generator, failure))
        except BaseException as error:
            failure = error
    return failure


def _finish(generator: Generator[Any, Any, Any], failure: BaseException | None) -> None:
    try:
        if failure is None:
            next(generator)
        else:
            generator.throw(failure)
    except StopIteration:
        return
    generator.close()
    name = getattr(generator, "__name__", "generator")
    raise RuntimeError(f"dependency {name} yielded twice: it gives one value, then cleans up")


async def _finish_async(generator: AsyncGenerator[Any, Any], failure: BaseException | None) -> None:
    try:
        if failure is None:
            await anext(generator)
        else:
            await generator.athrow(failure)
    except StopAsyncIteration:
        return
    await generator.aclose()
    name = getattr(generator, "__name__", "generator")
    raise RuntimeError(f"dependency {name} yielded twice: it gives one value, then cleans up")


def _gather(wants: tuple[tuple[str, int], ...], values: list[Any], shared: list[Any]) -> dict[str, Any]:
    if not wants:
        return {}
    return {name: values[place] if place >= 0 else shared[~place] for name, place in wants}
