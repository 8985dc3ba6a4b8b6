"""Generates text: sampling and beam search."""
