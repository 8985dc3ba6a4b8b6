"""Hidden states of a model's frozen beginning: made once, read in every epoch.

Axes: N rows of a bucket, B rows of a batch, T positions, D width of a layer's output.

A bucket's rows lie in parts, each a TFDS data set in array_record form, in a folder
named by the fingerprint of all that they depend on. A part is there whole or not at
all: a run that was killed goes on with the part that it was in.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import sys
import time
from typing import Any

from etils import epath
import jax
import jaxlib
import numpy as np
import tqdm

from transfer_gen import config as config_lib
from transfer_gen.config import codec, names
from transfer_gen.data import pipeline
from transfer_gen.train import buckets as buckets_lib

_FOLDER = "features"  # In a workdir.
_SPLITS = ("train", "validation")
_Params = Mapping[str, jax.Array]


def attach(
    run: config_lib.Run, module: Any, layer: int, data: pipeline.Prepared,
    params: _Params, workdir: epath.PathLike,
) -> pipeline.Prepared:
  """Adds `hidden` dtype[B, T, D] to the batches of the training and validation data.

  Hidden states that are not on disk yet are computed and written. A share of all of
  them is then computed again and compared.

  Args:
    run: Config of the run; `features` gives the folder, dtype and share to compare.
    module: The model.
    layer: First layer to train, as `features.first_layer` returns it. If it is 0,
      `data` is returned as it is.
    data: The tokenized data.
    params: Flat params of the model.
    workdir: Workdir of the run.

  Returns:
    The data, whose batches now have `hidden`.

  Raises:
    errors.UserError: If stored hidden states differ from those that the model computes.
  """
  if not layer:
    return data
  assert run.features is not None  # Otherwise `layer` is 0.
  make = buckets_lib.Maker(jax.jit(buckets_lib.beginning(module, layer)), dict(params))
  root = epath.Path(run.features.path or epath.Path(workdir) / _FOLDER)
  folder = root.expanduser() / _fingerprint(run, layer, data, params)
  stored = {split: [buckets_lib.Bucket(folder / f"{split}_{number}", read, make, run)
                    for number, read in enumerate(data.inputs(split))]
            for split in _SPLITS}
  buckets = [bucket for found in stored.values() for bucket in found]
  _write(buckets, layer, folder)
  # Also right after writing: this finds a disk that lost what it was given.
  for found in stored.values():
    for bucket in found:
      bucket.compare(run.features.check, folder)
  return data.with_hidden(stored)


def _write(
    buckets: Sequence[buckets_lib.Bucket], layer: int, folder: epath.Path) -> None:
  todo = [(bucket, part) for bucket in buckets for part in bucket.missing()]
  if not todo:
    return
  start, total = time.perf_counter(), sum(len(b.rows_of(part)) for b, part in todo)
  print(f"features: {total} rows through the embedding and {layer} layers,"
        f" {sum(b.nbytes for b in buckets) / 2**20:.1f} MB in all, to {folder}",
        flush=True)
  # `disable=True` where no terminal shows the bar, so that log files stay readable.
  with tqdm.tqdm(total=total, unit="row", desc="features", leave=False,
                 disable=None if sys.stderr.isatty() else True) as bar:
    for bucket, part in todo:
      bucket.write(part, bar.update)
  print(f"features: written in {time.perf_counter() - start:.1f} s", flush=True)


def _fingerprint(run, layer, data, params) -> str:
  """Returns a hash of all that the hidden states depend on, and of how they are stored.

  Runs with equal hashes share a folder.
  """
  # Device, jaxlib, batch size and mesh change how XLA rounds; `compare` allows no
  # difference in float32. The size of parts is how rows are found in the folder.
  device = jax.devices()[0]
  facts = {"model": codec.model_to_json(run.model), "layer": layer,
           "adapters": [codec.adapter_to_json(one) for one in run.adapters],
           "dtype": run.features.dtype,
           "batch": run.train.batch_size or f"{run.train.batch_tokens} tokens",
           "parallel": dataclasses.asdict(run.parallel),
           "jaxlib": jaxlib.__version__, "device": device.device_kind,
           "part": buckets_lib.PART}
  digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
  for name, value in sorted(params.items()):
    # Only params of the beginning count: runs that differ above it share a folder.
    if _is_below(name, layer):
      digest.update(f"{name} {value.shape}".encode())
      digest.update(np.ascontiguousarray(value).data)
  for split in _SPLITS:
    for read in data.inputs(split):
      # Positions, of packed rows, say where documents begin.
      for value in read.values():
        digest.update(f"{split} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
  return digest.hexdigest()[:16]


def _is_below(name: str, layer: int) -> bool:
  number = names.layer_number(name)
  return name.split("/")[0] not in names.AFTER_LAYERS and (
      number is None or number < layer)
