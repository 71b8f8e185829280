"""The mathematics of a round: validating deltas, weighting, summing, and the server optimiser. Pure."""
