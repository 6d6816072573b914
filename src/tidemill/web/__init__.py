"""The user's web API, served in the same lifecycle as the workers."""
