"""This package holds test doubles: trainers that train nothing, and a server that follows a script."""
