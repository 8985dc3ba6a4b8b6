"""Experiments: each file asks one question and defines a study that answers it."""
