"""The next-word model, its vocabulary, its training and its measures."""
