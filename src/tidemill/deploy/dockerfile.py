"""The text of Dockerfile and .dockerignore, from a recipe.

Two stages of one base: the builder makes /opt/venv and /app, the image gets these two and tini. Its last stage runs
nothing, so it needs no shell and no package manager, and its layers are as many as change apart. There is no
`# syntax=` line: the builder's own reader knows all that stands here, and nothing has to be fetched for it.
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
_DATA = ("**/*.db", "**/*.db-*", "**/*.db.lock", "**/*.log")
_NOT_RUN = ("tests", "chart", "build", "dist", "Dockerfile*", ".dockerignore")

_PIP = """\
    --mount=type=cache,target=/root/.cache/pip \\
    --mount=type=secret,id=ca \\
    --mount=type=secret,id=pip \\
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \\
    if [ -s /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi; \\
    python3 -m pip --python /opt/venv/bin/python install --no-compile """

_CHECK = "python3 -m pip --python /opt/venv/bin/python check"
_COMPILE = "python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash"

_BUILDER = """\
# The dependencies: this layer is made anew only when they change.
FROM ${BASE} AS builder
ENV PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
# PID 1 of the image. Debian's package has it; a base without apt-get must bring it along.
RUN if [ ! -x /usr/bin/tini ]; then \\
        apt-get update && apt-get install --yes --no-install-recommends tini && rm -rf /var/lib/apt/lists/*; \\
    fi
RUN python3 -m venv --without-pip /opt/venv
WORKDIR /build
"""

_HEALTH = "--interval=30s --timeout=5s --start-period=60s --retries=3"

_FINAL = """\
# The image itself: nothing is run here, so what it has beyond the base is what is copied.
FROM ${BASE}
# Bytecode is there already, and the root may be read-only; what wants a home or a scratch file finds /tmp.
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
COPY --from=builder /usr/bin/tini /usr/bin/tini
"""


def dockerfile(recipe: Recipe) -> str:
    """The Dockerfile."""
    return "\n".join(
        (
            _HEAD,
            f"ARG BASE={recipe.base}\n",
            _BUILDER.rstrip(),
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
    lines += ["# what a run leaves", *_DATA, "", "# not run in the image", *(f"{own}{name}" for name in idle)]
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
    yield f"RUN \\\n{_PIP}{said} \\\n    && {_COMPILE} /opt/venv/lib"


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
    yield f"RUN \\\n{_PIP}--no-deps {places} \\\n    && {_COMPILE} /opt/venv/lib"


def _project(recipe: Recipe) -> Iterator[str]:
    yield "\n# The project. Nobody but root may write what runs, whatever its modes were where it was built."
    if not recipe.packaged:
        yield f"COPY {_words(recipe.project, '/app/')}"
        yield (
            f"RUN {_CHECK} \\\n    && chmod -R a+rX,go-w /app \\\n"
            f"    && {{ {_COMPILE} /app || :; }} # the check of the app tells more of a file that is no Python"
        )
        return
    yield f"COPY {_words(recipe.project, 'project/')}"
    beside = " ".join(f"project/{name}" for name in recipe.beside)
    copied = f"cp {beside} /app/ && " if beside else ""
    yield (
        f"RUN \\\n{_PIP}--no-deps ./project \\\n    && {_CHECK} \\\n"
        f"    && {_COMPILE} /opt/venv/lib \\\n    && mkdir /app && {copied}chmod -R a+rX,go-w /app"
    )


def _copies(recipe: Recipe) -> Iterator[str]:
    yield "COPY --from=builder /opt/venv /opt/venv"
    yield "COPY --from=builder /app /app"


def _command(recipe: Recipe) -> Iterator[str]:
    yield from ("run", recipe.target)
    for group in recipe.groups:
        yield from ("--group", group)


def _labels(recipe: Recipe) -> Iterator[str]:
    yield "ARG VERSION REVISION SOURCE CREATED"
    yield f"LABEL org.opencontainers.image.title={json.dumps(recipe.name)} \\"
    yield '      org.opencontainers.image.version="${VERSION}" \\'
    yield '      org.opencontainers.image.revision="${REVISION}" \\'
    yield '      org.opencontainers.image.source="${SOURCE}" \\'
    yield '      org.opencontainers.image.created="${CREATED}"'


def _list(word: str, *words: str) -> str:
    return f"{word} {json.dumps(words, ensure_ascii=False)}"


def _words(*paths: str) -> str:
    """Paths of a COPY: as a list where one has a blank."""
    return json.dumps(paths) if any(" " in path for path in paths) else " ".join(paths)


def _is_file(part: str) -> bool:
    return part.endswith((".whl", ".tar.gz", ".zip"))
