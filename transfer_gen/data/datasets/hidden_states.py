"""Hidden states of a model's first layers, as a TFDS data set.

`train.stored_features` writes and reads them.
"""

from collections.abc import Callable, Iterator
from typing import Any

from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from transfer_gen.data import datasets

_SPLIT = "rows"


class HiddenStates(tfds.core.GeneratorBasedBuilder):
  """Consecutive rows in their order, each with `hidden` [T, D], as array_record."""
  name = "hidden_states"
  VERSION = tfds.core.Version("1.0.0")

  def __init__(
      self, part: str, shape: tuple[int, int], dtype: np.dtype, data_dir: epath.Path,
      rows: Callable[[], Iterator[np.ndarray]] | None = None):
    """Initializes the builder of one part.

    Args:
      part: Name of the part, which is also its folder in `data_dir`.
      shape: (T, D).
      dtype: Dtype of the rows.
      data_dir: Folder that holds the parts.
      rows: Returns an iterator over the rows. None if the part is already written.
    """
    datasets.hush()
    self._shape, self._dtype, self._rows = shape, np.dtype(dtype), rows
    super().__init__(
        config=tfds.core.BuilderConfig(name=part, version=self.VERSION),
        data_dir=data_dir, file_format="array_record")

  def open(self) -> Any:
    """Returns the stored rows; `__getitems__` takes a list of their numbers."""
    return self.as_data_source(_SPLIT)

  def value(self, example: dict[str, Any]) -> np.ndarray:
    """Returns the hidden states dtype[T, D] of a stored row."""
    return example["hidden"].view(self._dtype)

  def _info(self) -> tfds.core.DatasetInfo:
    # TFDS has no bfloat16, so the bits are stored as unsigned integers. Shuffling is
    # off, because rows are found by their numbers.
    bits = np.dtype(f"uint{8 * self._dtype.itemsize}")
    return tfds.core.DatasetInfo(
        builder=self, description=self.__doc__, disable_shuffling=True,
        features=tfds.features.FeaturesDict({"hidden": tfds.features.Tensor(
            shape=self._shape, dtype=bits, encoding="bytes")}))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager  # Nothing is downloaded.
    assert self._rows is not None, "rows that are there need not be made"
    bits = np.dtype(f"uint{8 * self._dtype.itemsize}")
    return {_SPLIT: ((number, {"hidden": row.view(bits)})
                     for number, row in enumerate(self._rows()))}

  def _generate_examples(self) -> Iterator:
    raise AssertionError("_split_generators holds the examples")
