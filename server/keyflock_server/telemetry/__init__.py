"""Metrics and structured logs for operators. They never contain a secret or a user's text."""
