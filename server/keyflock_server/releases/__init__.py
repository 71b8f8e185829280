"""Model versions: what a version is, where it comes from, and the bytes that phones download. Pure."""
