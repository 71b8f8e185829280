"""Training: what a phone computes in a round, and the central pre-training that makes version 0."""
