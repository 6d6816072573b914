"""Whether a handler's first parameter takes what its trigger gives, told at start in one line.

Type checkers see the same earlier; who runs none learns it here, and not from the first message. Only what cannot be
right is refused: what is not annotated, or annotated with what cannot be compared, is let through.
"""

from __future__ import annotations

import types
from inspect import Parameter, isclass
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from tidemill.app.values import Change, Deletion
from tidemill.app.worker import OnChange, OnMessage, Worker
from tidemill.core.codec import name_of
from tidemill.engine.reading import is_list
from tidemill.errors import ConfigurationError
from tidemill.model import StreamSpec

_WIDER: Final = {(int, float), (int, complex), (float, complex)}
"""Pairs that type checkers take for subclasses, though they are none."""


def check_first(worker: Worker, function: str, first: Parameter) -> None:
    """Raises `ConfigurationError`, naming worker, function, parameter and the fix."""
    owner = f"worker {worker.name!r}: parameter {first.name!r} of {function}"
    batch, annotation = worker.policy.batch, first.annotation
    if annotation is Parameter.empty or not isinstance(worker.trigger, OnMessage | OnChange):
        return
    expected = _expected(worker)
    if batch is not None:
        if not is_list(annotation):
            raise ConfigurationError(f"{owner}: batch={batch} calls it with lists; annotate it list[{expected}]")
        annotation = (*get_args(_bare(annotation)), Any)[0]
    elif _is_list(annotation) and not _is_list(worker.trigger.type):
        raise ConfigurationError(
            f"{owner} takes a list, but gets one at a time; give batch=…, or annotate it {expected}"
        )
    match worker.trigger:
        case OnMessage(queue, type_) if not _fits(type_, annotation):
            raise ConfigurationError(
                f"{owner} takes {_shown(annotation)}, but queue {queue.name!r} carries {expected}; annotate it so"
            )
        case OnChange(StreamSpec() as stream, type_):
            if not _fits(type_, annotation):
                raise ConfigurationError(
                    f"{owner} takes {_shown(annotation)}, but queue {stream.queue!r} carries {expected}; annotate it so"
                )
        case OnChange(source, type_) if not _takes_changes(type_, annotation):
            raise ConfigurationError(
                f"{owner} takes {_shown(annotation)}, but the feed of {source.name!r} gives {expected}; annotate it so "
                f"(or {expected} | {expected.replace('Change', 'Deletion')})"
            )


def _expected(worker: Worker) -> str:
    trigger = worker.trigger
    if isinstance(trigger, OnChange) and not isinstance(trigger.source, StreamSpec):
        return f"Change[{_shown(trigger.type)}]"
    return _shown(trigger.type) if isinstance(trigger, OnMessage | OnChange) else ""


def _takes_changes(type_: Any, annotation: Any) -> bool:
    members = [_bare(member) for member in _members(annotation)]
    if any(_takes_all(member) for member in members):
        return True
    kinds = [get_origin(member) or member for member in members]
    inside = [get_args(member)[0] for member, kind in zip(members, kinds, strict=True) if _of_feed(kind, member)]
    return Change in kinds and all(_fits(type_, taken) for taken in inside)


def _of_feed(kind: Any, member: Any) -> bool:
    """Whether it says of what it is a change or deletion."""
    return kind in (Change, Deletion) and bool(get_args(member))


def _fits(type_: Any, annotation: Any) -> bool:
    """False only when a value of `type_` is surely none of the annotation."""
    given, taken = _bare(type_), _bare(annotation)
    if _takes_all(taken) or given is Any or given == taken:
        return True
    if len(_members(given)) > 1:
        return all(_fits(member, taken) for member in _members(given))
    if len(_members(taken)) > 1:
        return any(_fits(given, member) for member in _members(taken))
    given, taken = get_origin(given) or given, get_origin(taken) or taken
    if not (isclass(given) and isclass(taken)) or (given, taken) in _WIDER or getattr(taken, "_is_protocol", False):
        return True
    try:
        return issubclass(given, taken)
    except TypeError:  # classes that are not made for it (TypedDict)
        return True


def _takes_all(annotation: Any) -> bool:
    return annotation in (Any, object) or isinstance(annotation, TypeVar)


def _members(annotation: Any) -> tuple[Any, ...]:
    bare = _bare(annotation)
    return get_args(bare) if get_origin(bare) in (Union, types.UnionType) else (bare,)


def _is_list(annotation: Any) -> bool:
    bare = _bare(annotation)
    return (get_origin(bare) or bare) is list


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _shown(annotation: Any) -> str:
    """A type as it stands in the source, without modules."""
    if args := get_args(annotation):
        if get_origin(annotation) is Annotated:
            return _shown(args[0])
        if get_origin(annotation) in (Union, types.UnionType):
            return " | ".join(map(_shown, args))
        return f"{name_of(get_origin(annotation))}[{', '.join(map(_shown, args))}]"
    return name_of(annotation)
