"""`tidemill image`: in which order what is done, and the lines that mistakes get. The engine is a double."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.doubles import engine as doubles
from tests.doubles.engine import DIGEST, ID, Engine, options
from tidemill.cli.main import main
from tidemill.deploy import building
from tidemill.deploy.outside import CommandFailed, ask, follow
from tidemill.signals import Signals

PROJECT = '[project]\nname = "shop"\nversion = "1.4.0"\ndependencies = ["tidemill[cli]"]\n'
TOML = '[deploy]\nimage = "registry.example.com/team/shop"\n'
APP = "from tidemill import App\n\napp = App('shop')\nwork = app.queue('work', dict)\n\n\n@app.on_message(work)\n"
APP += "async def handle(body: dict) -> None: ...\n"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return [line.removeprefix("tidemill: ") for line in self.err.splitlines() if line.startswith("tidemill: ")]


Run = Callable[..., Ran]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in a repository, clean; we stand in its folder."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "tidemill.toml").write_text(TOML)
    (folder / "app.py").write_text(APP)
    commit(folder)
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith(("TIDEMILL_", "PIP_", "SSL_CERT", "REQUESTS_CA"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return folder


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = doubles.put(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{engine.folder}:{os.environ['PATH']}")
    return engine


@pytest.fixture
def run(shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*words: str) -> Ran:
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        code = main(("image", *words), Signals())
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


def commit(folder: Path) -> str:
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@example.com"]
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "state")):
        subprocess.run([*git, *words], check=True, timeout=30)
    return subprocess.check_output([*git, "rev-parse", "HEAD"], text=True, timeout=30).strip()


# --- in which order -----------------------------------------------------------------------------------------


def test_it_is_built_checked_named_asked_for_and_pushed(run: Run, docker: Engine, shop: Path) -> None:
    revision = commit_of(shop)
    ran = run("--push", "--json")
    assert ran.code == 0, ran.err
    reference = f"registry.example.com/team/shop:1.4.0-{revision[:12]}"
    assert json.loads(ran.out)["image"] == reference
    assert json.loads(ran.out)["digest"] == DIGEST
    assert docker.commands() == ["build", "run", "tag", "manifest", "image", "push"]
    build = docker.call("build")
    assert build[-1] == str(shop)
    assert "--tag" not in build
    given = dict(argument.split("=", 1) for argument in options(build, "--build-arg"))
    assert given["BASE"] == "python:3.13-slim"
    assert (given["VERSION"], given["REVISION"]) == ("1.4.0", revision)
    assert docker.call("tag") == ["tag", ID, reference]
    check = docker.call("run")
    assert check[-3:] == [ID, "check", "app:app"]
    for words in (("--network", "none"), ("--cap-drop", "ALL"), ("--security-opt", "no-new-privileges")):
        assert words[1] in options(check, words[0])
    assert {"--read-only", "--no-healthcheck"} <= {*check}


def commit_of(folder: Path) -> str:
    return subprocess.check_output(["git", "-C", str(folder), "rev-parse", "HEAD"], text=True, timeout=30).strip()


def test_without_push_it_stays_here(run: Run, docker: Engine) -> None:
    ran = run()
    assert ran.code == 0
    assert docker.commands() == ["build", "run", "tag"]
    assert ran.out.splitlines()[1] == ID
    assert "note: the dependencies are not pinned" in ran.err


def test_what_fails_its_check_gets_no_name_and_is_not_pushed(run: Run, docker: Engine) -> None:
    docker.answer("run", 2, err="tidemill: no database for queue 'work': set TIDEMILL_DATABASE\n")
    ran = run("--push")
    assert ran.code == 2
    assert docker.commands() == ["build", "run"]
    first, hint = ran.lines
    assert first == "in the image: no database for queue 'work': set TIDEMILL_DATABASE; nothing was pushed"
    assert hint.startswith("a setting that comes at run time can be said for the check: --env NAME=VALUE")


def test_a_check_that_cannot_be_run_is_no_mistake_of_the_project(run: Run, docker: Engine) -> None:
    docker.answer("run", 125, err="docker: Error response from daemon: no space left on device.\n")
    ran = run("--push")
    assert (ran.code, docker.commands()) == (1, ["build", "run"])
    assert ran.lines == ["docker run ended with 125: docker: Error response from daemon: no space left on device."]


def test_a_check_that_hangs_leaves_no_container(docker: Engine) -> None:
    docker.answer("run", seconds=30)
    with pytest.raises(CommandFailed, match=r"docker run took more than 0\.5 s and was stopped"):
        building.check(building.Engine("docker", "docker"), ID, "app:app", {}, limit=0.5)
    (name,) = options(docker.call("run"), "--name")
    assert docker.call("rm") == ["rm", "--force", name]


def test_a_build_that_fails_tells_its_last_lines(run: Run, docker: Engine) -> None:
    docker.answer("build", 1, err="#7 ERROR: process did not complete\nERROR: No matching distribution for htpx\n")
    ran = run()
    assert (ran.code, docker.commands()) == (1, ["build"])
    assert ran.lines == [
        "docker build ended with 1: #7 ERROR: process did not complete | ERROR: No matching distribution for htpx"
    ]


@pytest.mark.parametrize("store", ["by configuration", "by manifest"])
def test_the_same_content_may_be_pushed_again(run: Run, docker: Engine, store: str) -> None:
    inside = {"config": {"digest": ID if store == "by configuration" else "sha256:0"}}
    known = {"Descriptor": {"digest": ID if store == "by manifest" else "sha256:0"}, "SchemaV2Manifest": inside}
    docker.answer("manifest inspect", out=f"a warning\n{json.dumps(known)}")
    assert run("--push").code == 0
    assert "push" in docker.commands()


@pytest.mark.parametrize("known", ["other", "an index"])
def test_a_tag_that_means_other_content_is_refused(run: Run, docker: Engine, known: str) -> None:
    one = {"Descriptor": {"digest": "sha256:0"}, "SchemaV2Manifest": {"config": {"digest": "sha256:0"}}}
    ours = {"Descriptor": {"digest": ID}}
    docker.answer("manifest inspect", out=json.dumps(one if known == "other" else [one, ours]))
    ran = run("--push", "--tag", "1.4.0")
    assert ran.code == 2
    assert ran.lines[0].startswith(
        "registry.example.com/team/shop:1.4.0 is in the registry already, with other content; a tag never changes"
    )
    assert "push" not in docker.commands()


def test_a_registry_that_does_not_let_us_look_is_not_pushed_to(run: Run, docker: Engine) -> None:
    docker.answer("manifest inspect", 1, err="errors:\ndenied: requested access to the resource is denied\n")
    ran = run("--push")
    assert (ran.code, "push" in docker.commands()) == (1, False)
    assert ran.lines[0].startswith("registry.example.com does not let us see registry.example.com/team/shop:1.4.0-")
    assert "docker login registry.example.com" in ran.lines[0]
    docker.answer("manifest inspect", 1, err="dial tcp: lookup registry.example.com: connection refused :40433\n")
    assert run("--push").lines[0].startswith("docker manifest ended with 1: dial tcp")


def test_podman_is_spoken_to_as_podman(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shop: Path) -> None:
    podman = doubles.put(tmp_path / "podman", "podman")
    monkeypatch.setenv("PATH", f"{podman.folder}:{os.environ['PATH']}")
    podman.answer("push")
    podman.answer("manifest inspect", 1, err="Error: manifest unknown\n")
    ran = run("--push", "--engine", "podman", "--json", "--image", "127.0.0.1:5000/shop")
    assert json.loads(ran.out)["digest"] == DIGEST
    build = podman.call("build")
    assert "docker" in options(build, "--format")
    assert str(shop / ".dockerignore") in options(build, "--ignorefile")
    assert podman.call("manifest")[:2] == ["manifest", "inspect"]
    assert len(podman.call("manifest")) == 3


def test_what_is_said_of_the_build_reaches_it(run: Run, docker: Engine, tmp_path: Path) -> None:
    for name in ("ca.pem", "pip.conf"):
        (tmp_path / name).touch()
    words = ["--ca", str(tmp_path / "ca.pem"), "--pip-conf", str(tmp_path / "pip.conf"), "--network", "host"]
    assert run(*words, "--base", "local/python", "--platform", "linux/amd64").code == 0
    build = docker.call("build")
    assert [*options(build, "--secret")] == [f"id=ca,src={tmp_path}/ca.pem", f"id=pip,src={tmp_path}/pip.conf"]
    assert [*options(build, "--network"), *options(build, "--platform")] == ["host", "linux/amd64"]
    assert "BASE=local/python" in options(build, "--build-arg")
    assert "linux/amd64" in options(docker.call("run"), "--platform")
    assert "ARG BASE=python:3.13-slim" in Path("Dockerfile").read_text()  # what was said holds for this build


def test_the_check_sees_our_settings_by_name_and_what_is_said(
    run: Run, docker: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_DATABASE", "postgresql://user:secret@db/shop")
    monkeypatch.setenv("TIDEMILL_SECRETS_DIR", "/of/this/machine")
    assert run("--env", "TIDEMILL_GRACE=20s", "--env", "PATH").code == 0
    assert [*options(docker.call("run"), "--env")] == ["TIDEMILL_DATABASE", "TIDEMILL_GRACE=20s", "PATH"]


# --- the files ----------------------------------------------------------------------------------------------


def test_write_makes_the_files_and_asks_no_engine(run: Run, docker: Engine, shop: Path) -> None:
    ran = run("--write")
    assert ran.out.splitlines() == [str(shop / "Dockerfile"), str(shop / ".dockerignore")]
    assert docker.calls() == []
    assert 'CMD ["run", "app:app"]' in (shop / "Dockerfile").read_text()


def test_a_file_of_yours_is_kept(run: Run, docker: Engine, shop: Path) -> None:
    (shop / "Dockerfile").write_text("FROM mine\n")
    ran = run("--write")
    assert (ran.code, ran.lines) == (2, ["Dockerfile is not of `tidemill image` and is kept; --force writes over it"])
    assert not (shop / ".dockerignore").exists()
    ran = run()
    assert "note: Dockerfile is yours and is used as it stands" in ran.err
    assert (shop / "Dockerfile").read_text() == "FROM mine\n"
    assert run("--write", "--force").code == 0
    assert (shop / "Dockerfile").read_text().startswith("# Written by")


def test_an_image_of_a_group_has_its_extras_and_pins(run: Run, docker: Engine, shop: Path) -> None:
    more = '[project.optional-dependencies]\nqueues = ["asyncpg"]\napi = ["fastapi"]\nbase = ["httpx"]\n'
    (shop / "pyproject.toml").write_text(PROJECT + more)
    (shop / "tidemill.toml").write_text('[deploy]\nextras = ["queues", "api", "base"]\n')
    app = (
        APP.replace("work)\n", 'work, group="queues")\n')
        + "\n\n@app.every('1s', group='api')\ndef tick() -> None: ...\n"
    )
    (shop / "groups.py").write_text(app)
    ran = run("groups:app", "--group", "queues", "--allow-dirty")
    assert ran.code == 0, ran.err
    text = (shop / "Dockerfile").read_text()
    assert all(name in text for name in ("asyncpg", "httpx", '"--group", "queues"]'))
    assert "fastapi" not in text
    assert ran.out.split()[0].endswith("-queues")
    (shop / "requirements.txt").write_text("tidemill==0.1\n")
    (shop / "requirements-queues.txt").write_text("tidemill==0.1\n")
    run("groups:app", "--group", "queues", "--write")
    assert "COPY requirements-queues.txt requirements.txt\n" in (shop / "Dockerfile").read_text()
    ran = run("groups:app", "--group", "queue")
    assert ran.lines == ["--group queue: the app has no such group; did you mean queues?"]


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--tag", "latest"], "--tag latest: such a tag comes to mean other content, and a node that has it goes on"),
        (
            ["--image", "r.example.com/shop:1"],
            "deploy.image r.example.com/shop:1: write it without a tag: r.example.com/",
        ),
        (["--push", "--image", "shop"], "--push: shop names no registry; set image in [deploy] of tidemill.toml to"),
        (["--engine", "dokcer"], "--engine dokcer: there is no such program on the PATH"),
        (["--ca", "/not/there"], "--ca /not/there: there is no such file"),
        (["--pip-conf", "/not/there"], "--pip-conf /not/there: there is no such file"),
        (
            ["--env", "NOT_THERE_AT_ALL"],
            "--env NOT_THERE_AT_ALL: there is no such variable here; write --env NOT_THERE",
        ),
        (["shop/app.py"], "shop/app.py is a file: write the module, shop.app:app"),
    ],
)
def test_a_mistake_is_told_before_anything_is_built(run: Run, docker: Engine, words: list[str], line: str) -> None:
    ran = run(*words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.lines[0].startswith(line)
    assert docker.calls() == []


def test_files_that_differ_are_not_pushed(run: Run, docker: Engine, shop: Path) -> None:
    (shop / "app.py").write_text(f"{APP}\n# more\n")
    ran = run("--push")
    assert (ran.code, docker.calls()) == (2, [])
    assert ran.lines[0].startswith("--push: files differ from the commit, so nobody could say later what is in the im")
    ran = run("--push", "--allow-dirty")
    assert ran.code == 0
    assert "-dirty." in ran.out.split()[0]


def test_neither_engine(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    git = subprocess.check_output(["which", "git"], text=True, timeout=10).strip()
    (tmp_path / "only/git").symlink_to(git)
    monkeypatch.setenv("PATH", str(tmp_path / "only"))
    ran = run()
    assert (ran.code, ran.lines) == (
        2,
        ["neither docker nor podman is on the PATH; install one of them, or write the files only: --write"],
    )


@pytest.mark.parametrize("above", [False, True])
def test_a_lock_without_pins(run: Run, shop: Path, above: bool) -> None:
    (shop.parent / "pyproject.toml").write_text("[tool.uv.workspace]\nmembers = ['*']\n")
    ((shop.parent if above else shop) / "uv.lock").touch()
    ran = run("--write")
    assert ran.code == 2
    assert "is not read by pip, and the image would not have what it locks; write requirements.txt: uv" in ran.lines[0]


def test_pins_that_are_no_text(run: Run, shop: Path) -> None:
    (shop / "requirements.txt").write_bytes(b"\xff\xfe")
    ran = run("--write")
    assert ran.code == 2
    assert ran.lines[0].startswith("requirements.txt cannot be read: 'utf-8'")


def test_a_folder_in_the_place_of_the_file(run: Run, shop: Path) -> None:
    (shop / "Dockerfile").mkdir()
    ran = run("--write")
    assert (ran.code, ran.lines) == (2, ["Dockerfile cannot be written: Is a directory"])


# --- commands of others -------------------------------------------------------------------------------------


def test_a_command_that_is_late_is_ended_with_what_it_started() -> None:
    line = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"]
    with pytest.raises(CommandFailed, match=r"took more than 0\.5 s and was stopped"):
        follow(line, limit=0.5, line=lambda _: None)
    with pytest.raises(CommandFailed, match=r"took more than 0\.5 s and was stopped"):
        ask(line, limit=0.5)


def test_a_command_that_fails_is_told_with_its_last_lines() -> None:
    seen: list[str] = []
    line = [sys.executable, "-c", "for n in range(20): print('line', n)\nraise SystemExit(3)"]
    with pytest.raises(CommandFailed) as caught:
        follow(line, limit=30, line=seen.append)
    assert str(caught.value).endswith("-c ended with 3: " + " | ".join(f"line {n}" for n in range(12, 20)))
    assert len(seen) == 20
    assert ask(line, limit=30).code == 3


def test_a_command_that_is_not_there_or_not_to_be_run(tmp_path: Path) -> None:
    (tmp_path / "engine").touch()
    with pytest.raises(CommandFailed, match=r"/not/there is not there"):
        ask(["/not/there"], limit=1)
    with pytest.raises(CommandFailed, match="engine cannot be run: Permission denied"):
        follow([str(tmp_path / "engine")], limit=1, line=lambda _: None)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "#5 [builder 2/9] RUN --mount=type=secret,id=ca python3 -m venv /opt/venv",
            "[builder 2/9] RUN python3 -m venv",
        ),
        ("#5 CACHED", "CACHED"),
        ("#5 DONE 1.2s", "DONE 1.2s"),
        ("STEP 3/12: WORKDIR /build", "STEP 3/12: WORKDIR /build"),
        ("#5 0.913 Collecting httpx", None),
        ("", None),
    ],
)
def test_of_a_build_its_steps_are_told(line: str, told: str | None) -> None:
    said = building.step(line)
    assert said is None if told is None else said is not None and told in said
