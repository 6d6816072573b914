"""What the SQL adapters share."""
