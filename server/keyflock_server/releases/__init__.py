"""Model versions and their release: what a version is, what keyboards serve, and what decides it. Pure."""
