"""How the checkpoints of each known architecture map to our names and axes."""
