"""Hidden states of a model's frozen beginning: made once, read in every epoch.

Axes: N rows of a bucket, B rows of a batch, T positions, D width of a layer's output.

A bucket's rows lie in parts, each a TFDS data set in array_record form, in a folder
named by the fingerprint of all that they depend on. A part is there whole or not at
all: a run that was killed goes on with the part that it was in.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import json
import math
import sys
import time
from typing import Any

from etils import epath
import jax
import jaxlib
import numpy as np
import tqdm

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.config import codec
from transfer_gen.data import catalog
from transfer_gen.data import pipeline
from transfer_gen.models import names
from transfer_gen.models import taps
from transfer_gen.transfer import resolve

_FOLDER = "features"  # In a workdir.
_SPLITS = ("train", "validation")
_PART = 128 * 2**20  # Bytes; TFDS holds as many in memory.
_ROUNDED = 2.0 ** -8  # Of a number in bfloat16, at most.
_Params = Mapping[str, jax.Array]
_Make = Callable[[np.ndarray], np.ndarray]


def first(run: config_lib.Run, rows: Sequence[resolve.Row]) -> int:
  """The layer that training starts from; 0: features are not asked for.

  It is the lowest one of which a leaf ever learns: all before it are stored.

  Raises:
    errors.UserError: If the run cannot have features, or nothing before a layer is
      frozen; names the first leaf that learns.
  """
  if run.features is None:
    return 0
  _check(run)
  learning = [row for row in rows if row.unfreeze_step is not None]
  layers = [layer for row in learning
            if (layer := names.layer_number(row.name)) is not None]
  early = [row for row in learning
           if names.layer_number(row.name) in (None, 0)
           and row.name.split("/")[0] not in names.AFTER_LAYERS]
  if early:
    row = early[0]
    how = ("Freeze the embedding and the first layers with unfreeze_step=None"
           if row.table is None else
           "These are rows of tokens that the source has not: take its tokenizer")
    if row.name.startswith("embed/") and getattr(run.model, "tied", False):
      how += ". The output is this table: model.tied=False gives it one of its own"
    raise errors.UserError(
        f"features: no beginning of the model is frozen: {row.name} learns from step"
        f" {row.unfreeze_step} (group {row.group!r}). {how}. Or set features=None.")
  return min(layers, default=run.model.num_layers)


def attach(
    run: config_lib.Run, module: Any, layer: int, data: pipeline.Prepared,
    params: _Params, workdir: epath.PathLike,
) -> pipeline.Prepared:
  """The data with `hidden` dtype[B, T, D] in the batches to train and validate on.

  Writes what is not there yet, and compares a share with a live pass.

  Args:
    run: Its `features` say where and how.
    module: The model.
    layer: Of `first`; 0: the data as it is.
    data: Its rows.
    params: The model's.
    workdir: Of the run.

  Raises:
    errors.UserError: If what is stored is not what the model computes.
  """
  if not layer:
    return data
  make = _Maker(jax.jit(beginning(module, layer)), dict(params))
  root = epath.Path(run.features.path or epath.Path(workdir) / _FOLDER)
  folder = root.expanduser() / _fingerprint(run, layer, data, params)
  stored = {split: [_Bucket(folder / f"{split}_{number}", inputs, make, run)
                    for number, inputs in enumerate(data.inputs(split))]
            for split in _SPLITS}
  buckets = [bucket for found in stored.values() for bucket in found]
  _write(buckets, layer, folder)
  for split, found in stored.items():
    for bucket in found:
      bucket.compare(run.features.check, folder)
  return data.with_hidden(stored)


def beginning(module: Any, layer: int) -> Callable[[_Params, Any], jax.Array]:
  """What is stored of a batch: from flat params and i32[B, T] to dtype[B, T, D]."""
  def begin(params, inputs):
    with taps.listening(hidden=(layer - 1,)) as seen:
      module.apply({"params": tree.unflatten(params)}, inputs)
    return seen.hidden[layer - 1]
  return begin


class _Bucket:
  """Hidden states of the rows of one bucket; i64[B] indexes them."""

  def __init__(
      self, folder: epath.Path, inputs: np.ndarray, make: _Make, run: config_lib.Run):
    self.inputs, self._folder, self._make = inputs, folder, make
    self._batch = run.train.batch_size
    self._dtype = np.dtype(jax.numpy.dtype(run.features.dtype))
    self._row = make.shape(inputs.shape[1])
    nbytes = math.prod(self._row) * self._dtype.itemsize
    # Whole batches, so that a live pass can repeat them.
    self._size = max(_PART // (nbytes * self._batch), 1) * self._batch
    self.nbytes = nbytes * len(inputs)
    self._open: dict[int, Any] = {}

  def __getitem__(self, index: np.ndarray) -> np.ndarray:
    """dtype[B, T, D]."""
    out = np.empty((len(index), *self._row), self._dtype)
    for part in np.unique(index // self._size):
      places = np.flatnonzero(index // self._size == part)
      builder, rows = self._opened(int(part))
      found = rows.__getitems__((index[places] % self._size).tolist())
      for place, example in zip(places, found):
        out[place] = builder.value(example)
    return out

  def missing(self) -> list[int]:
    """Parts that are not there."""
    return [part for part in range(-(-len(self.inputs) // self._size))
            if not self._builder(part).is_prepared()]

  def rows_of(self, part: int) -> range:
    """Numbers of its rows."""
    return range(part * self._size, min((part + 1) * self._size, len(self.inputs)))

  def write(self, part: int, told: Callable[[int], object]) -> None:
    """Makes a part; `told` is called with how many rows there are more."""
    numbers = self.rows_of(part)

    def rows() -> Iterator[np.ndarray]:
      for start in range(numbers.start, numbers.stop, self._batch):
        values = self.live(start).astype(self._dtype)[:numbers.stop - start]
        yield from values
        told(len(values))

    with catalog.quiet():
      self._builder(part, rows).download_and_prepare()

  def live(self, start: int) -> np.ndarray:
    """dtype[B, T, D] of the batch that begins with a row; the last row fills it."""
    index = np.minimum(np.arange(start, start + self._batch), len(self.inputs) - 1)
    return self._make(self.inputs[index])

  def compare(self, share: float, folder: epath.Path) -> None:
    """Computes a share of the batches again.

    Raises:
      errors.UserError: If one differs by more than rounding to the stored dtype.
    """
    starts = range(0, len(self.inputs), self._batch)
    count = min(max(math.ceil(share * len(starts)), 1), len(starts))
    for i in range(count):
      start = starts[i * len(starts) // count]
      rows = np.arange(start, min(start + self._batch, len(self.inputs)))
      stored = self[rows].astype(np.float32)
      live = self.live(start)[:len(rows)].astype(np.float32)
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
    # TFDS takes a third of a second to import: only those with features pay.
    from transfer_gen.data.datasets import hidden_states  # pylint: disable=g-import-not-at-top
    return hidden_states.HiddenStates(
        f"part_{part:05d}", self._row, self._dtype, self._folder, rows)


@dataclasses.dataclass(frozen=True)
class _Maker:
  """The beginning of the model, at one batch size."""
  run_fn: Callable[[_Params, Any], jax.Array]
  params: _Params

  def __call__(self, inputs: np.ndarray) -> np.ndarray:
    """i32[B, T] to dtype[B, T, D]."""
    return np.asarray(self.run_fn(self.params, inputs))

  def shape(self, length: int) -> tuple[int, int]:
    """(T, D)."""
    one = jax.ShapeDtypeStruct((1, length), np.int32)
    return jax.eval_shape(self.run_fn, self.params, one).shape[1:]


def _write(buckets: Sequence[_Bucket], layer: int, folder: epath.Path) -> None:
  todo = [(bucket, part) for bucket in buckets for part in bucket.missing()]
  if not todo:
    return
  start, total = time.perf_counter(), sum(len(b.rows_of(part)) for b, part in todo)
  print(f"features: {total} rows through the embedding and {layer} layers,"
        f" {sum(b.nbytes for b in buckets) / 2**20:.1f} MB in all, to {folder}",
        flush=True)
  with tqdm.tqdm(total=total, unit="row", desc="features", leave=False,
                 disable=None if sys.stderr.isatty() else True) as bar:
    for bucket, part in todo:
      bucket.write(part, bar.update)
  print(f"features: written in {time.perf_counter() - start:.1f} s", flush=True)


def _fingerprint(run, layer, data, params) -> str:
  """Of all that the hidden states depend on, and how they are stored."""
  device = jax.devices()[0]
  facts = {"model": codec.model_to_json(run.model), "layer": layer,
           "adapters": [codec.adapter_to_json(one) for one in run.adapters],
           "dtype": run.features.dtype, "batch": run.train.batch_size,
           "parallel": dataclasses.asdict(run.parallel),
           "jaxlib": jaxlib.__version__, "device": device.device_kind, "part": _PART}
  digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
  for name, value in sorted(params.items()):
    number = names.layer_number(name)
    if name.split("/")[0] not in names.AFTER_LAYERS and (
        number is None or number < layer):
      digest.update(f"{name} {value.shape}".encode())
      digest.update(np.ascontiguousarray(value).data)
  for split in _SPLITS:
    for inputs in data.inputs(split):
      digest.update(f"{split} {inputs.shape}".encode())
      digest.update(np.ascontiguousarray(inputs).data)
  return digest.hexdigest()[:16]


def _check(run: config_lib.Run) -> None:
  features, model = run.features, run.model
  chain = not any(getattr(model, field, False) for field in (
      "window", "attention", "bidirectional"))
  for wrong, why in (
      (features.dtype not in ("float32", "bfloat16"),
       f"features.dtype is {features.dtype!r}, must be 'float32' or 'bfloat16'"),
      (not 0 <= features.check <= 1,
       f"features.check is {features.check}, must be in [0, 1]"),
      (model.dropout > 0,
       f"features: model.dropout is {model.dropout}, and what is stored once cannot"
       " be dropped anew in each epoch. Set it to 0, or features=None"),
      (model.encodes,
       "features: the model has an encoder, and only a chain of layers has a"
       " beginning. Set features=None"),
      (isinstance(model, config_lib.Recurrent) and not chain,
       "features: the model has a window, attention over its layers or cells that"
       " read backwards, and only a chain of layers has a beginning. Set"
       " features=None")):
    if wrong:
      raise errors.UserError(f"{why}.")
