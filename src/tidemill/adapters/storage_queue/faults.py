"""The client's errors as ours: what a person can mend, and what the next try may mend."""

from __future__ import annotations

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

from tidemill.adapters.azure.account import NO_IDENTITY
from tidemill.adapters.storage_queue.address import Address
from tidemill.errors import ConfigurationError, TidemillError, TooLarge, Unavailable

DRIVER = (AzureError, OSError, TimeoutError)
"""What the client raises for reasons that lie outside the program."""

NO_QUEUE = "QueueNotFound"
LOST = ("PopReceiptMismatch", "MessageNotFound", NO_QUEUE)
"""The receipt is not the newest, or the message is gone, or all of them are: either way the claim is not ours."""

EXISTS = "QueueAlreadyExists"


def translate(error: Exception, address: Address, *, opening: bool = False) -> Exception:
    """The error as ours; what is not the client's comes back as it is.

    `opening`: a wrong key or a missing queue is a mistake of the configuration then, an outage later (keys are rotated
    and queues made anew while workers run).
    """
    if isinstance(error, TidemillError) or not isinstance(error, DRIVER):
        return error
    told = _mistake(error, address)
    if opening and told:
        return ConfigurationError(f"{address.shown}: {told}")
    if status(error) == 413 or code(error) == "MessageTooLarge":
        return TooLarge(f"{address.shown}: the message is larger than the 64 KiB of the service")
    return Unavailable(f"{address.shown}: {told or _words(error, address)}")


def status(error: BaseException) -> int:
    """The HTTP status, 0 where there was no answer."""
    return int(error.status_code or 0) if isinstance(error, HttpResponseError) else 0


def code(error: BaseException) -> str:
    """The service's word for what happened, empty where it has none."""
    said = getattr(error, "error_code", None)
    return str(getattr(said, "value", said) or "")


def _words(error: BaseException, address: Address) -> str:
    """What the service says, in one line, without the ids that follow it."""
    text = str(getattr(error, "message", None) or error).partition("RequestId:")[0]
    return f"{status(error) or ''} {code(error)} {address.account.words(Exception(text))}".strip()


def _mistake(error: BaseException, address: Address) -> str:
    """What a person must mend before it can work; empty for an outage."""
    words = _words(error, address)
    match status(error), code(error):
        case 0, _ if isinstance(error, ClientAuthenticationError):
            return f"{NO_IDENTITY} ({words})"
        case (401, _) | (403, "AuthenticationFailed" | "InvalidAuthenticationInfo"):
            return "the account refuses this key or token; copy the key again, or look at the clock of this machine"
        case 403, _:
            told = "give it the role Storage Queue Data Contributor (az role assignment create), or allow this network"
            return f"the account forbids this ({words}); {told}"
        case 404, "QueueNotFound":
            return (
                "a queue is not there (404 QueueNotFound): it was removed; a restart makes it again, unless create=no"
            )
        case 409, "QueueBeingDeleted":
            return ""  # that takes half a minute, and then it can be made again
        case 400, "InvalidHeaderValue" if "ersion" in words:
            return f"the service does not know the version of the API that is asked for; set api_version= ({words})"
        case ((400 | 409), _):
            return words
    return ""
