"""PostgreSQL: store, documents, change feed of any table, queue, dead letters."""
