"""`docs/settings.md` is made of the settings: `python -m tests.test_settings_doc` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from tidemill.cli.config import DURATIONS
from tidemill.settings import Part, Settings

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"

HEAD = """# Settings

Everything that may differ between two deployments of one app. A value may be said in several places; the later wins:
defaults, `tidemill.toml`, `.env`, files of the secrets directory (`/run/secrets`, or `TIDEMILL_SECRETS_DIR`),
`TIDEMILL_*` variables, options of the command line. All mistakes are told together, each with the place it stands in.

`tidemill config` prints every value and where it comes from; `tidemill check` says what is wrong before a replica
starts, and with `--online` what the databases say about it.

```toml
# tidemill.toml
database = "sqlite:///work.db"
grace = "40s"

[queues.invoices] # one part set apart; as a variable: TIDEMILL_QUEUES__INVOICES__URL
url = "sqlite:///invoices.db"
```

A list in a variable is written with commas: `TIDEMILL_GROUPS=queues,timers`. Durations are `"30s"`, `"1h30m"`,
`"250ms"` or seconds. `PORT` is the port of the web API unless something else is said.

| setting | variable | default | what it is |
|---|---|---|---|
"""


def text() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        variable = f"TIDEMILL_{name.upper()}"
        if name in ("queues", "collections"):
            name, variable = f"{name}.NAME.url", f"{variable}__NAME__URL"
        assert field.description, f"{name} has no description"
        told = f"{field.description} {_words(field.annotation, field.metadata)}".strip()
        rows.append(
            f"| `{name}` | `{variable}` | {_default(name, field.get_default(call_default_factory=True))} | {told} |"
        )
    return HEAD + "\n".join(rows) + "\n"


def _default(name: str, value: Any) -> str:
    if name in DURATIONS:
        return f"`{value:g} s`"
    return "" if value in (None, "", ()) or value == {} else f"`{str(value).lower() if value is False else value}`"


def _words(annotation: Any, metadata: list[Any]) -> str:
    allowed = get_args(annotation) if get_origin(annotation) is Literal else ()
    return f"One of {', '.join(f'`{word}`' for word in allowed)}." if allowed else ""


def test_the_page_tells_every_setting() -> None:
    assert PAGE.read_text() == text(), "python -m tests.test_settings_doc writes it"


def test_a_part_has_what_the_page_says() -> None:
    assert list(Part.model_fields) == ["url"]


if __name__ == "__main__":
    PAGE.write_text(text())
