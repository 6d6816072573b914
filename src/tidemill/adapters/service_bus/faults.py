"""The client's errors as ours: what a person can mend, and what the next try may mend."""

from __future__ import annotations

from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    MessageSizeExceededError,
    MessagingEntityNotFoundError,
    OperationTimeoutError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusQuotaExceededError,
    ServiceBusServerBusyError,
    SessionLockLostError,
)

from tidemill.adapters.service_bus.address import Address
from tidemill.errors import BackendFull, ConfigurationError, TidemillError, TooLarge, Unavailable

DRIVER = (AzureError, OSError, TimeoutError, ValueError)
"""What the client raises for reasons that lie outside the program (`ValueError`: its link was closed meanwhile)."""

LOST = (MessageLockLostError, MessageAlreadySettled, SessionLockLostError)
"""The claim is no longer ours."""

BUSY = (MessageSizeExceededError, OperationTimeoutError, ServiceBusQuotaExceededError, ServiceBusServerBusyError)
"""It was not done, or is not known to be; what we hold stands as it is."""

HARMLESS = (MessageLockLostError, MessageAlreadySettled, MessageSizeExceededError, ServiceBusQuotaExceededError,
            ServiceBusServerBusyError)  # fmt: skip
"""After these the link is as good as before."""

_REFUSED = "the namespace refuses this key, token or identity"
_MEND = "copy key and name again, look at the clock of this machine, or give the role Azure Service Bus Data Owner"
_DENIED = (ServiceBusAuthenticationError, ServiceBusAuthorizationError, ClientAuthenticationError)


def translate(error: Exception, address: Address, queue: str, *, opening: bool = False) -> Exception:
    """The error as ours; what is not the client's comes back as it is.

    `opening`: a wrong key or a missing queue is a mistake of the configuration then, an outage later (keys are rotated
    and queues made anew while workers run).
    """
    if isinstance(error, TidemillError) or not isinstance(error, DRIVER):
        return error
    shown = f"{address.shown}: queue {queue!r}"
    denied = isinstance(error, _DENIED) and getattr(error, "inner_exception", None)
    words = address.account.words(denied or error)
    if told := _of_sessions(words):
        return ConfigurationError(f"{shown} {told}")
    if opening and (told := _mistake(error, words, queue)):
        return ConfigurationError(f"{shown}: {told}")
    match error:
        case MessageSizeExceededError():
            told = f"the message with its headers is larger than the queue takes (size={address.size >> 10}, in KiB)"
            return TooLarge(f"{shown}: {told}")
        case ServiceBusQuotaExceededError():
            return BackendFull(f"{shown}: {words}")
        case ServiceBusServerBusyError():
            return Unavailable(f"{shown}: the service is busy (throttled); lower the load, or give it more units")
    return Unavailable(f"{shown}: {_REFUSED} ({words})" if isinstance(error, _DENIED) else f"{shown}: {words}")


def _of_sessions(words: str) -> str:
    """What the queue and its declaration differ in; empty if they do not."""
    if "requires sessions" in words or "SessionId was not set" in words:
        return "requires sessions: declare it with key=, or create it without --enable-session"
    if "sessionful" in words:
        return "has no sessions, and key= needs them: create it with --enable-session true"
    return ""


def _mistake(error: Exception, words: str, queue: str) -> str:
    """What a person must mend before it can work; empty for an outage."""
    if isinstance(error, _DENIED):
        return f"{_REFUSED}; {_MEND} ({words})"
    if isinstance(error, MessagingEntityNotFoundError):
        return (
            f"there is no such queue; az servicebus queue create --namespace-name … --resource-group … --name {queue}"
        )
    return ""


def unable(queue: str, why: str) -> ConfigurationError:
    """For what the service cannot do."""
    return ConfigurationError(f"queue {queue!r}: Service Bus cannot do this: {why}")
