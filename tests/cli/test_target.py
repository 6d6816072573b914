"""Finding the app, and what is told when it cannot be found."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from .conftest import APP, Run


@pytest.mark.parametrize("target", [[], ["app"], ["app:app"]])
def test_the_usual_places(run: Run, target: list[str]) -> None:
    assert run("workers", *target).out.startswith("workers of avalon:")


def test_main_py_is_a_usual_place(run: Run, folder: Path) -> None:
    (folder / "app.py").rename(folder / "main.py")
    assert run("workers").code == 0


def test_a_module_in_a_package(run: Run, folder: Path) -> None:
    (folder / "avalon").mkdir()
    (folder / "avalon" / "__init__.py").touch()
    (folder / "avalon" / "work.py").write_text(
        APP.replace("app =", "mill =").replace("app.", "mill.").replace("@app", "@mill")
    )
    assert run("workers", "avalon.work:mill").code == 0


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("ap:app", "there is no module 'ap' in {folder}/; did you mean app?"),
        ("avalon.work:app", "there is no module 'avalon.work' in {folder}/"),
        ("app:ap", "module 'app' has no 'ap'; did you mean app:app?"),
        ("app:orders", "app:orders is a Collection, not a tidemill.App; did you mean app:app?"),
        ("app.py", "app.py is a file: write the module, app:app"),
        ("src/work.py:mill", "src/work.py is a file: write the module, src.work:mill"),
    ],
)
def test_a_target_that_is_none_is_one_line(run: Run, folder: Path, target: str, line: str) -> None:
    ran = run("workers", target)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"tidemill: {line.format(folder=folder.name)}\n"


def test_no_app_at_all(run: Run, folder: Path) -> None:
    (folder / "app.py").unlink()
    ran = run("workers")
    assert ran.code == 2
    assert ran.err.startswith("tidemill: which app? Write module:app, or go to the folder")


# --- the user's own mistakes --------------------------------------------------------------------------------


def test_an_exception_shows_the_way_through_the_users_own_files(run: Run, folder: Path) -> None:
    (folder / "rates.py").write_text("import json\n\ndef read():\n    return json.loads('{')\n\nRATES = read()\n")
    (folder / "app.py").write_text("import rates\n")
    ran = run("workers")
    assert ran.code == 2
    [line] = ran.err.splitlines()
    assert line.startswith("tidemill: the app could not be imported: app.py:1 → rates.py:6 → rates.py:4: ")
    assert "json.decoder.JSONDecodeError: Expecting property name" in line


def test_a_syntax_error_says_where(run: Run, folder: Path) -> None:
    (folder / "app.py").write_text("def work(:\n")
    ran = run("workers")
    assert ran.code == 2
    assert ran.err == "tidemill: the app could not be imported: app.py:1: SyntaxError: invalid syntax\n"


def test_a_module_that_the_app_misses_is_not_the_target(run: Run, folder: Path) -> None:
    (folder / "app.py").write_text("import no_such_library\n")
    ran = run("workers")
    assert ran.code == 2
    assert "ModuleNotFoundError: No module named 'no_such_library'" in ran.err
    assert "imported: app.py:1: " in ran.err


def test_a_module_that_exits(run: Run, folder: Path) -> None:
    (folder / "app.py").write_text("raise SystemExit(7)\n")
    ran = run("workers")
    assert ran.code == 2
    assert "SystemExit: 7" in ran.err


def test_a_declaration_that_does_not_fit_is_a_line_with_its_place(run: Run, folder: Path) -> None:
    (folder / "app.py").write_text(APP + '\napp.queue("invoices", dict)\n')
    ran = run("workers")
    number = len(APP.splitlines()) + 2
    assert (ran.code, ran.err) == (2, f"tidemill: app.py:{number}: queue 'invoices' is declared twice\n")


def test_a_fault_of_an_installed_package_tells_its_line(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an image, where the app is built into a wheel; the libraries beside it stay out of the way there."""
    site = folder / "site-packages"
    (site / "shop").mkdir(parents=True)
    (site / "shop/__init__.py").touch()
    (site / "shop/app.py").write_text("import library\n\nlibrary.read('settings.json')\n")
    (site / "library.py").write_text("def read(name):\n    open(name)\n")
    monkeypatch.setattr("sys.path", [str(site), *sys.path])
    real = sysconfig.get_path
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(site) if name in ("purelib", "platlib") else real(name))
    ran = run("workers", "shop.app")
    assert ran.code == 2
    assert ran.err.startswith("tidemill: the app could not be imported: app.py:3: FileNotFoundError: ")
