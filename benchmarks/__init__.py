"""Benchmarks of speed, memory and robustness, compared with peers where they exist."""
