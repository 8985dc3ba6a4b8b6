"""Experiments: one question a file, each with a config that the commands run."""
