"""The long-running services: membership, leases, queues, feeds, timers, handlers, health, drain."""
