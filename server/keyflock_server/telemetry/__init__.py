"""What an operator sees: metrics and structured logs. Never a secret, never a user's text."""
