"""Models as Flax modules: Transformers and recurrent models."""
