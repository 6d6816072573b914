"""The capture of existing tables."""
