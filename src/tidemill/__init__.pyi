from tidemill import errors as errors
from tidemill.app.app import App as App
from tidemill.app.client import wait as wait
from tidemill.app.command import command as command
from tidemill.app.context import Context as Context
from tidemill.app.depends import Depends as Depends
from tidemill.app.handles import Collection as Collection
from tidemill.app.handles import Queue as Queue
from tidemill.app.handles import Table as Table
from tidemill.app.middleware import Proceed as Proceed
from tidemill.app.router import Router as Router
from tidemill.app.values import Change as Change
from tidemill.app.values import Deletion as Deletion
from tidemill.app.values import Document as Document
from tidemill.app.webhook import webhook as webhook
from tidemill.core.backoff import Backoff as Backoff
from tidemill.core.health import Health as Health
from tidemill.errors import Reject as Reject
from tidemill.errors import Retry as Retry
from tidemill.errors import Snooze as Snooze
from tidemill.model import Dead as Dead
from tidemill.model import Done as Done
from tidemill.model import Later as Later
from tidemill.run import run as run

__all__: list[str]
__version__: str
