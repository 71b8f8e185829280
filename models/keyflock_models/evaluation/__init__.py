"""Evaluation: the measures of a next-word model per user, their statistics, and the n-gram baselines."""
