"""Reads and writes checkpoint files, whoever wrote them; knows nothing of models."""
