"""The text of Dockerfile and .dockerignore."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from tidemill.cli.image import Wanted, plan
from tidemill.deploy.choices import choices
from tidemill.deploy.dockerfile import MARK, dockerfile, ignore, ignore_name, ours
from tidemill.deploy.image import Recipe

AVALON = Path(__file__).parent.parent.parent / "examples" / "avalon"

PLAIN = Recipe(
    name="shop",
    target="app:app",
    groups=(),
    base="python:3.13-slim",
    context=Path("/work"),
    project=".",
    packaged=False,
    local=(),
    pins="requirements.txt",
    hashed=True,
    lines=(),
    beside=(),
    notes=(),
)
PACKAGED = replace(
    PLAIN,
    project="apps/shop",
    packaged=True,
    local=("libs/common",),
    pins="apps/shop/requirements.txt",
    beside=("x.toml",),
)


def instructions(recipe: Recipe) -> list[str]:
    """One each, without comments and continuations."""
    lines = [line for line in dockerfile(recipe).splitlines() if not line.startswith("#")]
    return [re.sub(r"\s+", " ", line) for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line]


def final(recipe: Recipe) -> list[str]:
    found = instructions(recipe)
    return found[max(number for number, line in enumerate(found) if line.startswith("FROM ")) :]


@pytest.mark.parametrize(
    "recipe", [PLAIN, PACKAGED, replace(PLAIN, local=("x",)), replace(PLAIN, pins="", lines=("a",))]
)
def test_the_image_itself_runs_nothing_and_belongs_to_nobody(recipe: Recipe) -> None:
    stage = final(recipe)
    assert stage[0] == "FROM ${BASE}"
    assert not [line for line in stage if line.startswith(("RUN", "SHELL", "ADD"))]
    assert "USER 10001:10001" in stage
    assert "STOPSIGNAL SIGTERM" in stage
    assert 'ENTRYPOINT ["/usr/bin/tini", "--", "tidemill"]' in stage
    assert next(line for line in stage if line.startswith("HEALTHCHECK")).endswith('CMD ["tidemill", "health"]')
    for word in ("ENTRYPOINT ", "CMD "):
        (line,) = [line for line in stage if line.startswith(word)]
        assert isinstance(json.loads(line.removeprefix(word)), list)  # exec form: what is started gets the signals
    assert all(line.startswith("COPY --from=builder ") for line in stage if line.startswith("COPY"))
    assert "# syntax" not in dockerfile(recipe)


def test_the_base_is_an_argument_of_both_stages() -> None:
    found = instructions(PLAIN)
    assert found[0] == "ARG BASE=python:3.13-slim"
    assert [line for line in found if line.startswith("FROM")] == ["FROM ${BASE} AS builder", "FROM ${BASE}"]


@pytest.mark.parametrize("recipe", [PLAIN, PACKAGED])
def test_dependencies_come_before_anything_that_changes_more_often(recipe: Recipe) -> None:
    found = instructions(recipe)
    pins = found.index(f"COPY {recipe.pins} requirements.txt")
    assert "--require-hashes --requirement requirements.txt" in found[pins + 1]
    assert not [line for line in found[:pins] if line.startswith("COPY")]
    copies = [line for line in found if line.startswith("COPY") and "--from" not in line]
    assert copies[0] == found[pins]
    assert copies[-1].split()[1] == recipe.project


def test_what_is_built_here_lies_in_a_layer_of_its_own() -> None:
    text = dockerfile(PACKAGED)
    assert "COPY libs/common local/0/\n" in text
    assert "--python /opt/own/bin/python install --no-compile --no-deps ./local/0/" in text
    assert "--python /opt/own/bin/python install --no-compile --no-deps ./project" in text
    assert "cp project/x.toml /app/" in text
    copied = [line.split()[-1] for line in final(PACKAGED) if line.startswith("COPY")]
    assert copied == ["/usr/bin/tini", "/opt/venv", "/opt/own", "/app"]


def test_a_project_without_a_build_system_is_copied_as_it_lies() -> None:
    text = dockerfile(PLAIN)
    assert "COPY . /app/\n" in text
    assert "/opt/own" not in text.replace("PATH=/opt/own/bin", "")
    assert [line.split()[-1] for line in final(PLAIN) if line.startswith("COPY")] == [
        "/usr/bin/tini",
        "/opt/venv",
        "/app",
    ]


def test_without_pins_the_lines_are_told_to_pip_quoted() -> None:
    text = dockerfile(replace(PLAIN, pins="", hashed=False, lines=("httpx>=0.28,<1", "x; python_version<'3.12'")))
    assert "'httpx>=0.28,<1'" in text
    assert shlex.quote("x; python_version<'3.12'") in text
    assert "--require-hashes" not in text


def test_secrets_are_mounted_and_stay_out_of_every_layer() -> None:
    for line in instructions(PACKAGED):
        if " install " in line and "pip" in line:
            assert "--mount=type=secret,id=ca" in line
            assert "--mount=type=secret,id=pip" in line
        assert not line.startswith(("ARG PIP", "ENV PIP_INDEX"))


def test_a_group_is_the_command_and_not_the_entry_point() -> None:
    assert 'CMD ["run", "app:app"]' in final(PLAIN)
    assert 'CMD ["run", "app:app", "--group", "api"]' in final(replace(PLAIN, groups=("api",)))


def test_labels_say_what_it_is() -> None:
    (labels,) = [line for line in final(replace(PLAIN, name='a"b')) if line.startswith("LABEL")]
    for name in ("version", "revision", "source", "created", "base.name"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert 'title="a\\"b"' in labels


def test_paths_with_blanks_are_lists() -> None:
    assert 'COPY ["libs/my common", "local/0/"]' in dockerfile(replace(PACKAGED, local=("libs/my common",)))


# --- what is left out ---------------------------------------------------------------------------------------


def test_secrets_and_what_is_made_again_are_left_out() -> None:
    lines = ignore(PLAIN).splitlines()
    for name in ("**/.git", "**/.venv", "**/__pycache__", "**/.env", "**/*.key", "**/id_rsa*", "tests", "*.db"):
        assert name in lines
    assert "*" not in lines
    assert ignore_name(PLAIN) == ".dockerignore"


def test_of_a_folder_above_only_the_parts_are_sent() -> None:
    lines = [line for line in ignore(PACKAGED).splitlines() if line and not line.startswith("#")]
    assert lines[:3] == ["*", "!apps/shop", "!libs/common"]
    assert "apps/shop/tests" in lines
    assert "tests" not in lines
    assert not [line for line in lines if line.startswith("**") and ".db" in line]  # a package may have one as its data
    assert ignore_name(PACKAGED) == "Dockerfile.dockerignore"


def test_a_module_is_not_left_out_for_its_name() -> None:
    assert "tests" not in ignore(replace(PLAIN, target="tests.app:app")).splitlines()


def test_a_file_is_ours_as_long_as_it_begins_with_the_mark() -> None:
    assert ours(dockerfile(PLAIN))
    assert ours(ignore(PLAIN))
    assert not ours(dockerfile(PLAIN).removeprefix(MARK))


def test_those_of_avalon_are_what_is_written_today() -> None:
    recipe = plan(Wanted("examples.avalon.app:app"), AVALON, choices(AVALON, {}))
    assert (AVALON / "Dockerfile").read_text() == dockerfile(recipe)
    assert (AVALON / ignore_name(recipe)).read_text() == ignore(recipe)
    assert recipe.notes == ()
