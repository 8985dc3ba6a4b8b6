"""What a beginning gives of the rows of one bucket, in parts on disk.

Axes: N rows of a bucket, B rows of a batch, T positions.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
from typing import Any

from etils import epath
import jax
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import catalog

# Size of a part in bytes. TFDS holds a part in memory while it is written, and a run
# that is killed loses at most one.
PART = 128 * 2**20
# Largest relative error of rounding to bfloat16, which has 8 significant bits.
_ROUNDED = 2.0 ** -8
_Params = Mapping[str, jax.Array]
_Batch = Mapping[str, np.ndarray]


class Bucket:
  """What is stored of the rows of one bucket; i64[B] indexes them."""

  def __init__(
      self, folder: epath.Path, read: _Batch, make: "Maker", run: config_lib.Run):
    assert run.features is not None, "asked for"
    self._read, self._folder, self._make = dict(read), folder, make
    # All that has positions has those of the bucket, on both sides of a pair.
    self._count, length = next(iter(read.values())).shape[:2]
    self._batch = run.train.rows(length)
    self._dtype = np.dtype(jax.numpy.dtype(run.features.dtype))
    self._row = make.shapes(read)
    nbytes = sum(map(math.prod, self._row.values())) * self._dtype.itemsize
    # Whole batches, so that a live pass can repeat them.
    self._size = max(PART // (nbytes * self._batch), 1) * self._batch
    self.nbytes = nbytes * self._count
    self._open: dict[int, Any] = {}

  def __getitem__(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what is stored of rows i64[B], dtype[B, ...] by name."""
    out = {name: np.empty((len(index), *shape), self._dtype)
           for name, shape in self._row.items()}
    # A shuffled batch touches several parts; each is asked once for all its rows.
    for part in np.unique(index // self._size):
      places = np.flatnonzero(index // self._size == part)
      builder, rows = self._opened(int(part))
      found = rows.__getitems__((index[places] % self._size).tolist())
      for place, example in zip(places, found):
        for name, value in builder.values(example).items():
          out[name][place] = value
    return out

  def missing(self) -> list[int]:
    """Returns the numbers of the parts that are not written yet."""
    return [part for part in range(-(-self._count // self._size))
            if not self._builder(part).is_prepared()]

  def rows_of(self, part: int) -> range:
    """Returns the numbers of the rows that a part holds."""
    return range(part * self._size, min((part + 1) * self._size, self._count))

  def write(self, part: int, progress: Callable[[int], object]) -> None:
    """Computes and writes a part.

    Args:
      part: Number of the part.
      progress: Called after each batch, with the number of rows that were added.
    """
    numbers = self.rows_of(part)

    def rows() -> Iterator[dict[str, np.ndarray]]:
      for start in range(numbers.start, numbers.stop, self._batch):
        count = min(self._batch, numbers.stop - start)
        values = {name: value.astype(self._dtype)
                  for name, value in self.live(start).items()}
        for row in range(count):
          yield {name: value[row] for name, value in values.items()}
        progress(count)

    with catalog.quiet():
      self._builder(part, rows).download_and_prepare()

  def live(self, start: int) -> dict[str, np.ndarray]:
    """Computes what is stored of the batch that begins with a row, by name.

    Past the end of the bucket the last row is repeated.
    """
    # Always B rows: one compiled program, and the same rounding in each pass.
    index = np.minimum(np.arange(start, start + self._batch), self._count - 1)
    return self._make({name: value[index] for name, value in self._read.items()})

  def compare(self, share: float, folder: epath.Path) -> None:
    """Computes a share of the batches again and compares them with what is stored.

    Args:
      share: Share of the batches, in [0, 1]; at least one batch is compared.
      folder: Folder that the error message names.

    Raises:
      errors.UserError: If one differs by more than rounding to the stored dtype.
    """
    starts = range(0, self._count, self._batch)
    count = min(max(math.ceil(share * len(starts)), 1), len(starts))
    for i in range(count):
      # Spread evenly over the bucket, so that the parts are sampled alike.
      start = starts[i * len(starts) // count]
      rows = np.arange(start, min(start + self._batch, self._count))
      stored, live = self[rows], self.live(start)
      for name, found in stored.items():
        self._compare(
            found.astype(np.float32), live[name][:len(rows)].astype(np.float32), start,
            folder)

  def _compare(self, stored, live, start, folder):
    """Compares one array of a batch with what `live` computed."""
    # These are the batches that `write` computed, with the same program: in float32 no
    # difference is allowed at all.
    slack = 0 if self._dtype == np.float32 else _ROUNDED * np.abs(live)
    if not (np.abs(stored - live) <= slack).all():
      raise errors.UserError(
          f"{folder}: row {start} and those after it differ from what the model"
          f" computes by up to {np.abs(stored - live).max():.2g}. They were damaged,"
          " or made on another machine: delete the folder, and they are made again.")

  def _opened(self, part: int) -> tuple[Any, Any]:
    if part not in self._open:
      builder = self._builder(part)
      self._open[part] = builder, builder.open()
    return self._open[part]

  def _builder(self, part: int, rows=None) -> Any:
    # TFDS takes a third of a second to import: only runs with features pay for it.
    from transfer_gen.data.datasets import hidden_states
    return hidden_states.HiddenStates(
        f"part_{part:05d}", self._row, self._dtype, self._folder, rows)


@dataclasses.dataclass(frozen=True)
class Maker:
  """Computes what is stored of batches.

  Attributes:
    run_fn: The outputs of a beginning of the model, see `beginnings`.
    params: Flat params of the model.
  """
  run_fn: Callable[[_Params, Any], dict[str, jax.Array]]
  params: _Params

  def __call__(self, batch: _Batch) -> dict[str, np.ndarray]:
    """Maps what the beginning reads of a batch to what it gives, dtype[B, ...]."""
    return jax.tree.map(np.asarray, self.run_fn(self.params, batch))

  def shapes(self, batch: _Batch) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of what is stored of a row, by name."""
    one = {name: jax.ShapeDtypeStruct((1, *value.shape[1:]), value.dtype)
           for name, value in batch.items()}
    return {name: found.shape[1:] for name, found in jax.eval_shape(
        self.run_fn, self.params, one).items()}
