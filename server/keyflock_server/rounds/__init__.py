"""The round as a table: tasks, eligibility, sampling, pacing and the states of a round. Pure."""
