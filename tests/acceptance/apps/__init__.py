"""The apps that the acceptance tests run as processes."""
