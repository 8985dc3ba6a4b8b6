"""Prose of the running Python's standard library, as a TFDS data set."""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from transfer_gen.data.datasets import docstrings


class PythonDocs(tfds.core.GeneratorBasedBuilder):
  """Docstrings of all modules, and the topics that `help()` shows; about 2 MB.

  It contains no text of the validation and test splits of `docstring_summary`. The only
  column is `text`.
  """
  name = "python_docs"
  VERSION = tfds.core.Version(docstrings.version())

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self, description=self.__doc__,
        features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager  # Nothing is downloaded.
    return {
        split: iter([(text.key, {"text": text.text}) for text in texts])
        for split, texts in docstrings.prose().items()}

  def _generate_examples(self) -> Iterator:
    raise AssertionError("_split_generators holds the examples")
