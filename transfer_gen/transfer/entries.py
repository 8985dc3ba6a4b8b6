"""Applies axis maps to the entries of an array.

Axes: S source entries, N target entries, F everything else of a leaf, flattened.
"""

import functools

import jax
from jax import numpy as jnp

from transfer_gen.transfer import plan as plan_lib


def apply(
    value: jax.Array,
    binding: plan_lib.Binding,
    dim: int,
    reads: bool,
    key: jax.Array,
) -> jax.Array:
  """Maps one dimension of a leaf; the arrays of the binding may be traced.

  Entries that start from the model's own "init" are zero here; `settle` fills them.

  >>> import numpy as np
  >>> binding = plan_lib.Binding(index=np.array([1, -1, 0]), fresh="mean", note="")
  >>> apply(jnp.array([2.0, 4.0]), binding, 0, False, jax.random.key(0)).tolist()
  [4.0, 3.0, 2.0]

  Args:
    value: dtype[..., S, ...], where S is dimension `dim`.
    binding: What happens to the dimension; its index has size N.
    dim: The dimension that changes.
    reads: Whether the leaf contracts the dimension.
    key: Key for fresh entries and noise.

  Returns:
    dtype[..., N, ...].
  """
  index = jnp.asarray(binding.index)
  along = functools.partial(_along, dim=dim, ndim=value.ndim)
  # Entries without a source read entry 0 here; `where` replaces them at the end.
  result = jnp.take(value, jnp.maximum(index, 0), axis=dim)
  result = share(result, binding, dim, reads)
  if reads and binding.share is not None and binding.noise:
    result += binding.noise * _opposed(value, index, dim, result.shape, key)
  # After the shares: the weights of a mixed row are all that it is scaled by.
  if binding.mixture is not None:
    result = _mix(value, binding.mixture, dim, result)
  padded = along(index == plan_lib.PADDED)
  fresh = _fresh(value, binding.fresh, dim, padded, result.shape, key)
  return jnp.where(along(_has_source(binding)), result, fresh)


def share(
    value: jax.Array, binding: plan_lib.Binding, dim: int, reads: bool
) -> jax.Array:
  """Divides the entries of one dimension by their numbers of copies, see `Binding`.

  >>> import numpy as np
  >>> binding = plan_lib.Binding(
  ...     index=np.array([0, 0]), fresh="zeros", note="", share=np.array([0.5, 0.5]))
  >>> share(jnp.array([4.0, 4.0]), binding, 0, True).tolist()
  [2.0, 2.0]

  Args:
    value: dtype[..., N, ...], entries of the target.
    binding: The binding of `dim`.
    dim: The dimension.
    reads: Whether the leaf contracts the dimension.
  """
  if not reads or binding.share is None:
    return value
  # The share is f32, and would turn a leaf of half precision into f32.
  return value * _along(jnp.asarray(binding.share), dim, value.ndim).astype(value.dtype)


def settle(
    value: jax.Array, binding: plan_lib.Binding, dim: int, init: jax.Array
) -> jax.Array:
  """Puts the model's own initial values where `apply` left zeros for fresh "init".

  It is a second step, because an initial value has the size of the target in all
  dimensions, and `apply` changes one at a time.

  >>> import numpy as np
  >>> binding = plan_lib.Binding(index=np.array([1, -1]), fresh="init", note="")
  >>> settle(jnp.array([4.0, 0.0]), binding, 0, init=jnp.array([7.0, 8.0])).tolist()
  [4.0, 8.0]

  Args:
    value: dtype[..., N, ...], with all dimensions mapped.
    binding: The binding of `dim`.
    dim: The dimension.
    init: The model's own initial value of the leaf, of the same shape as `value`.

  Returns:
    dtype[..., N, ...].
  """
  has = _along(_has_source(binding), dim, value.ndim)
  return jnp.where(has, value, init.astype(value.dtype))


