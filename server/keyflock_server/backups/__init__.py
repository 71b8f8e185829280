"""Backups: made while servers run, verified, and restored into an empty place."""
