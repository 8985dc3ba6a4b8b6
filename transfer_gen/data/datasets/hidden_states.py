"""What a model's frozen beginning gives the rest of it, as a TFDS data set.

`train.stored_features` writes and reads them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from transfer_gen.data import datasets

_SPLIT = "rows"
_Row = Mapping[str, np.ndarray]


class HiddenStates(tfds.core.GeneratorBasedBuilder):
  """Consecutive rows in their order, each of some arrays by name, as array_record."""
  name = "hidden_states"
  VERSION = tfds.core.Version("1.0.0")

  def __init__(
      self, part: str, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype,
      data_dir: epath.Path, rows: Callable[[], Iterator[_Row]] | None = None):
    """Initializes the builder of one part.

    Args:
      part: Name of the part, which is also its folder in `data_dir`.
      shapes: Shapes of a row's arrays, by name.
      dtype: Dtype of all of them.
      data_dir: Folder that holds the parts.
      rows: Returns an iterator over the rows. None if the part is already written.
    """
    datasets.hush()
    self._shapes, self._dtype, self._rows = dict(shapes), np.dtype(dtype), rows
    super().__init__(
        config=tfds.core.BuilderConfig(name=part, version=self.VERSION),
        data_dir=data_dir, file_format="array_record")

  def open(self) -> Any:
    """Returns the stored rows; `__getitems__` takes a list of their numbers."""
    return self.as_data_source(_SPLIT)

  def values(self, example: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of a stored row, by name."""
    return {name: value.view(self._dtype) for name, value in example.items()}

  def _info(self) -> tfds.core.DatasetInfo:
    # TFDS has no bfloat16, so the bits are stored as unsigned integers. Shuffling is
    # off, because rows are found by their numbers.
    bits = np.dtype(f"uint{8 * self._dtype.itemsize}")
    return tfds.core.DatasetInfo(
        builder=self, description=self.__doc__, disable_shuffling=True,
        features=tfds.features.FeaturesDict({name: tfds.features.Tensor(
            shape=shape, dtype=bits, encoding="bytes")
                                             for name, shape in self._shapes.items()}))

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    del dl_manager  # Nothing is downloaded.
    assert self._rows is not None, "rows that are there need not be made"
    bits = np.dtype(f"uint{8 * self._dtype.itemsize}")
    return {_SPLIT: (
        (number, {name: value.view(bits) for name, value in row.items()})
        for number, row in enumerate(self._rows()))}

  def _generate_examples(self) -> Iterator:
    raise AssertionError("_split_generators holds the examples")
