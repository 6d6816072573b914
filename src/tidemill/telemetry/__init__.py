"""Observers: what happened, as log lines and metrics. Each is a callable on one frozen fact."""
