"""Authentication: attestation, users, device tokens and assignment tokens."""
