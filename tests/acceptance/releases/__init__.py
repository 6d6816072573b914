"""Files as releases left them: SQL dumps, one for each format, made by `write` with that release."""
