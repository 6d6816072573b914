"""What adapters for Azure share: where an account is and who we are to it."""
