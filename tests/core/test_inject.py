"""Dependencies: what is made, in which order, how often, and how it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import pytest

from tidemill.app.depends import Depends
from tidemill.core.inject import Injector
from tidemill.core.signature import Kind, kind_of
from tidemill.errors import ConfigurationError, Retry

# ruff: noqa: B008 - calls as defaults are the grammar under test


@dataclass
class Foreign:
    """Another library's marker, FastAPI's say."""

    dependency: Callable[..., Any] | None
    use_cache: bool = True


class Log(list[str]):
    """What happened, in order."""


class Context:
    """Stands for the context type that is injected by annotation."""

    def __init__(self) -> None:
        self.log = Log()


def the_log(context: Context) -> Log:
    return context.log


Logged = Annotated[Log, Depends(the_log)]


def plain(log: Logged) -> str:
    log.append("plain")
    return "p"


async def in_async(log: Logged) -> str:
    await asyncio.sleep(0)
    log.append("async")
    return "a"


def opened(log: Logged) -> Iterator[str]:
    log.append("open")
    try:
        yield "o"
    except ValueError as error:
        log.append(f"saw {error}")
        raise
    finally:
        log.append("close")


async def opened_async(log: Logged, _: Annotated[str, Depends(opened)]) -> AsyncIterator[str]:
    log.append("open async")
    try:
        yield "oa"
    finally:
        await asyncio.sleep(0)
        log.append("close async")


def translating() -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise Retry(5.0) from None


def swallowing() -> Iterator[None]:
    try:
        yield
    except ValueError:
        pass


def failing(_: Annotated[str, Depends(opened)]) -> str:
    raise ValueError("no rates")


def twice() -> Iterator[int]:
    yield 1
    yield 2


async def twice_async() -> AsyncIterator[int]:
    yield 1
    yield 2


def never() -> Iterator[int]:
    yield from ()


class Rates:
    """A class as its own dependency."""

    def __init__(self, log: Logged) -> None:
        log.append("rates")


async def run(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[Any, Log]:
    """Compile and call; the result and what was logged."""
    plan = Injector(Context, **options).compile(function, owner="worker 'w'", items=len(arguments))
    given = Context()
    result = await plan.call(arguments, given)
    return result, given.log


async def test_all_kinds_are_made_in_order_and_closed_in_reverse() -> None:
    async def handler(
        item: int,
        a: Annotated[str, Depends(plain)],
        b: Annotated[str, Depends(in_async)],
        c: Annotated[str, Depends(opened_async)],
        d: Annotated[str, Depends(opened)],
    ) -> str:
        return f"{item}{a}{b}{c}{d}"

    result, log = await run(handler, 7)
    assert result == "7paoao"
    assert log == ["plain", "async", "open", "open async", "close async", "close"]


async def test_a_failure_is_thrown_into_the_generators() -> None:
    def handler(item: int, x: Annotated[str, Depends(opened)]) -> None:
        raise ValueError("bad")

    given = Context()
    plan = Injector(Context).compile(handler, owner="worker 'w'", items=1)
    with pytest.raises(ValueError, match="bad"):
        await plan.call((7,), given)
    assert given.log == ["open", "saw bad", "close"]


async def test_a_generator_may_replace_a_failure_but_not_swallow_it() -> None:
    def replaced(item: int, _: Annotated[None, Depends(translating)]) -> None:
        raise ValueError("bad")

    def swallowed(item: int, _: Annotated[None, Depends(swallowing)]) -> None:
        raise ValueError("bad")

    with pytest.raises(Retry):
        await run(replaced, 7)
    with pytest.raises(ValueError, match="bad"):
        await run(swallowed, 7)


async def test_what_was_made_is_closed_when_a_later_dependency_fails() -> None:
    def handler(item: int, _: Annotated[str, Depends(failing)]) -> None:
        raise AssertionError("never called")

    given = Context()
    plan = Injector(Context).compile(handler, owner="worker 'w'", items=1)
    with pytest.raises(ValueError, match="no rates"):
        await plan.call((7,), given)
    assert given.log == ["open", "saw no rates", "close"]


@pytest.mark.parametrize(
    ("dependency", "message"), [(twice, "yielded twice"), (twice_async, "yielded twice"), (never, "without yielding")]
)
async def test_a_generator_gives_exactly_one_value(dependency: Callable[..., Any], message: str) -> None:
    def handler(item: int, _: int = Depends(dependency)) -> None:
        """Does nothing."""

    with pytest.raises(RuntimeError, match=message):
        await run(handler, 7)


async def test_a_value_is_made_once_in_a_call_unless_use_cache_is_off() -> None:
    def handler(
        a: Annotated[str, Depends(plain)],
        b: Annotated[str, Foreign(plain)],
        c: Annotated[str, Foreign(plain, use_cache=False)],
    ) -> None:
        """Does nothing."""

    _, log = await run(handler)
    assert log == ["plain", "plain"]


async def test_a_marker_without_function_means_the_annotated_class() -> None:
    def handler(rates: Annotated[Rates, Foreign(None)], more: Rates = Depends()) -> bool:
        return rates is more

    assert await run(handler) == (True, ["rates"])


async def test_overrides_take_the_place_of_dependencies_deep_down() -> None:
    def handler(item: int, x: Annotated[str, Depends(opened_async)]) -> str:
        return x

    result, log = await run(handler, 7, overrides={opened: plain})
    assert (result, log) == ("oa", ["plain", "open async", "close async"])


async def test_app_values_are_made_once_and_shared_between_functions() -> None:
    made: list[str] = []

    def pool() -> Iterator[str]:
        made.append("made")
        yield "pool"
        made.append("closed")

    def session(pool: str = Depends(pool, scope="app")) -> str:
        return f"session of {pool}"

    def one(item: int, x: str = Depends(session)) -> str:
        return x

    def two(item: int, x: str = Depends(pool, scope="app")) -> str:
        return x

    injector = Injector(Context)
    plans = [injector.compile(f, owner="worker 'w'", items=1) for f in (one, two)]
    scope = injector.app_scope()
    await scope.open()
    assert [await plan.call((1,), None) for plan in plans] == ["session of pool", "pool"]
    assert made == ["made"]
    await scope.close()
    assert made == ["made", "closed"]


async def test_app_values_are_closed_when_a_later_one_cannot_be_made() -> None:
    made: list[str] = []

    async def broken() -> AsyncIterator[str]:
        try:
            yield "first"
        finally:
            made.append("closed")

    def second(first: str = Depends(broken, scope="app")) -> str:
        raise OSError("no database")

    def handler(x: str = Depends(second, scope="app")) -> None:
        """Never called."""

    injector = Injector(Context)
    injector.compile(handler, owner="worker 'w'", items=0)
    with pytest.raises(OSError, match="no database"):
        await injector.app_scope().open()
    assert made == ["closed"]


def test_with_nothing_to_inject_a_plan_is_free() -> None:
    def handler(item: int, width: int = 200, *more: int, **others: int) -> None:
        """Does nothing."""

    assert Injector(Context).compile(handler, owner="worker 'w'", items=1).free


def _circle() -> Callable[..., Any]:
    def a(b: int) -> int:
        return b

    def b(a: int = Depends(a)) -> int:
        return a

    a.__defaults__ = (Depends(b),)
    return a


def _app_of_context(context: Context) -> int:
    return 1


def _app_of_message(x: Annotated[str, Depends(plain)]) -> int:
    return 1


def _circle_of_app() -> Callable[..., Any]:
    a = _circle()
    b = a.__defaults__[0].dependency  # type: ignore[attr-defined]
    a.__defaults__ = (Depends(b, scope="app"),)  # type: ignore[attr-defined]
    b.__defaults__ = (Depends(a, scope="app"),)
    return a


def _called(x: Annotated[str, Depends("p")]) -> None:  # type: ignore[arg-type]
    """Depends on what a function returned."""


def _bare_union(x: Annotated[Log | None, Depends()]) -> None:
    """No class to be called."""


def _odd_annotation(x: asyncio.Nothing) -> None:  # type: ignore[name-defined]
    """Names what is not there."""


def _positional(log: Logged, /) -> None:
    """Cannot be given by name."""


@pytest.mark.parametrize(
    ("handler", "items", "problem"),
    [
        (lambda: None, 1, "worker 'w': the first parameter of <lambda> must take the item; add one"),
        (
            lambda context=Depends(plain): None,
            1,
            "worker 'w': the first parameter of <lambda> must take the item; add one",
        ),
        (
            lambda item, rates: None,
            1,
            "worker 'w': parameter 'rates' of <lambda> has nothing to fill it: annotate it "
            "Annotated[…, Depends(function)] or Context, or give a default",
        ),
        (
            lambda x=Depends(lambda rates: rates): None,
            0,
            "worker 'w': parameter 'rates' of dependency <lambda> has nothing to fill it: annotate it "
            "Annotated[…, Depends(function)] or Context, or give a default",
        ),
        (
            lambda x=Depends(_circle()): None,
            0,
            "worker 'w': parameter 'a' of dependency b closes a circle (a → b → a); break it",
        ),
        (
            lambda x=Depends(_app_of_context, scope="app"): None,
            0,
            "worker 'w': parameter 'context' of dependency _app_of_context is a call's context, and scope 'app' has "
            "no call; drop it",
        ),
        (
            lambda x=Depends(_app_of_message, scope="app"): None,
            0,
            "worker 'w': parameter 'x' of dependency _app_of_message is made for each call, but dependency "
            "_app_of_message is made once; give it Depends(…, scope='app') too",
        ),
        (
            _called,
            0,
            "worker 'w': parameter 'x' of _called depends on 'p', which cannot be called; write Depends(function), "
            "without ()",
        ),
        (
            lambda x=Depends(): None,
            0,
            "worker 'w': parameter 'x' of <lambda> has Depends() without a function and no class as its annotation; "
            "write Depends(function)",
        ),
        (
            _bare_union,
            0,
            "worker 'w': parameter 'x' of _bare_union has Depends() without a function and no class as its "
            "annotation; write Depends(function)",
        ),
        (
            lambda x=Depends(dict, scope="app", use_cache=False): None,
            0,
            "worker 'w': parameter 'x' of <lambda> has scope 'app' and use_cache=False, but an app's value is made "
            "once; drop one of them",
        ),
        (
            lambda x=Depends(dict, scope="replica"): None,  # type: ignore[arg-type]
            0,
            "worker 'w': parameter 'x' of <lambda> has scope 'replica'; it is 'message' (each call) or 'app' (once, "
            "at start)",
        ),
        (
            lambda x=Depends(_circle_of_app(), scope="app"): None,
            0,
            "worker 'w': parameter 'a' of dependency b closes a circle (a → b → a); break it",
        ),
        (
            _odd_annotation,
            0,
            "worker 'w': an annotation of _odd_annotation cannot be evaluated (AttributeError: module 'asyncio' has "
            "no attribute 'Nothing'); mend it",
        ),
        (
            lambda x=Depends(_positional): None,
            0,
            "worker 'w': parameter 'log' of dependency _positional is positional only and cannot be injected; drop "
            "the '/'",
        ),
    ],
)
def test_mistakes_are_told_in_one_line_with_the_fix(handler: Callable[..., Any], items: int, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Injector(Context).compile(handler, owner="worker 'w'", items=items)
    assert caught.value.problems == (problem,)


def test_an_annotation_that_is_not_there_is_named() -> None:
    class Local:
        """Not visible at module level."""

    def handler(item: Local) -> None:
        """Never called."""

    with pytest.raises(
        ConfigurationError, match=r"worker 'w': an annotation of handler names 'Local', .* move it to module level"
    ):
        Injector(Context).compile(handler, owner="worker 'w'", items=1)


def test_app_scope_may_be_out_of_reach() -> None:
    def handler(x: int = Depends(int, scope="app")) -> None:
        """Never called."""

    with pytest.raises(ConfigurationError, match="a child process does not have"):
        Injector(Context).compile(handler, owner="worker 'w'", items=0, app_scope=False)


class Callables:
    async def __call__(self) -> None:
        """Does nothing."""


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (plain, Kind.PLAIN),
        (in_async, Kind.ASYNC),
        (opened, Kind.GENERATOR),
        (opened_async, Kind.ASYNC_GENERATOR),
        (partial(in_async, log=Log()), Kind.ASYNC),
        (Callables(), Kind.ASYNC),
        (Rates, Kind.PLAIN),
        (Callables().__call__, Kind.ASYNC),
    ],
)
def test_kinds(function: Callable[..., Any], kind: Kind) -> None:
    assert kind_of(function) is kind


async def test_fastapis_own_marker_works_in_both() -> None:
    """One dependency, asked for by `fastapi.Depends` in a route and in a handler."""
    fastapi = pytest.importorskip("fastapi")
    testclient = pytest.importorskip("fastapi.testclient")
    closed: list[str] = []

    async def session() -> AsyncIterator[str]:
        yield "session"
        closed.append("session")

    async def handler(item: int, a: str = fastapi.Depends(session), b: str = Depends(session)) -> str:
        return f"{item} {a} {b}"

    api = fastapi.FastAPI()

    @api.get("/")
    async def route(found: str = fastapi.Depends(session)) -> str:
        return found

    assert (await run(handler, 7))[0] == "7 session session"
    with testclient.TestClient(api) as client:
        assert client.get("/").json() == "session"
    assert closed == ["session", "session"]


async def test_use_cache_off_makes_a_value_for_each_place() -> None:
    made: list[object] = []

    def fresh() -> object:
        made.append(object())
        return made[-1]

    def handler(
        a: object = Depends(fresh, use_cache=False),
        b: object = Depends(fresh, use_cache=False),
        c: object = Depends(fresh),
        d: object = Depends(fresh),
    ) -> None:
        assert len({id(a), id(b), id(c)}) == 3
        assert c is d

    await run(handler)
    assert len(made) == 3
