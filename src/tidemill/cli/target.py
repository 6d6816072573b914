"""From `module:app` to the app: a mistake is one line, and so is a fault of the user's module: where, and what."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from tidemill.app.app import App
from tidemill.errors import ConfigurationError
from tidemill.forwards import extended

USUAL = ("app", "main")


def find(target: str | None, folder: Path) -> App:
    """The app of `module:app`, `module`, or of app.py or main.py in `folder`, which is put on the import path; with
    what tidemill.toml there forwards.

    Raises `ConfigurationError` for what is not there, and for what fails by itself.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module, attribute = parts(target or usual(folder))
    return extended(_app(_load(module, folder), module, attribute), folder)


def parts(target: str) -> tuple[str, str]:
    """Module and attribute. Raises `ConfigurationError` for a file."""
    module, _, attribute = target.partition(":")
    if module.endswith(".py") or "/" in module:
        better = module.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigurationError(f"{module} is a file: write the module, {better}:{attribute or 'app'}")
    return module, attribute or "app"


def findable(folder: Path) -> bool:
    """Whether `find` would know where to look without a target."""
    return any((folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file() for name in USUAL)


def usual(folder: Path) -> str:
    """The module to take without a target. Raises `ConfigurationError` if there is none."""
    for name in USUAL:
        if (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file():
            return name
    raise ConfigurationError("which app? Write module:app, or go to the folder whose app.py or main.py has an `app`")


def _load(module: str, folder: Path) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            near = get_close_matches(module, _modules(folder), 1, 0.6)
            words = f"; did you mean {near[0]}?" if near else ""
            raise ConfigurationError(f"there is no module {module!r} in {folder.name}/{words}") from None
        raise ConfigurationError(fault(error, module)) from None
    except ConfigurationError as error:
        place = _place(error)
        raise ConfigurationError(*(f"{place}{problem}" for problem in error.problems)) from None
    except (Exception, SystemExit) as error:
        raise ConfigurationError(fault(error, module)) from None


def _modules(folder: Path) -> list[str]:
    packages = [path.parent.name for path in folder.glob("*/__init__.py")]
    return [path.stem for path in folder.glob("*.py")] + packages


def _app(module: ModuleType, name: str, attribute: str) -> App:
    found = getattr(module, attribute, None)
    if isinstance(found, App):
        return found
    apps = [key for key, value in vars(module).items() if isinstance(value, App)]
    words = f"; did you mean {name}:{apps[0]}?" if apps else ""
    if found is None:
        raise ConfigurationError(f"module {name!r} has no {attribute!r}{words}")
    raise ConfigurationError(f"{name}:{attribute} is a {type(found).__name__}, not a tidemill.App{words}")


# --- what the user's own code did ---------------------------------------------------------------------------


def fault(error: BaseException, module: str = "") -> str:
    """`the app could not be imported: app.py:1 → rates.py:6: ValueError: …`: the way there through the user's files,
    or where the app is installed as a package, as it is in an image, through that of `module`."""
    frames = _own(error) or [frame for frame in _frames(error) if _is_of(frame.filename, module.partition(".")[0])]
    way = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
    if isinstance(error, SyntaxError) and error.filename:
        way.append(f"{Path(error.filename).name}:{error.lineno}")
    (what, *_) = traceback.format_exception_only(error)[-1:]
    return f"the app could not be imported: {' → '.join(way) or 'in a library'}: {what.strip()}"


def _own(error: BaseException) -> list[traceback.FrameSummary]:
    return [frame for frame in _frames(error) if _is_own(frame.filename)]


def _frames(error: BaseException) -> traceback.StackSummary:
    return traceback.extract_tb(error.__traceback__)


def _is_of(filename: str, package: str) -> bool:
    """Whether it belongs to this package, as installed."""
    for folder in map(sysconfig.get_path, ("purelib", "platlib")):
        if Path(filename).is_relative_to(folder):
            return Path(filename).relative_to(folder).parts[0] in (package, f"{package}.py")
    return False


def _place(error: BaseException) -> str:
    """`app.py:12: ` of the user's line that a declaration stands in."""
    own = _own(error)
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}: " if own else ""


def _is_own(filename: str) -> bool:
    return not filename.startswith("<") and not any(filename.startswith(folder) for folder in _foreign())


def _foreign() -> Iterator[str]:
    yield str(Path(__file__).parent.parent)
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield sysconfig.get_path(name)
