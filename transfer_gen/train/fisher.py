"""The diagonal of the Fisher information, estimated from data.

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
from transfer_gen.formats import whole
from transfer_gen.train import combined

_Batch = Mapping[str, jax.Array]


def estimate(
    model: nn.Module, params: Mapping[str, jax.Array], batches: Iterable[_Batch]
) -> dict[str, jax.Array]:
  """Estimates the diagonal of the empirical Fisher information.

  The estimate is the mean over rows of the squared gradient of the row's log
  likelihood, which is the sum over its tokens (Kirkpatrick et al., 2017). The targets
  are those of the data and are not drawn from the model, which makes the estimate
  "empirical"; Kunstner et al. (2019) discuss the difference.

  Args:
    model: Maps i32[B, T] to logits dtype[B, T, V].
    params: Flat params, by name.
    batches: Batches as `step.train_step` takes them; rows without weight are skipped.

  Returns:
    By name, f32 of each param's shape.

  Raises:
    errors.UserError: If no row has weight.
  """
  # In float32 even for bfloat16 params: small squares would be lost in a large sum.
  total = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), dict(params))
  count = 0
  add = jax.jit(functools.partial(_add, combined.scoring(model)))
  for batch in batches:
    total = add(total, dict(params), dict(batch))
    # Padding rows of the last batch have no gradient, and must not lower the mean.
    count += int((np.asarray(batch["weights"]).sum(-1) > 0).sum())
  if not count:
    raise errors.UserError("fisher.estimate: no row of the batches has weight.")
  return {name: x / count for name, x in total.items()}


def save(path: epath.PathLike, fisher: Mapping[str, jax.Array]) -> None:
  """Writes an estimate to the `.npz` file at `path`, for `plan.EWC` to read."""
  buffer = io.BytesIO()
  # NumPy writes to local files or buffers; `path` may name a bucket.
  # pyrefly: ignore[bad-argument-type]
  np.savez(buffer, **{name: np.asarray(x) for name, x in fisher.items()})
  whole.write_bytes(path, buffer.getvalue())


def _add(nll_fn, total, params, batch):
  """Adds the squared gradient of each row of a batch to `total`."""
  def likelihood(params, row):
    # The model expects a batch axis; the scan has taken it away.
    alone = jax.tree.map(lambda x: x[None], row)
    nll = nll_fn(params, alone, None)  # Several terms for a model of drawings.
    nll = nll["loss"] if isinstance(nll, Mapping) else nll
    return -(nll * alone["weights"]).sum()

  # The square must be taken row by row, before the sum. A scan does so with the memory
  # of one gradient, where `vmap` would hold one for each row.
  def one(total, row):
    grads = jax.grad(likelihood)(params, row)
    return jax.tree.map(
        lambda sums, g: sums + jnp.square(g.astype(jnp.float32)), total, grads), None

  return jax.lax.scan(one, total, batch)[0]
