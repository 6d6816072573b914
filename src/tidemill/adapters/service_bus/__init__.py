"""Azure Service Bus: queues with peek-lock, sessions and dead letters of their own; by azure-servicebus.

What the service has no field for (attempts, reasons, delays of what comes back) goes into copies: `wire`, `queue`.
"""

from tidemill.adapters.service_bus.database import ServiceBus

__all__ = ["ServiceBus"]
