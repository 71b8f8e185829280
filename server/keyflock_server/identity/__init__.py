"""Who is speaking: attestation, device tokens and assignment tokens."""
