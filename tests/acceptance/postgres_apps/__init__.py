"""The apps that the acceptance and chaos tests on PostgreSQL run as processes."""
