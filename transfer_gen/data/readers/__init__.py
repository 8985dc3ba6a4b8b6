"""Readers of the user's own files, one module for each kind of format."""
