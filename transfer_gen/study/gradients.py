"""Gradients before training: their size layer by layer, and whether two texts agree.

The size relative to the params is that of Lee et al. (2023).
"""

from collections.abc import Mapping
import functools

import jax
import numpy as np

from transfer_gen import tree
from transfer_gen.metrics import transferability
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import initial
from transfer_gen.train import objectives
from transfer_gen.transfer import groups as groups_lib

BATCHES = 8  # Of each text.


def relative_gradients(assembled: assembled_lib.Assembled) -> dict[str, float]:
  """Computes ||gradient|| / ||params|| of each group of `groups.by_layer`.

  The gradient is that of the mean loss of a few training batches at the start of
  training, without dropout.
  """
  params = initial.params(assembled)
  total, count = _summed(assembled, params, assembled.data)
  groups = groups_lib.by_layer(assembled.run.model)
  names = [group.params for group in groups]
  squares = np.zeros((2, len(groups)))
  for name, value in params.items():
    index = next(i for i, pattern in enumerate(names) if tree.match([pattern], name))
    # float64, because a layer has millions of squares, most of them tiny.
    squares[0, index] += np.square(np.asarray(total[name], np.float64) / count).sum()
    squares[1, index] += np.square(np.asarray(value, np.float64)).sum()
  # A group whose params are all zero would otherwise divide by zero.
  ratios = np.sqrt(squares[0] / np.maximum(squares[1], 1e-30))
  return {group.name: float(ratio) for group, ratio in zip(groups, ratios)}


def alignment(
    assembled: assembled_lib.Assembled, params: Mapping[str, jax.Array],
    source: assembled_lib.inputs_lib.Prepared) -> float:
  """Returns the cosine between the gradients on a source's text and on the target's.

  Both are those of `relative_gradients`, at the params as they were transferred, over
  the leaves that read a source. A leaf that starts fresh does not count: it has to
  learn the same from any text, such as how often each token occurs.

  Args:
    assembled: The run.
    params: Its params before the first step.
    source: The source's text, in tokens of the run.
  """
  reads = {row.name for row in assembled.rows if row.sources}
  found = [{name: np.asarray(value) for name, value in _summed(
      assembled, params, data)[0].items() if name in reads}
           for data in (source, assembled.data)]
  return transferability.gradient_alignment(*found)


def _summed(assembled, params, data):
  """Gradient of the summed loss of a few batches, and the number of their targets."""
  key, run = initial.keys(assembled.run.seed)[0], assembled.run
  gradient = _gradient(objectives.next_token(assembled.model, False))
  batches = data.train_batches(run.train.rows, run.seed)
  # The gradients of sums are added up, so each target counts the same whatever batch it
  # is in.
  total = jax.tree.map(np.zeros_like, jax.device_get(params))
  count = 0.0
  for _ in range(BATCHES):
    batch = next(batches)
    total = jax.tree.map(np.add, total, gradient(params, batch, key))
    count += batch["weights"].sum()
  return total, count


@functools.lru_cache(maxsize=8)  # Runs of one model, with other sources, compile once.
def _gradient(nll_fn):
  """The gradient of the summed loss of a batch, as a compiled program."""
  def loss(params, batch, key):
    return (nll_fn(params, batch, key) * batch["weights"]).sum()
  return jax.jit(jax.grad(loss))
