"""A delta becomes few bytes and comes back."""
