"""Adapters: small params beside the kernels of a model, and how they act."""
