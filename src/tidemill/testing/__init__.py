"""For tests: a clock that moves when told, a harness that runs an app in memory, and the conformance suites."""
