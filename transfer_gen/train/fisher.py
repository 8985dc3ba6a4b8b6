"""Diagonal Fisher information, estimated from data.

Axes: B batch, T position.
"""

from collections.abc import Iterable, Mapping
import functools
import io

from etils import epath
from flax import linen as nn
import jax
from jax import numpy as jnp
import numpy as np

from transfer_gen import errors
from transfer_gen.train import objectives

_Batch = Mapping[str, jax.Array]


def estimate(
    model: nn.Module, params: Mapping[str, jax.Array], batches: Iterable[_Batch]
) -> dict[str, jax.Array]:
  """Mean over rows of the squared gradient of a row's log likelihood.

  This is the diagonal of the empirical Fisher information (Kirkpatrick et al., 2017;
  on what "empirical" leaves out, Kunstner et al., 2019): the targets are the data's.
  A row's log likelihood is the sum over its tokens. Rows go one by one, so that it
  takes no more memory than a step with a batch of one.

  Args:
    model: Maps i32[B, T] to logits.
    params: Flat, by name.
    batches: Of `train.step`; rows of no weight do not count.

  Returns:
    f32 of each param's shape, by name.

  Raises:
    errors.UserError: If no row has weight.
  """
  total = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), dict(params))
  count, add = 0, jax.jit(functools.partial(_add, objectives.next_token(model, False)))
  for batch in batches:
    total = add(total, dict(params), dict(batch))
    count += int((np.asarray(batch["weights"]).sum(-1) > 0).sum())
  if not count:
    raise errors.UserError("fisher.estimate: no row of the batches has weight.")
  return {name: x / count for name, x in total.items()}


def save(path: epath.PathLike, fisher: Mapping[str, jax.Array]) -> None:
  """Writes an estimate as `.npz`, for `plan.EWC`."""
  buffer = io.BytesIO()
  np.savez(buffer, **{name: np.asarray(x) for name, x in fisher.items()})
  epath.Path(path).write_bytes(buffer.getvalue())


def _add(nll_fn, total, params, batch):
  def likelihood(params, row):
    alone = jax.tree.map(lambda x: x[None], row)
    return -(nll_fn(params, alone, None) * alone["weights"]).sum()

  def one(total, row):
    grads = jax.grad(likelihood)(params, row)
    return jax.tree.map(
        lambda sums, g: sums + jnp.square(g.astype(jnp.float32)), total, grads), None

  return jax.lax.scan(one, total, batch)[0]
