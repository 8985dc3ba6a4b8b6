"""Data sets that the package builds itself, with TensorFlow Datasets."""
