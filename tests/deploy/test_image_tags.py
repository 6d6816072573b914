"""What an image is called, and the state of the source behind it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tidemill.deploy import tags
from tidemill.deploy.outside import CommandFailed
from tidemill.deploy.revision import plain, source
from tidemill.deploy.tags import Source
from tidemill.errors import ConfigurationError

COMMIT = "3f2a9c1d04be5566778899aabbccddeeff001122"
CLEAN = Source(COMMIT, "")
DIRTY = Source(COMMIT, "1a2b3c4d")


@pytest.mark.parametrize(
    ("version", "state", "groups", "tag"),
    [
        ("1.4.0", CLEAN, (), "1.4.0-3f2a9c1d04be"),
        ("1.4.0", DIRTY, (), "1.4.0-3f2a9c1d04be-dirty.1a2b3c4d"),
        ("1.4.0", CLEAN, ("api",), "1.4.0-3f2a9c1d04be-api"),
        ("1.4.0+local.1", CLEAN, (), "1.4.0_local.1-3f2a9c1d04be"),
        ("1.4.0", Source(None, "1a2b3c4d"), (), "1.4.0-tree.1a2b3c4d"),
    ],
)
def test_a_tag_is_version_and_commit(version: str, state: Source, groups: tuple[str, ...], tag: str) -> None:
    assert tags.derive(version, state, groups) == tag
    tags.fit(tag)


def test_without_a_version_there_is_no_tag() -> None:
    with pytest.raises(ConfigurationError, match=r"nothing tells the project's version; set project\.version, or say"):
        tags.derive("", CLEAN)


@pytest.mark.parametrize("tag", ["latest", "Latest", "main", "stable"])
def test_a_tag_that_moves_is_refused(tag: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--tag {tag}: such a tag comes to mean other content"):
        tags.fit(tag)


@pytest.mark.parametrize("tag", ["a b", "-x", "x" * 129, "é", "a/b", ""])
def test_what_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(ConfigurationError, match="write letters, digits"):
        tags.fit(tag)


@pytest.mark.parametrize(
    "said", ["shop", "team/shop", "registry.example.com/team/shop", "127.0.0.1:5000/shop", "a.b/c__d"]
)
def test_a_repository_as_it_is(said: str) -> None:
    assert tags.repository(said) == said


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("registry.example.com/shop:1.0", "deploy.image registry.example.com/shop:1.0: write it without a tag: regist"),
        ("shop@sha256:00", "deploy.image shop@sha256:00: write it without a tag: shop"),
        ("registry.example.com/Team/Shop", "deploy.image registry.example.com/Team/Shop: write registry/team/name"),
        ("https://registry.example.com/shop", "deploy.image https://registry.example.com/shop: write "),
        ("registry.example.com/", "deploy.image registry.example.com/: write registry/team/name in lower case"),
    ],
)
def test_what_is_no_repository_is_one_line(said: str, line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        tags.repository(said)
    assert str(caught.value).startswith(line)


def test_what_must_not_be_pushed_is_told_together() -> None:
    with pytest.raises(ConfigurationError) as caught:
        tags.pushable("shop", DIRTY, said="", allow_dirty=False)
    registry, dirt = caught.value.problems
    assert registry.startswith("--push: shop names no registry; set image in [deploy] of tidemill.toml to registry.")
    assert dirt.startswith("--push: files differ from the commit, so nobody could say later what is in the image")
    tags.pushable("registry.example.com/shop", DIRTY, said="", allow_dirty=True)
    with pytest.raises(ConfigurationError, match="a tag cannot tell the commit; say --tag"):
        tags.pushable("registry.example.com/shop", Source(None, "1a2b3c4d"), said="", allow_dirty=False)
    tags.pushable("registry.example.com/shop", Source(None, "1a2b3c4d"), said="1.4.0-b7", allow_dirty=False)


def test_a_tag_stands_for_what_it_stood_for() -> None:
    ours = frozenset({"sha256:1", "sha256:2"})
    assert tags.standing(None, ours) == "free"
    assert tags.standing(frozenset({"sha256:2"}), ours) == "same"
    assert tags.standing(frozenset({"sha256:3"}), ours) == "taken"
    assert tags.standing(frozenset(), ours) == "taken"
    assert "with other content; a tag never changes what it means" in str(tags.taken("r.example.com/shop:1"))


@pytest.mark.parametrize(
    ("origin", "without"),
    [
        ("https://me:secret@git.example.com:8443/team/shop.git", "https://git.example.com:8443/team/shop.git"),
        ("git@git.example.com:team/shop.git", "git.example.com:team/shop.git"),
        ("ssh://git@git.example.com/shop", "ssh://git.example.com/shop"),
        ("/srv/shop.git", "/srv/shop.git"),
        ("", ""),
    ],
)
def test_a_label_has_no_password(origin: str, without: str) -> None:
    assert plain(origin) == without


# --- as git knows it ----------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    line = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@example.com", *words]
    return subprocess.run(line, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of two projects, committed."""
    for name in ("shop", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "app.py").write_text("1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "remote", "add", "origin", "https://me:secret@git.example.com/shop.git")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "state")
    return tmp_path


def test_a_clean_tree_is_its_commit(tree: Path) -> None:
    found = source(tree, ["shop"], ())
    assert (found.commit, found.dirt) == (git(tree, "rev-parse", "HEAD"), "")
    assert found.revision == found.commit
    assert found.origin == "https://git.example.com/shop.git"
    assert found.at == git(tree, "show", "-s", "--format=%cI")


def test_a_change_is_told_by_its_content(tree: Path) -> None:
    (tree / "shop/app.py").write_text("2\n")
    first = source(tree, ["shop"], ())
    assert len(first.dirt) == 8
    assert first.revision == f"{first.commit}-dirty.{first.dirt}"
    assert first.at == ""
    assert source(tree, ["shop"], ()) == first
    (tree / "shop/app.py").write_text("3\n")
    assert source(tree, ["shop"], ()).dirt not in ("", first.dirt)
    (tree / "shop/app.py").write_text("1\n")
    assert source(tree, ["shop"], ()).dirt == ""


def test_new_and_lost_files_count(tree: Path) -> None:
    (tree / "shop/new.json").write_text("{}")
    new = source(tree, ["shop"], ()).dirt
    (tree / "shop/new.json").unlink()
    (tree / "shop/app.py").unlink()
    assert "" not in (new, source(tree, ["shop"], ()).dirt)


def test_what_is_not_built_and_what_we_write_does_not_count(tree: Path) -> None:
    (tree / "other/app.py").write_text("2\n")
    (tree / "shop/Dockerfile").write_text("ours")
    assert source(tree, ["shop"], [tree / "shop/Dockerfile"]).dirt == ""
    assert source(tree, ["shop", "other"], [tree / "shop/Dockerfile"]).dirt != ""


def test_a_folder_is_not_a_pattern_of_git(tree: Path) -> None:
    (tree / "[s]hop").mkdir()
    (tree / "[s]hop/app.py").write_text("1\n")
    (tree / "shop/app.py").write_text("2\n")
    git(tree, "add", ":(literal)[s]hop")
    git(tree, "commit", "-qm", "more")
    assert source(tree, ["[s]hop"], ()).dirt == ""


def test_without_a_repository_all_files_count(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("1\n")
    (tmp_path / ".venv").mkdir()
    first = source(tmp_path, ["."], ())
    assert (first.commit, len(first.dirt), first.revision) == (None, 8, "")
    (tmp_path / ".venv/x").touch()
    assert source(tmp_path, ["."], ()) == first
    (tmp_path / "app.py").write_text("2\n")
    assert source(tmp_path, ["."], ()) != first


def test_a_status_that_fails_is_not_taken_for_clean(tree: Path) -> None:
    (tree / ".git/index").write_bytes(b"nonsense")
    with pytest.raises(CommandFailed, match="nobody knows whether files differ from the commit"):
        source(tree, ["shop"], ())
