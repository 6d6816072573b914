"""The text of Dockerfile and .dockerignore, from a recipe.

Two stages of one base. The builder makes /opt/venv from the dependencies, /opt/own from what is built here, and /app
with the project's files; the image gets these and tini, as a layer each, so that a change of the source is all that is
pushed and pulled again. The last stage runs nothing: it needs no shell and no package manager. There is no `# syntax=`
line: the builder's own reader knows all that stands here, and nothing has to be fetched for it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from tidemill.deploy.image import Recipe

DOCKERFILE = "Dockerfile"
IGNORE = ".dockerignore"
MARK = "# Written by `tidemill image`"
"""How a file of ours begins. Whoever takes the line away has taken the file over."""

USER = 10001

_HEAD = f"""{MARK}, which keeps it up to date. Remove this line to keep the file as it is.
"""

_NEVER = (
    "**/.git",
    "**/.hg",
    "**/.github",
    "**/.venv",
    "**/venv",
    "**/.tox",
    "**/node_modules",
    "**/__pycache__",
    "**/*.py[cod]",
    "**/*.egg-info",
    "**/.*_cache",
    "**/.coverage*",
    "**/.hypothesis",
    "**/.idea",
    "**/.vscode",
    "**/.DS_Store",
)
_SECRET = ("**/.env", "**/.env.*", "**/*.key", "**/*key.pem", "**/id_rsa*", "**/.netrc", "**/.pypirc", "**/kubeconfig*")
_LEFT = ("*.db", "*.db-*", "*.db.lock", "*.log")
"""Beside pyproject.toml, where `tidemill dev` keeps its database; a package may have such files as its data."""
_NOT_RUN = ("tests", "chart", "build", "dist", "Dockerfile*", ".dockerignore")

_VENV = "/opt/venv/bin/python"
_BUILT = "/opt/own/bin/python"

_PIP = """\
    --mount=type=cache,target=/root/.cache/pip \\
    --mount=type=secret,id=ca \\
    --mount=type=secret,id=pip \\
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \\
    if [ -s /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi; \\
    python3 -m pip --python {python} install --no-compile """

_CHECK = "python3 -m pip --python {python} check"
_COMPILE = "python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash"

_BUILDER = """\
# The dependencies: this layer is made anew only when they change.
FROM ${BASE} AS builder
ENV PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
# PID 1 of the image. Debian's package has it; a base without apt-get must bring it along.
RUN if [ ! -x /usr/bin/tini ]; then \\
        apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/*; \\
    fi
WORKDIR /build
RUN python3 -m venv --without-pip /opt/venv
"""

_OWN = """\
# What is built here has an environment of its own, a layer above; each of the two sees what is in the other.
RUN python3 -m venv --without-pip /opt/own \\
    && ls -d /opt/own/lib/python3*/site-packages > "$(ls -d /opt/venv/lib/python3*/site-packages)/own.pth" \\
    && ls -d /opt/venv/lib/python3*/site-packages > "$(ls -d /opt/own/lib/python3*/site-packages)/dependencies.pth"
"""

_HEALTH = "--interval=30s --timeout=5s --start-period=60s --retries=3"

_FINAL = """\
# The image itself: nothing is run here, so what it has beyond the base is what is copied.
FROM ${BASE}
# Bytecode is there already, and the root may be read-only; what wants a home or a scratch file finds /tmp.
ENV PATH=/opt/own/bin:/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
COPY --from=builder /usr/bin/tini /usr/bin/tini
"""


def dockerfile(recipe: Recipe) -> str:
    """The Dockerfile."""
    return "\n".join(
        (
            _HEAD,
            f"ARG BASE={recipe.base}\n",
            _BUILDER.rstrip(),
            *([_OWN.rstrip()] if _own(recipe) else ()),
            *_dependencies(recipe),
            *_locals(recipe),
            *_project(recipe),
            "",
            _FINAL.rstrip(),
            *_copies(recipe),
            "WORKDIR /app",
            f"USER {USER}:{USER}",
            "STOPSIGNAL SIGTERM",
            _list("ENTRYPOINT", "/usr/bin/tini", "--", "tidemill"),
            _list("CMD", *_command(recipe)),
            f"HEALTHCHECK {_HEALTH} {_list('CMD', 'tidemill', 'health')}",
            *_labels(recipe),
            "",
        )
    )


def ignore(recipe: Recipe) -> str:
    """The file that keeps the rest out of the build: where several folders are taken, all but these."""
    parts = (recipe.project, *recipe.local)
    lines = [_HEAD]
    if "." not in parts:
        lines += ["*", *(f"!{part}" for part in parts), ""]
    own = "" if recipe.project == "." else f"{recipe.project}/"
    idle = [name for name in _NOT_RUN if name != recipe.target.partition(":")[0].partition(".")[0]]
    lines += ["# made again, or of the machine", *_NEVER, "", "# secrets come at run time", *_SECRET, ""]
    lines += ["# what a run leaves", *(f"{own}{name}" for name in _LEFT), ""]
    lines += ["# not run in the image", *(f"{own}{name}" for name in idle)]
    return "\n".join(lines) + "\n"


def ignore_name(recipe: Recipe) -> str:
    """How that file is called, beside the Dockerfile: the builder looks there first, and the context may lie above."""
    return IGNORE if recipe.project == "." else f"{DOCKERFILE}{IGNORE}"


def ours(text: str) -> bool:
    """Whether we may write over it."""
    return text.startswith(MARK)


def _dependencies(recipe: Recipe) -> Iterator[str]:
    if recipe.pins:
        yield f"COPY {_words(recipe.pins, 'requirements.txt')}"
        said = "--require-hashes --requirement requirements.txt" if recipe.hashed else "--requirement requirements.txt"
    elif recipe.lines:
        said = " ".join(f"\\\n        {shlex.quote(line)}" for line in recipe.lines)
    else:
        return
    yield f"RUN \\\n{_PIP.format(python=_VENV)}{said} \\\n    && {_COMPILE} /opt/venv/lib"


def _locals(recipe: Recipe) -> Iterator[str]:
    if not recipe.local:
        return
    yield "\n# What lies beside the project, built into wheels."
    for number, part in enumerate(recipe.local):
        place = f"local/{number}/"
        yield f"COPY {_words(part, place + (part.rpartition('/')[2] if _is_file(part) else ''))}"
    places = " ".join(
        f"./local/{number}/{part.rpartition('/')[2] if _is_file(part) else ''}"
        for number, part in enumerate(recipe.local)
    )
    yield f"RUN \\\n{_PIP.format(python=_BUILT)}--no-deps {places} \\\n    && {_COMPILE} /opt/own/lib"


def _project(recipe: Recipe) -> Iterator[str]:
    yield "\n# The project. Nobody but root may write what runs, whatever its modes were where it was built."
    if not recipe.packaged:
        yield f"COPY {_words(recipe.project, '/app/')}"
        yield (
            f"RUN {_CHECK.format(python=_BUILT if recipe.local else _VENV)} \\\n    && chmod -R a+rX,go-w /app \\\n"
            f"    && {{ {_COMPILE} /app || :; }} # the check of the app tells more of a file that is no Python"
        )
        return
    yield f"COPY {_words(recipe.project, 'project/')}"
    beside = " ".join(f"project/{name}" for name in recipe.beside)
    copied = f"cp {beside} /app/ && " if beside else ""
    yield (
        f"RUN \\\n{_PIP.format(python=_BUILT)}--no-deps ./project \\\n    && {_CHECK.format(python=_BUILT)} \\\n"
        f"    && {_COMPILE} /opt/own/lib \\\n    && mkdir /app && {copied}chmod -R a+rX,go-w /app"
    )


def _copies(recipe: Recipe) -> Iterator[str]:
    yield "COPY --from=builder /opt/venv /opt/venv"
    if _own(recipe):
        yield "COPY --from=builder /opt/own /opt/own"
    yield "COPY --from=builder /app /app"


def _command(recipe: Recipe) -> Iterator[str]:
    yield from ("run", recipe.target)
    for group in recipe.groups:
        yield from ("--group", group)


def _labels(recipe: Recipe) -> Iterator[str]:
    for name in ("BASE", "VERSION", "REVISION", "SOURCE", "CREATED"):
        yield f"ARG {name}"
    yield f"LABEL org.opencontainers.image.title={json.dumps(recipe.name)} \\"
    yield '      org.opencontainers.image.base.name="${BASE}" \\'
    yield '      org.opencontainers.image.version="${VERSION}" \\'
    yield '      org.opencontainers.image.revision="${REVISION}" \\'
    yield '      org.opencontainers.image.source="${SOURCE}" \\'
    yield '      org.opencontainers.image.created="${CREATED}"'


def _list(word: str, *words: str) -> str:
    return f"{word} {json.dumps(words, ensure_ascii=False)}"


def _words(*paths: str) -> str:
    """Paths of a COPY: as a list where one has a blank."""
    return json.dumps(paths) if any(" " in path for path in paths) else " ".join(paths)


def _own(recipe: Recipe) -> bool:
    return recipe.packaged or bool(recipe.local)


def _is_file(part: str) -> bool:
    return part.endswith((".whl", ".tar.gz", ".zip"))
