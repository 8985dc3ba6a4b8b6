"""Scores of texts and losses, with intervals and tests; knows no models."""
