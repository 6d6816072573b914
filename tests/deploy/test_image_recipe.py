"""What goes into an image: read from projects as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.deploy import project
from tidemill.deploy.image import Pins, Recipe, locked, pins_of, recipe
from tidemill.errors import ConfigurationError

HASH = "--hash=sha256:" + "0" * 64


def made(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text)
    return folder


def named(name: str, *needs: str, more: str = "") -> str:
    return f'[project]\nname = "{name}"\nversion = "1.4.0"\ndependencies = {[*needs]!r}\n{more}'


def cooked(folder: Path, pins: Pins | None = None, extras: tuple[str, ...] = ()) -> Recipe:
    found = project.read(folder)
    return recipe(found, project.closure(found, extras), pins, target="app:app", base="local/base")


def refused(folder: Path, *, pins: Pins | None = None, extras: tuple[str, ...] = ()) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        cooked(folder, pins, extras)
    return caught.value.problems


# --- the project --------------------------------------------------------------------------------------------


def test_a_project_of_its_own(tmp_path: Path) -> None:
    one = cooked(made(tmp_path / "shop", named("My.Shop", "tidemill[cli]>=0.1", "httpx")))
    assert (one.name, one.context, one.project, one.packaged) == ("my-shop", tmp_path / "shop", ".", False)
    assert one.lines == ("httpx", "tidemill[cli]>=0.1")
    assert (one.local, one.pins) == ((), "")
    (note,) = one.notes
    assert note.startswith("the dependencies are not pinned")
    assert "pip-compile --generate-hashes" in note


def test_extras_are_those_that_are_said(tmp_path: Path) -> None:
    more = '[project.optional-dependencies]\nApi_X = ["fastapi"]\nfeeds = ["asyncpg"]\nall = ["shop[api-x,feeds]"]\n'
    folder = made(tmp_path / "shop", named("shop", "tidemill", more=more))
    assert cooked(folder).lines == ("tidemill",)
    assert cooked(folder, extras=("api-x",)).lines == ("fastapi", "tidemill")
    assert cooked(folder, extras=("all",)).lines == ("asyncpg", "fastapi", "tidemill")
    assert refused(folder, extras=("api",)) == (
        "shop has no extra 'api' in pyproject.toml (there are: api-x, feeds, all)",
    )


def test_paths_are_followed_through_what_they_need(tmp_path: Path) -> None:
    more = '[tool.uv.sources]\ncommon = { path = "../libs/common" }\n'
    shop = made(tmp_path / "shop", named("shop", "tidemill", "common[sql]", more=more))
    more = '[project.optional-dependencies]\nsql = ["asyncpg"]\n[tool.uv.sources]\nbase = { path = "../base" }\n'
    made(tmp_path / "libs/common", named("common", "base", "attrs", more=more))
    made(tmp_path / "libs/base", named("base", "pydantic"))
    one = cooked(shop)
    assert (one.context, one.project) == (tmp_path, "shop")
    assert one.local == ("libs/base", "libs/common")  # the deepest first
    assert one.lines == ("asyncpg", "attrs", "pydantic", "tidemill")


def test_members_of_a_workspace_are_found_by_their_name(tmp_path: Path) -> None:
    made(
        tmp_path,
        '[tool.uv.workspace]\nmembers = ["parts/*"]\n[tool.uv.sources]\ncommon = { workspace = true }\n',
    )
    made(tmp_path / "parts/one", named("Common", "attrs"))
    shop = made(tmp_path / "parts/shop", named("shop", "tidemill", "common"))
    assert cooked(shop).local == ("one",)  # seen from parts/, which holds all that is built
    made(shop, named("shop", "tidemill", "other", more="[tool.uv.sources]\nother = { workspace = true }\n"))
    (line,) = refused(shop)
    assert line.startswith("other is said to be of the workspace")


def test_a_url_of_a_file_and_a_wheel_are_local_too(tmp_path: Path) -> None:
    wheel = tmp_path / "wheels/common-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    shop = made(tmp_path / "shop", named("shop", "tidemill", f"common @ file://{wheel}"))
    assert cooked(shop).local == ("wheels/common-1.0-py3-none-any.whl",)
    wheel.unlink()
    assert refused(shop) == (f"shop asks for common in {wheel}, which is not there",)


@pytest.mark.parametrize(
    "source",
    [
        '{ git = "https://example.com/common" }',
        '{ index = "ours" }',
        '[{ url = "https://example.com/c.whl", marker = "sys_platform == \'linux\'" }]',
    ],
)
def test_what_only_uv_finds_is_not_taken_from_the_index(tmp_path: Path, source: str) -> None:
    more = f"[tool.uv.sources]\ncommon = {source}\n"
    shop = made(tmp_path / "shop", named("shop", "tidemill", "common>=1", more=more))
    (line,) = refused(shop)
    assert line.startswith("pyproject.toml: common>=1: pip does not read in [tool.uv.sources] where it comes from")
    assert "uv export" in line
    pins = Pins(shop / "requirements.txt", True, ("tidemill==1", "common==1"))
    assert cooked(shop, pins).pins == "requirements.txt"


def test_a_list_of_sources_with_a_path(tmp_path: Path) -> None:
    more = "[tool.uv.sources]\ncommon = [{ path = '../common' }]\n"
    made(tmp_path / "common", named("common"))
    assert cooked(made(tmp_path / "shop", named("shop", "tidemill", "common", more=more))).local == ("common",)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "there is no pyproject.toml in shop/: an image needs the project's name, version and dependencies"),
        ("[project", "shop/pyproject.toml cannot be read: "),
        ("[tool.poetry]\nname = 'shop'\n", "shop/pyproject.toml: there is no name in a table [project]; an image"),
        (named("shop", "!x"), "pyproject.toml: '!x' is no requirement, as `name[extra]>=1`"),
        (named("shop", "httpx"), "pyproject.toml: shop does not ask for tidemill; add 'tidemill[cli]' to its depend"),
    ],
)
def test_what_cannot_be_built_is_one_line(tmp_path: Path, text: str | None, line: str) -> None:
    (tmp_path / "shop").mkdir()
    if text is not None:
        made(tmp_path / "shop", text)
    (told,) = refused(tmp_path / "shop")
    assert told.startswith(line)


# --- pins ---------------------------------------------------------------------------------------------------


def test_pins_with_hashes(tmp_path: Path) -> None:
    text = f"# by a tool\n--index-url https://example.com\ntidemill==0.1 \\\n    {HASH} \\\n    {HASH}\n    # via x\n"
    pins = pins_of(text, tmp_path / "requirements.txt")
    assert (pins.hashed, len(pins.lines)) == (True, 1)
    one = cooked(made(tmp_path, named("shop", "tidemill")), pins)
    assert (one.pins, one.hashed, one.lines, one.notes) == ("requirements.txt", True, (), ())


def test_pins_without_hashes_are_taken_with_a_note(tmp_path: Path) -> None:
    pins = pins_of(f"tidemill==0.1\nhttpx==1 {HASH}\n", tmp_path / "requirements.txt")
    assert not pins.hashed
    (note,) = cooked(made(tmp_path, named("shop", "tidemill")), pins).notes
    assert note.startswith("requirements.txt has no hashes, so what is downloaded is not checked")


@pytest.mark.parametrize("line", ["-e .", "./common", "../common", "file:///x", "common @ file:///x", "--editable x"])
def test_pins_of_a_folder_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigurationError, match="what lies beside the project is built with it; take the line out"):
        pins_of(f"tidemill==0.1\n{line}\n", tmp_path / "requirements.txt")


@pytest.mark.parametrize("line", ["-r base.txt", "-c limits.txt", "--requirement=base.txt"])
def test_pins_in_several_files_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"write all pins into requirements\.txt, without another file"):
        pins_of(f"{line}\ntidemill==0.1\n", tmp_path / "requirements.txt")


def test_a_lock_of_uv_is_told_how_to_become_pins(tmp_path: Path) -> None:
    line = str(locked(tmp_path / "shop", ("api",)))
    assert line.startswith("uv.lock in shop/ is not read by pip")
    assert "uv export --frozen --no-dev --no-emit-project --no-emit-local --extra api -o requirements.txt" in line
