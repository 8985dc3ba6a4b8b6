"""Writes any number of texts: in batches of fixed sizes, over all devices.

Axes: B rows of a batch.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import sharding
from transfer_gen.generate import beam
from transfer_gen.generate import prefill
from transfer_gen.generate import sampling
from transfer_gen.models import registry

Texts = prefill.Texts
# Batches that save more time by being resized than its programs take to compile.
_MANY = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """What texts are written for.

  Attributes:
    prompts: Token ids of each prompt, at least one each.
    encoder_inputs: Token ids that the encoder reads for each prompt; None for a model
      without an encoder.
    budgets: Maximum number of new tokens for each prompt.
    latents: f32[N, Z], a latent for each prompt in place of encoder inputs; None if
      there are none.
  """
  prompts: Texts
  encoder_inputs: Texts | None
  budgets: list[int]
  latents: np.ndarray | None = None

  def take(self, index: list[int]) -> "Inputs":
    """Returns some of the inputs."""
    of = lambda rows: [rows[i] for i in index]
    return Inputs(
        prompts=of(self.prompts), budgets=of(self.budgets),
        encoder_inputs=self.encoder_inputs and of(self.encoder_inputs),
        latents=None if self.latents is None else self.latents[index])

  @property
  def lengths(self) -> list[int]:
    """Number of tokens that are read of each input."""
    return [len(text) for text in self.encoder_inputs or self.prompts]


def write(
    module: registry.Model, params: Mapping[str, Any], inputs: Inputs,
    decoding: config_lib.Decoding, *, only: Sequence[int] | None = None,
    parallel: config_lib.Parallel | None = None, batch_size: int = 64,
    watch: prefill.WatchFn | None = None, every: int = 8,
) -> Iterator[tuple[int, Texts]]:
  """Yields the new tokens for each input, the longest inputs first.

  Inputs are sorted by length, so that little of a batch is padding, and the last batch
  is filled up. So two programs are compiled for each padded length, however many inputs
  there are; and a few more for a length with many batches, which are then resized while
  they are written, see `running.to_end`.

  Args:
    module: A model as `registry.build` returns it.
    params: Its params by name.
    inputs: What texts are written for.
    decoding: How texts are written; `max_tokens` and `end_tokens` must be set.
    only: Indices of the inputs for which texts are written, by default all. What is
      drawn for an input depends on the equal ones before it, so these have to be there.
    parallel: How work is divided over devices; if the devices are others than it
      says, all of them divide the batch. If None, work is done where the params are.
    batch_size: B, rounded up so that devices can divide it and that it holds all texts
      drawn for an input. Fewer inputs make a batch of the next power of two.
    watch: See `sampling.generate`; not called in a beam search.
    every: See `sampling.generate`.

  Yields:
    The index of an input, and its `decoding.num` texts, the best first in a beam
    search, which may find fewer. Greedy texts are all the same.

  Raises:
    errors.UserError: If a setting is out of range or a text too long for the model.
  """
  # Here, so that a misfit is found before the first batch is written.
  prefill.raise_misfits(prefill.find_misfits(
      module, inputs.prompts, inputs.encoder_inputs, inputs.budgets, inputs.latents))
  # Only drawn texts differ from each other.
  copies = decoding.num if decoding.temperature > 0 else 1
  order = sorted(range(len(inputs.prompts)) if only is None else only,
                 key=inputs.lengths.__getitem__, reverse=True)
  salts = _salts(inputs, copies)
  placed, place, devices = _placed(module, params, parallel)
  rows = min(batch_size, prefill.power_of_two(len(order) * copies))
  each = max(rows // copies, 1)  # Inputs of a batch, whose copies stay together.
  size = -(-each * copies // devices) * devices
  batches = [order[start:start + each] for start in range(0, len(order), each)]
  widths = [prefill.padded_size(inputs.lengths[chosen[0]]) for chosen in batches]
  for chosen, width in zip(batches, widths):
    index = [i for i in chosen for _ in range(copies)]
    # Rows that only fill the batch end at once.
    batch = inputs.take(index + index[:1] * (size - len(index)))
    budgets = batch.budgets[:len(index)] + [1] * (size - len(index))
    arguments: Any = dict(
        prompts=batch.prompts, encoder_inputs=batch.encoder_inputs,
        latents=batch.latents, budgets=budgets, decoding=decoding, place=place,
        resize=widths.count(width) >= _MANY)
    if decoding.beams > 1:
      found = [[one.tokens for one in row[:decoding.num]] for row in beam.search(
          module, placed, **arguments)]
    else:
      of = np.resize(salts[chosen].reshape(-1, 2), (size, 2))
      texts = sampling.generate(
          module, placed, salts=of, watch=watch, every=every, **arguments)
      found = [texts[i * copies:(i + 1) * copies] * (decoding.num // copies)
               for i in range(len(chosen))]
    yield from zip(chosen, found)


def _salts(inputs, copies):
  """Returns u32[N, C, 2], the salts of C copies of each input, in the inputs' order."""
  expanded = inputs.take([i for i in range(len(inputs.prompts)) for _ in range(copies)])
  return sampling.row_salts(expanded.prompts, expanded.encoder_inputs).reshape(
      -1, copies, 2)


def _placed(module, params, parallel):
  """Returns params on their devices, how rows are placed, and what divides B."""
  if parallel is None:
    return params, lambda rows: rows, 1
  mesh = sharding.fitting_mesh(parallel.data, parallel.fsdp, parallel.tensor)
  batch = sharding.of_batch(mesh)
  where = sharding.of_params(registry.specs(module), mesh, parallel.rules)
  return (jax.device_put(params, where),
          lambda rows: jax.device_put(rows, batch),
          mesh.shape["data"] * mesh.shape["fsdp"])
