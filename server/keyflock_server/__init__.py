"""The federated-learning server, to which phones report."""
