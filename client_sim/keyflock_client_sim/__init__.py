"""Phones that behave like phones."""
