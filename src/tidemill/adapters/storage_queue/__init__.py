"""Azure Storage Queue: queues and their dead letters, by azure-storage-queue.

The body on the wire is what Functions and WebJobs write and read; what has to be recorded about a message is written
into the message itself (`envelope`), for the service has no place of its own for it.
"""

from tidemill.adapters.storage_queue.database import StorageQueues

__all__ = ["StorageQueues"]
