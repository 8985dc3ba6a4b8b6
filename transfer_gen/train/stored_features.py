"""What a model's frozen beginning gives the rest: made once, read in every epoch.

Axes: N rows of a bucket, B rows of a batch.

A bucket's rows lie in parts, each a TFDS data set in array_record form, in a folder
named by the fingerprint of all that they depend on. A part is there whole or not at
all: a run that was killed goes on with the part that it was in.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
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
from transfer_gen.config import codec
from transfer_gen.data import pipeline
from transfer_gen.models import beginnings
from transfer_gen.train import buckets as buckets_lib

_FOLDER = "features"  # In a workdir.
_SPLITS = ("train", "validation")
_Params = Mapping[str, jax.Array]


def attach(
    run: config_lib.Run, module: Any, beginning: beginnings.Beginning | None,
    data: pipeline.Prepared, params: _Params, workdir: epath.PathLike,
) -> pipeline.Prepared:
  """Adds what a beginning gives to the batches of the training and validation data.

  What is not on disk yet is computed and written. A share of all of it is then computed
  again and compared.

  Args:
    run: Config of the run; `features` gives the folder, dtype and share to compare.
    module: The model.
    beginning: As `features.beginning` returns it. If None, `data` is returned as it is.
    data: The tokenized data.
    params: Flat params of the model.
    workdir: Workdir of the run.

  Returns:
    The data, whose batches now have the entries of `beginning`.

  Raises:
    errors.UserError: If what is stored differs from what the model computes.
  """
  if beginning is None:
    return data
  assert run.features is not None  # Otherwise there is no beginning.
  make = buckets_lib.Maker(
      jax.jit(functools.partial(beginning.outputs, module)), dict(params))
  root = epath.Path(run.features.path or epath.Path(workdir) / _FOLDER)
  folder = root.expanduser() / _fingerprint(run, beginning, data, params)
  stored = {split: [buckets_lib.Bucket(folder / f"{split}_{number}", read, make, run)
                    for number, read in enumerate(data.inputs(split, beginning.reads))]
            for split in _SPLITS}
  buckets = [bucket for found in stored.values() for bucket in found]
  _write(buckets, beginning, folder)
  # Also right after writing: this finds a disk that lost what it was given.
  for found in stored.values():
    for bucket in found:
      bucket.compare(run.features.check, folder)
  return data.with_hidden(stored)


def _write(
    buckets: Sequence[buckets_lib.Bucket], beginning: beginnings.Beginning,
    folder: epath.Path) -> None:
  todo = [(bucket, part) for bucket in buckets for part in bucket.missing()]
  if not todo:
    return
  start, total = time.perf_counter(), sum(len(b.rows_of(part)) for b, part in todo)
  print(f"features: {total} rows through {beginning},"
        f" {sum(b.nbytes for b in buckets) / 2**20:.1f} MB in all, to {folder}",
        flush=True)
  # `disable=True` where no terminal shows the bar, so that log files stay readable.
  with tqdm.tqdm(total=total, unit="row", desc="features", leave=False,
                 disable=None if sys.stderr.isatty() else True) as bar:
    for bucket, part in todo:
      bucket.write(part, bar.update)
  print(f"features: written in {time.perf_counter() - start:.1f} s", flush=True)


def _fingerprint(run, beginning, data, params) -> str:
  """Returns a hash of all that is stored, of what it depends on, and how it is stored.

  Runs with equal hashes share a folder.
  """
  # Device, jaxlib, batch size and mesh change how XLA rounds; `compare` allows no
  # difference in float32. The size of parts is how rows are found in the folder.
  device = jax.devices()[0]
  facts = {"model": codec.model_to_json(run.model), "beginning": str(beginning),
           "adapters": [codec.adapter_to_json(one) for one in run.adapters],
           "dtype": run.features.dtype,
           "batch": run.train.batch_size or f"{run.train.batch_tokens} tokens",
           "parallel": dataclasses.asdict(run.parallel),
           "jaxlib": jaxlib.__version__, "device": device.device_kind,
           "part": buckets_lib.PART}
  digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
  for name, value in sorted(params.items()):
    # Only params of the beginning count: runs that differ above it share a folder.
    if beginning.holds(name):
      digest.update(f"{name} {value.shape}".encode())
      digest.update(np.ascontiguousarray(value).data)
  for split in _SPLITS:
    for read in data.inputs(split, beginning.reads):
      # Positions, of packed rows, say where documents begin.
      for name, value in read.items():
        digest.update(f"{split} {name} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
  return digest.hexdigest()[:16]
