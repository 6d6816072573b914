"""`tidemill image` on a real Docker daemon: what is built, how it runs, what stops a push."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from examples.avalon.books import audit, count_invoices
from examples.avalon.system import System, rows
from tests.doubles.registry import Registry, serving
from tests.servers import docker as daemons
from tests.servers.docker import BASE, Docker

pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]

TREE = Path(__file__).parent.parent.parent
MEGABYTE = 1_000_000
MEBIBYTE = 1024 * 1024
AVALON = "examples.avalon.app:app"
DATABASE = "TIDEMILL_DATABASE=postgresql://db/shop"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def reference(self) -> str:
        assert self.code == 0, self.err
        return self.out.split()[0]


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    if missing := daemons.find():
        pytest.skip(missing)
    with ExitStack() as stack:
        try:
            running = stack.enter_context(daemons.running())
        except daemons.Absent as error:
            pytest.skip(str(error))
        yield running


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone to change: as much of this tree as Avalon's image is made of, committed."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("src", "examples"):
        shutil.copytree(TREE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(TREE / name, folder / name)
    commit(folder)
    return folder


@pytest.fixture(scope="module")
def avalon(docker: Docker, tree: Path) -> str:
    """Avalon's image, built; its reference."""
    return image(docker, tree / "examples/avalon", AVALON).reference


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as registry:
        yield registry


def commit(folder: Path) -> None:
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@example.com"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "--allow-empty", "-qm", "state"], check=True)


