"""Stand-ins for services that no test can reach. Each says what it leaves out."""
