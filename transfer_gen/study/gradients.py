"""Size of each layer's gradient relative to its params (Lee et al., 2023)."""

import jax
import numpy as np

from transfer_gen import tree
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import initial
from transfer_gen.train import objectives
from transfer_gen.transfer import groups as groups_lib

_BATCHES = 8


def relative_gradients(assembled: assembled_lib.Assembled) -> dict[str, float]:
  """Computes ||gradient|| / ||params|| of each group of `groups.by_layer`.

  The gradient is that of the mean loss of a few training batches at the start of
  training, without dropout.
  """
  key, params = initial.keys(assembled.run.seed)[0], initial.params(assembled)
  nll_fn = objectives.next_token(assembled.model, False)

  @jax.jit
  def gradient(params, batch):
    loss = lambda p: (nll_fn(p, batch, key) * batch["weights"]).sum()
    return jax.grad(loss)(params)

  run = assembled.run
  batches = assembled.data.train_batches(run.train.rows, run.seed)
  # The gradients of sums are added up and divided by the number of targets once, so
  # each target counts the same whatever batch it is in.
  total = jax.tree.map(np.zeros_like, jax.device_get(params))
  count = 0.0
  for _ in range(_BATCHES):
    batch = next(batches)
    found = gradient(params, batch)
    total = jax.tree.map(np.add, total, found)
    count += batch["weights"].sum()
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
