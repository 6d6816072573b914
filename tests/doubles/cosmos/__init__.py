"""A double of Azure Cosmos DB (the API for NoSQL), for the unmodified azure-cosmos to talk to. It is not Cosmos DB.

What it models from the documentation, the .NET source and the wire as captured: containers with a V2 hash partition key
(also hierarchical), physical partitions by effective partition key (murmur3, by the client's own code) with LSNs,
etags and If-Match, change feeds (latest version; all versions and deletes) by etag, time and sub-range, splits and
merges with 410, TTL on a clock of its own, 429 with retry-after, session tokens, batches of one partition key with one
LSN, regions (one that takes writes, 403/3 at the others, 404/1002 at one that lags, outages), questions in a small part
of its SQL with the query plan for ordered ones across partitions, composite indexes for orders of several fields, keys
(HMAC), request charges by rough rule. What it does not: several regions that take writes (it can only say so), other
consistency than session's, throughput, indexing beyond that, stored procedures.
"""