def image(docker: Docker, folder: Path, *words: str, database: str = DATABASE) -> Ran:
    """`tidemill image` in this folder."""
    done = subprocess.run(
        [sys.executable, "-m", "tidemill", "image", *words, "--base", BASE, "--network", "host", "--env", database],
        cwd=folder,
        env=docker.environment | {"PYTHONPATH": str(TREE / "src")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_it_is_small_named_after_its_commit_and_says_what_it_is(docker: Docker, avalon: str, tree: Path) -> None:
    commit = subprocess.check_output(["git", "-C", str(tree), "rev-parse", "HEAD"], text=True).strip()
    assert avalon == f"avalon:0.1.0-{commit[:12]}"
    (base,), (built,) = (json.loads(docker.out("image", "inspect", name)) for name in (BASE, avalon))
    over = (built["Size"] - base["Size"]) / MEGABYTE
    print(f"{over:.1f} MB over the base of {base['Size'] / MEGABYTE:.0f} MB")
    assert over <= 120
    config = built["Config"]
    assert config["Entrypoint"] == ["/usr/bin/tini", "--", "tidemill"]
    assert config["Healthcheck"]["Test"] == ["CMD", "tidemill", "health"]
    assert (config["User"], config["StopSignal"]) == ("10001:10001", "SIGTERM")
    assert config["Labels"]["org.opencontainers.image.revision"] == commit
    assert config["Labels"]["org.opencontainers.image.version"] == "0.1.0"


async def test_it_runs_without_rights_in_little_memory_and_drains(
    docker: Docker, avalon: str, postgres_url: str, tmp_path: Path
) -> None:
    system = System(tmp_path, postgres_url)
    container = start(docker, avalon, system)
    waited = await system.ready(30)
    took = time.time() - started(docker, container)
    ask = "import os; print(os.getuid(), os.access('/app', os.W_OK), open('/proc/self/status').read())"
    status = docker.out("exec", container, "python", "-c", ask)
    uid, writable, *_ = status.split()
    (capabilities,) = {line.split()[1] for line in status.splitlines() if line.startswith(("CapEff", "CapBnd"))}
    assert (int(uid), writable, int(capabilities, 16)) == (10001, "False", 0)
    assert docker.run("exec", container, "tidemill", "health", "--port", str(system.probes)).returncode == 0
    orders = rows(12_000)
    sending = asyncio.create_task(system.send(orders))
    while await count_invoices(system.database) < 500:
        await asyncio.sleep(0.05)
    most = peak(docker, container)
    drained = await stopped(docker, container, system)
    before = await count_invoices(system.database)
    assert not sending.done(), "it was not stopped during work"
    assert before < len(orders)
    again = start(docker, avalon, system)
    await asyncio.wait_for(sending, 120)
    while await count_invoices(system.database) < len(orders):
        await asyncio.sleep(0.5)
    most = max(most, peak(docker, again))
    await stopped(docker, again, system)
    print(f"ready {took:.2f} s after its start, {waited:.2f} s after docker run")
    print(
        f"at most {most / MEBIBYTE:.1f} of 96 MiB; stopped in {drained:.2f} s, with {before} invoices of {len(orders)}"
    )
    assert took <= 2
    books = await audit(system.database, orders)
    print(books)
    assert books.right, books


async def stopped(docker: Docker, container: str, system: System) -> float:
    """Stop it; the seconds that took. It ends with 0."""
    began = time.monotonic()
    await asyncio.to_thread(docker.run, "stop", "--time", "60", container)
    assert system.process is not None
    assert await asyncio.to_thread(system.process.wait, 30) == 0, system.log.read_text()[-2000:]
    return time.monotonic() - began


def started(docker: Docker, container: str) -> float:
    """When its first process began, as the daemon says, in seconds since the epoch."""
    said = docker.out("inspect", "--format", "{{.State.StartedAt}}", container)
    return datetime.fromisoformat(f"{said[:26].rstrip('Z')}+00:00").timestamp()


def peak(docker: Docker, container: str) -> int:
    """The most memory that the container's control group has had, in bytes; the kernel holds it to its limit."""
    id = docker.out("inspect", "--format", "{{.Id}}", container)
    for place in ("memory/docker/{}/memory.max_usage_in_bytes", "system.slice/docker-{}.scope/memory.peak"):
        path = Path("/sys/fs/cgroup", place.format(id))
        if path.exists():
            limit = path.with_name("memory.limit_in_bytes")
            assert not limit.exists() or int(limit.read_text()) == 96 * MEBIBYTE
            return int(path.read_text())
    pytest.fail("there is no control group to read")


def start(docker: Docker, image: str, system: System) -> str:
    """All groups in one container, as a pod's policy has it; its name."""
    name = f"avalon-{system.probes}"
    words = ["run", "--rm", "--name", name, "--network", "host", "--read-only", "--cap-drop", "ALL"]
    words += ["--security-opt", "no-new-privileges", "--memory", "96m", "--memory-swap", "96m"]
    variables = {
        "DATABASE": system.database,
        "API_PORT": system.api,
        "HEALTH_PORT": system.probes,
        "API_HOST": "127.0.0.1",
    }
    for variable, value in variables.items():
        words += ["--env", f"TIDEMILL_{variable}={value}"]
    with system.log.open("ab") as log:
        system.process = subprocess.Popen(
            ["/usr/bin/docker", *words, image], env=docker.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    return name


# --- again, and pushed --------------------------------------------------------------------------------------


def test_a_change_of_the_source_keeps_the_layer_of_dependencies(docker: Docker, avalon: str, tree: Path) -> None:
    module = tree / "examples/avalon/app.py"
    before = layers(docker, avalon)
    module.write_text(module.read_text() + "\n# changed\n")
    try:
        ran = image(docker, tree / "examples/avalon", AVALON)
    finally:
        module.write_text(module.read_text().removesuffix("\n# changed\n"))
    assert "-dirty." in ran.reference
    (number,) = {line.split()[0] for line in ran.err.splitlines() if "--require-hashes" in line}
    assert f"{number} CACHED" in ran.err.splitlines()
    after = layers(docker, ran.reference)
    assert [old == new for old, new in zip(before, after, strict=True)][:3] == [True] * 3  # base, tini, dependencies
    assert before != after


def layers(docker: Docker, image: str) -> list[str]:
    (found,) = json.loads(docker.out("image", "inspect", image))
    return list(found["RootFS"]["Layers"])


APP = """
from importlib.resources import files

from common import twice
from tidemill import App

app = App("shop")
work = app.queue("work", dict)
prices = files("shop").joinpath("prices.json").read_text()
SETTINGS


@app.on_message(work)
async def handle(body: dict) -> None:
    twice(1)
"""

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "NAME"
version = "1.4.0"
dependencies = [DEPENDENCIES]

[tool.uv.sources]
tidemill = { path = "TREE" }
common = { path = "../common" }
"""


@pytest.fixture
def shop(tree: Path) -> Iterator[Path]:
    """A package with data of its own, which needs another one that lies beside it."""
    top = tree / "shops"
    for name, needs in (("shop", '"tidemill[cli]", "common"'), ("common", "")):
        (top / name / name).mkdir(parents=True)
        text = PYPROJECT.replace("NAME", name).replace("DEPENDENCIES", needs).replace("TREE", "../..")
        (top / name / "pyproject.toml").write_text(text)
    (top / "common/common/__init__.py").write_text("def twice(n: int) -> int:\n    return 2 * n\n")
    (top / "shop/shop/__init__.py").write_text("")
    (top / "shop/shop/prices.json").write_text("{}")
    (top / "shop/shop/app.py").write_text(APP.replace("SETTINGS", ""))
    (top / "shop/tidemill.toml").write_text('grace = "20s"\n')
    (top / "shop/settings.json").write_text("{}")
    (top / "shop/shop/places.db").touch()
    for left_out in (".env", "shop/.env", "shop/tls.key", "tidemill.db"):
        (top / "shop" / left_out).write_text("secret")
    shutil.copy(tree / "examples/avalon/requirements.txt", top / "shop/requirements.txt")
    commit(tree)
    try:
        yield top / "shop"
    finally:
        shutil.rmtree(top)


def test_a_push_tells_the_digest_and_never_changes_a_tag(docker: Docker, shop: Path, registry: Registry) -> None:
    name = f"{registry.host}/team/shop"
    words = ("shop.app:app", "--push", "--image", name, "--json")
    ran = image(docker, shop, *words)
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)
    tag = said["image"].removeprefix(f"{name}:")
    assert said["pushed"] is True
    assert ("team/shop", tag) in registry.manifests
    assert ("team/shop", said["digest"]) in registry.manifests
    assert inside(docker, said["image"], "cat", "tidemill.toml") == 'grace = "20s"'
    files = {
        Path(line).name for line in inside(docker, said["image"], "find", "/app", "/opt", "-type", "f").splitlines()
    }
    assert {"prices.json", "places.db", "tidemill.toml"} <= files
    assert not {".env", "tls.key", "tidemill.db", "settings.json"} & files
    assert json.loads(image(docker, shop, *words).out)["digest"] == said["digest"]
    (shop / "shop/prices.json").write_text('{"tea": 3}')
    again = image(docker, shop, *words)
    assert (again.code, "--allow-dirty" in again.err) == (2, True)
    again = image(docker, shop, *words, "--tag", tag, "--allow-dirty")
    assert (again.code, "is in the registry already, with other content" in again.err) == (2, True)


def inside(docker: Docker, image: str, *words: str) -> str:
    """What a command says in the image."""
    run = ("run", "--rm", "--network", "none", "--cap-drop", "ALL", "--read-only")
    return docker.out(*run, "--entrypoint", words[0], image, *words[1:])


def test_a_project_without_a_build_system_runs_as_it_lies(docker: Docker, shop: Path, tmp_path: Path) -> None:
    """And the file of pip's settings, which may have a password, is in no layer."""
    text = (shop / "pyproject.toml").read_text()
    (shop / "pyproject.toml").write_text(text[text.index("[project]") :])
    (shop / "app.py").write_text(
        APP.replace("SETTINGS", 'settings = open("settings.json").read()').replace("prices =", "#")
    )
    (tmp_path / "pip.conf").write_text("[global]\ntimeout = 61\n# password\n")
    ran = image(docker, shop, "--pip-conf", str(tmp_path / "pip.conf"))
    assert "tree" not in ran.reference
    files = inside(docker, ran.reference, "find", "/app", "-type", "f").splitlines()
    assert {"/app/app.py", "/app/settings.json", "/app/tidemill.toml"} <= {*files}
    assert not {"/app/.env", "/app/tidemill.db", "/app/Dockerfile"} & {*files}
    assert inside(docker, ran.reference, "python", "-c", "from common import twice; print(twice(2))") == "4"
    assert "password" not in docker.out("history", "--no-trunc", ran.reference)
    assert "secrets" not in inside(docker, ran.reference, "ls", "/run").split()


def test_a_missing_settings_file_stops_the_push(docker: Docker, shop: Path, registry: Registry) -> None:
    (shop / "shop/app.py").write_text(APP.replace("SETTINGS", 'settings = open("settings.json").read()'))
    commit(shop.parent.parent)
    ran = image(docker, shop, "shop.app:app", "--push", "--image", f"{registry.host}/team/shop")
    assert ran.code == 2
    (line,) = [line for line in ran.err.splitlines() if line.startswith("tidemill: ")]
    print(line)
    assert line.startswith("tidemill: in the image: the app could not be imported: app.py:")
    assert "No such file or directory: 'settings.json'" in line
    assert line.endswith("; nothing was pushed")
    assert registry.manifests == {}


def test_a_setting_that_is_missing_stops_the_push(docker: Docker, shop: Path, registry: Registry) -> None:
    push = ("shop.app:app", "--push", "--image", f"{registry.host}/team/shop")
    ran = image(docker, shop, *push, database="TIDEMILL_GRACE=soon")
    assert ran.code == 2
    assert "in the image: " in ran.err
    assert "TIDEMILL_GRACE" in ran.err
    ran = image(docker, shop, *push, database="TIDEMILL_DATABASE=azure-storage-queue://x")
    assert ran.code == 2
    assert registry.manifests == {}
