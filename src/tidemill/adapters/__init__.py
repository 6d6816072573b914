"""Backends: one file or folder each, knowing the ports and one library."""
