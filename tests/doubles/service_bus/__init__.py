"""A double of Azure Service Bus: queues over AMQP 1.0, for the unmodified azure-servicebus.

It stands in for a namespace in tests on this machine; it is no Service Bus and was never compared with one side by
side. It models: SAS tokens at `$cbs` (signature, audience, expiry), peek-lock with lock durations, dispositions, dead
letters, scheduled messages, duplicate detection, time to live, the largest size, sessions with their state and locks,
`$management` of each entity, and faults (`faults`). It does not model: topics, transactions, partitioned entities,
forwarding, Azure's identities, quotas, throttling by itself, TLS, filters other than that of sessions, link recovery,
and the order in which a real service hands messages to several receivers.
"""