def _has_source(binding: plan_lib.Binding) -> jax.Array:
  has = jnp.asarray(binding.index) >= 0
  if binding.mixture is not None:
    has = has.at[jnp.asarray(binding.mixture.rows)].set(True)
  return has


def _along(vector: jax.Array, dim: int, ndim: int) -> jax.Array:
  """Returns a vector in a shape that broadcasts along dimension `dim` of `ndim`."""
  return jnp.expand_dims(vector, [d for d in range(ndim) if d != dim])


def _mix(
    value: jax.Array, mixture: plan_lib.Mixture, dim: int, result: jax.Array
) -> jax.Array:
  """Puts weighted sums of entries into their rows."""
  at = (slice(None),) * dim + (jnp.asarray(mixture.rows),)

  def add(sums, part):
    # One of K parts at a time; all at once would take K times the memory of the rows.
    index, weights = part
    weights = _along(weights.astype(value.dtype), dim, value.ndim)
    return sums + jnp.take(value, index, axis=dim) * weights, None

  sums, _ = jax.lax.scan(
      add, jnp.zeros_like(result[at]),
      (jnp.asarray(mixture.index).T, jnp.asarray(mixture.weights).T))
  return result.at[at].set(sums)


def _fresh(
    value: jax.Array, how: str, dim: int, padded: jax.Array, shape: tuple[int, ...],
    key: jax.Array,
) -> jax.Array:
  """Returns fresh entries, in a shape that broadcasts to `shape`."""
  # A scalar broadcasts in `where`, which saves an array as large as the leaf.
  if how in ("zeros", "init"):
    return jnp.zeros((), value.dtype)
  mean = jnp.mean(value, axis=dim, keepdims=True)
  if how == "mean":
    return mean
  if how == "normal":
    spread = jnp.std(value, axis=dim, keepdims=True)
    noise = spread * jax.random.normal(key, shape, value.dtype)
  else:
    noise = _correlated(value - mean, dim, shape, key)
  # Padding stands for no token, so it gets the mean without noise.
  return mean + jnp.where(padded, 0, noise)


def _correlated(
    centred: jax.Array, dim: int, shape: tuple[int, ...], key: jax.Array
) -> jax.Array:
  """Draws normal entries with the covariance of the source's columns."""
  flat = jnp.moveaxis(centred, dim, 0).reshape(centred.shape[dim], -1)  # [S, F]
  covariance = flat.T @ flat / flat.shape[0]
  # eigh and not Cholesky: with fewer entries than columns the covariance is singular.
  values, vectors = jnp.linalg.eigh(covariance)
  # Rounding can make the smallest eigenvalues negative.
  root = vectors * jnp.sqrt(jnp.maximum(values, 0))[None]  # [F, F]
  drawn = jax.random.normal(key, (shape[dim], flat.shape[1]), flat.dtype) @ root.T
  rest = shape[:dim] + shape[dim + 1:]
  return jnp.moveaxis(drawn.reshape(shape[dim], *rest), 0, dim)


def _opposed(
    value: jax.Array, index: jax.Array, dim: int, shape: tuple[int, ...],
    key: jax.Array,
) -> jax.Array:
  """Draws noise that sums to zero over the copies of each entry."""
  drawn = jnp.moveaxis(jax.random.normal(key, shape, value.dtype), dim, 0)
  sums = jax.ops.segment_sum(drawn, index, value.shape[dim])
  # Only Grow sets noise, and it copies each source entry at least once: no count is 0.
  copies = jax.ops.segment_sum(jnp.ones(index.shape, value.dtype), index,
                               value.shape[dim])
  mean = sums / copies.reshape(-1, *[1] * (drawn.ndim - 1))
  opposed = jnp.moveaxis(drawn - mean[index], 0, dim)
  # Relative to the size of the params, so that one `noise` suits all leaves.
  return opposed * jnp.sqrt(jnp.mean(jnp.square(value)))
