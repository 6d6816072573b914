"""The surface: declarations, handles and what handlers are given."""
