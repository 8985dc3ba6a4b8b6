"""Docstrings of the standard library and their summaries, as a TFDS data set."""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from transfer_gen.data.datasets import docstrings


class DocstringSummary(tfds.core.GeneratorBasedBuilder):
  """Body of a docstring and its first line, the PEP 257 summary; 2,200 pairs.

  Columns `body` and `summary`, without the indentation that all lines share.
  """
  name = "docstring_summary"
  VERSION = tfds.core.Version(docstrings.version())

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self, description=self.__doc__,
        features=tfds.features.FeaturesDict({
            "body": tfds.features.Text(), "summary": tfds.features.Text()}))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager  # Nothing is downloaded.
    return {
        split: iter([
            (pair.key, {"body": pair.body, "summary": pair.summary})
            for pair in pairs])
        for split, pairs in docstrings.pairs().items()}

  def _generate_examples(self) -> Iterator:
    raise AssertionError("_split_generators holds the examples")
