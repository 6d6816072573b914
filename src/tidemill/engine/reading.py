"""From raw items to what handlers are given: values, changes, and the context of the call."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from inspect import Parameter
from threading import Event
from typing import Annotated, Any, Final, TypeAlias, Union, get_args, get_origin

from tidemill.app.context import Context, Fence
from tidemill.app.values import Change, Deletion
from tidemill.app.worker import OnChange, OnMessage, Worker
from tidemill.core.codec import Codec, name_of
from tidemill.engine.work import Call, Item, Occurrence
from tidemill.errors import ConfigurationError, NoJson
from tidemill.model import Delivery, Logged, StreamSpec

Read: TypeAlias = Callable[[Any], Any]

UNASKED: Final = object()
"""What is read of a delete that the handler did not ask for: it ends well without a call."""


def type_of(worker: Worker) -> Any | None:
    """The declared type of a worker's bodies; None for timers, which have none."""
    return worker.trigger.type if isinstance(worker.trigger, OnMessage | OnChange) else None


def streams(worker: Worker) -> bool:
    """Whether it works on messages that come in order, by a feed."""
    return isinstance(worker.trigger, OnChange) and isinstance(worker.trigger.source, StreamSpec)


def reader(worker: Worker, type_: Any, annotation: Any) -> Read:
    """How an item of this worker becomes the handler's value. It raises `NoJson` or `Unfit`."""
    try:
        codec: Codec[Any] = Codec(type_)
    except Exception as error:  # pydantic raises several unrelated kinds for a type it cannot validate
        raise ConfigurationError(
            f"worker {worker.name!r}: bodies of type {name_of(type_)} cannot be validated;"
            f" make it a dataclass, a TypedDict or a pydantic model ({type(error).__name__})"
        ) from error
    if isinstance(worker.trigger, OnChange) and not streams(worker):
        return _change_reader(codec, wants_deletions(annotation))
    decode = codec.decode

    def read(item: Delivery | Logged) -> Any:
        return decode(item.body or b"")

    return read


def _change_reader(codec: Codec[Any], deletions: bool) -> Read:
    decode, new = codec.decode, tuple.__new__

    def before_of(logged: Logged) -> Any:
        return None if logged.before is None else decode(logged.before)

    def read(logged: Logged) -> Any:
        id, _, _, _, kind, document, key, body, before, at = logged
        if kind != "put":
            if not deletions:
                return UNASKED
            return Deletion(id, document, key, before_of(logged), at)
        if body is None:
            raise NoJson("the change has no body")
        return new(Change, (id, document, key, decode(body), None if before is None else decode(before), at))

    return read


# --- annotations --------------------------------------------------------------------------------------------


def is_list(annotation: Any) -> bool:
    """Whether a parameter takes a list of items (an unannotated one takes anything)."""
    bare = _bare(annotation)
    return bare in (Any, list, Sequence) or annotation is Parameter.empty or get_origin(bare) in (list, Sequence)


def wants_deletions(annotation: Any) -> bool:
    """Whether `Deletion` is among what the first parameter takes, in a list or by itself."""
    bare = _bare(annotation)
    if get_origin(bare) in (list, Sequence):
        bare = _bare(get_args(bare)[0])
    members = get_args(bare) if get_origin(bare) in (Union, types.UnionType) else (bare,)
    return any((get_origin(member) or member) is Deletion for member in map(_bare, members))


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


# --- the call's name and context ----------------------------------------------------------------------------


def id_of(item: Item) -> str:
    """What names the item: the message's or the change's id, the occurrence's moment."""
    return moment(item.at).isoformat() if isinstance(item, Occurrence) else item.id


def scope_of(call: Call) -> str:
    """The name under which the call sends. The same items give the same name, other items another one: a batch
    that was put together anew must not look like a rerun of the old one, or its messages would be dropped."""
    first = id_of(call.items[0])
    if len(call.items) == 1:
        return f"{call.worker.name}/{first}"
    digest = blake2b("\0".join(id_of(item) for item in call.items).encode(), digest_size=12)
    return f"{call.worker.name}/{first}+{digest.hexdigest()}"


def moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def context_of(call: Call, deadline: float, connect: Callable[[Event], None], transactional: bool) -> Context:
    """The context of a call. `connect` is told of the `cancelled` event when the handler first asks for it."""
    item = call.items[0]
    context = Context(
        id_of(item),
        None if isinstance(item, Occurrence) else item.key,
        call.worker.name,
        call.attempt,
        call.delivery,
        deadline=None if deadline == float("inf") else deadline,
        fence=None if call.token is None else Fence(call.token.epoch, call.token.nonce),
        transactional=transactional,
        _connect_cancel=connect,
    )
    match item:
        case Occurrence():
            context.scheduled_at = moment(item.at)
            context.past_due = item.past_due
        case Delivery():
            context.headers = item.headers
        case Logged() if streams(call.worker):
            context.id = item.document
            context.headers = json.loads(item.before) if item.before else {}
        case Logged():
            pass
    return context
