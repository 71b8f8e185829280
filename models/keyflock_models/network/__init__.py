"""The network: its size, its layout as one flat vector, its computation and its stored checkpoint."""
