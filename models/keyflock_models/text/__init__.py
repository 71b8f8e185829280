"""Text: how messages become words, and words become the token ids of a vocabulary."""
