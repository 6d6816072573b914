"""The commands and their options, one module for each family: what a command does is imported when it runs."""
