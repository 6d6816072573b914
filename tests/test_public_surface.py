"""The public surface: what `import tidemill` offers is complete, described, and costs nothing until it is used."""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import tidemill
from tidemill import ports
from tidemill.ports import Clock

STUB = Path(tidemill.__file__).with_suffix(".pyi")
HEAVY = ("asyncio", "pydantic", "pydantic_settings", "logging", "sqlite3", "typer", "fastapi", "httpx")
OTHER_DOORS = ("tidemill.errors", "tidemill.testing.harness", "tidemill.testing.clock")
"""Modules that users import from by name."""


def _plain() -> dict[str, str]:
    """The environment without what coverage sets to be loaded into children."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE"))}


def _python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=_plain())


def stubbed() -> dict[str, str]:
    """Names of the stub, each with the module it is defined in."""
    found: dict[str, str] = {}
    for node in ast.parse(STUB.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}" for alias in node.names}
    return found


def test_the_stub_and_the_package_offer_the_same() -> None:
    assert sorted(stubbed()) == sorted(tidemill.__all__)
    assert len(set(tidemill.__all__)) == len(tidemill.__all__)


@pytest.mark.parametrize("name", [name for name in tidemill.__all__ if name != "run"])
def test_every_name_is_what_the_stub_says(name: str) -> None:
    module = import_module(stubbed()[name])
    assert getattr(tidemill, name) in (getattr(module, name, module), module)


def test_run_is_the_function_however_often_it_is_asked_for() -> None:
    """It lives in a module of its own name, which the import system would put into its place."""
    code = "import tidemill; print(tidemill.run is tidemill.run, tidemill.run.__module__, callable(tidemill.run))"
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60, env=_plain()
    )
    assert ran.stdout.split() == ["True", "tidemill.run", "True"]


def test_dir_shows_what_there_is() -> None:
    assert set(tidemill.__all__) < set(dir(tidemill))
    assert tidemill.__version__.count(".") == 2


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    name = "Ap"
    with pytest.raises(AttributeError, match=name):
        getattr(tidemill, name)


def test_importing_tidemill_loads_nothing_else() -> None:
    """SIGTERM is caught before anything heavy is read; and an import in a program that hardly uses it is free."""
    code = f"import tidemill, sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60, env=_plain()
    )
    assert json.loads(ran.stdout) == []


def test_importing_tidemill_loads_one_module_of_ours() -> None:
    code = "import tidemill, sys; print(*sorted(m for m in sys.modules if m.startswith('tidemill')))"
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60, env=_plain()
    )
    assert ran.stdout.split() == ["tidemill"]


def described() -> Iterator[tuple[str, object]]:
    """Everything public that a user meets: the exported names, the other doors, and the public methods of classes."""
    things = {name: getattr(tidemill, name) for name in tidemill.__all__}
    for door in OTHER_DOORS:
        module = import_module(door)
        things |= {
            f"{door}.{name}": value
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == door and callable(value)
        }
    for name, thing in things.items():
        yield name, thing
        if inspect.isclass(thing):
            for attribute, value in vars(thing).items():
                inner = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
                told = hasattr(Clock, attribute) or thing is tidemill.Health  # by the port; by the class, of its words
                if not attribute.startswith("_") and inspect.isfunction(inner) and not told:
                    yield f"{name}.{attribute}", inner


@pytest.mark.parametrize(
    ("name", "thing"), list(described()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_everything_public_has_a_docstring(name: str, thing: object) -> None:
    assert (inspect.getdoc(thing) or "").strip(), f"{name} says nothing about itself"


ACCESSORS = {"features", "limits", "store", "feed", "queue", "documents", "dead_letters", "presence"}
"""Of `Database`: the class says what they are."""


def port_methods() -> Iterator[tuple[str, object]]:
    for port in vars(ports).values():
        if inspect.isclass(port) and port.__module__ == ports.__name__:
            yield port.__name__, port
            for name, method in vars(port).items():
                if inspect.isfunction(method) and not name.startswith("_"):
                    yield f"{port.__name__}.{name}", method


@pytest.mark.parametrize(
    ("name", "thing"), list(port_methods()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_call_of_a_port_states_its_contract(name: str, thing: object) -> None:
    owner, _, method = name.partition(".")
    if owner == "Database" and method in ACCESSORS:
        assert isinstance(ports.Database.__doc__, str)
    else:
        assert (inspect.getdoc(thing) or "").strip(), f"{name} has no contract"
