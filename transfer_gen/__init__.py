"""Moves what a trained sequence generator knows into a new one."""
