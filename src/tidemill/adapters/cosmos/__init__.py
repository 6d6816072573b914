"""Azure Cosmos DB: documents, change feeds with leases, the store; by azure-cosmos.

What it has that Microsoft ships for .NET and Java only is the change feed processor: feeds are divided among replicas
by the engine's leases, which this adapter keeps as records of its own.
"""

from tidemill.adapters.cosmos.database import Cosmos

__all__ = ["Cosmos"]
