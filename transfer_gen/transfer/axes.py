"""Axis maps: how one axis of the source becomes the target's."""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np

from transfer_gen import errors
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import vocabulary

_CONSTANTS = {  # What must stay for a grown axis to keep the function, and where.
    "kv": ("attention_scale",), "embed": ("embed_scale", "sinusoid_width"),
}


@plan_lib.axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchTokens:
  """Rows of a vocabulary by token: matched ones are copied, others start fresh.

  Attributes:
    fresh: "normal": drawn around the source's mean row with its spread (one
      standard deviation an entry, over the source's rows); "mean": that mean.
  """
  fresh: str = "normal"

  def __post_init__(self):
    _check_fresh(self)

  def bind(self, sizes: plan_lib.AxisSizes) -> plan_lib.Binding:
    """Matches the two vocabularies.

    Raises:
      ValueError: If one is not known or has more tokens than the axis has rows.
    """
    for side, vocab, rows in (
        ("source", sizes.source_vocabulary, sizes.source),
        ("target", sizes.target_vocabulary, sizes.target)):
      if vocab is None:
        raise ValueError(f"MatchTokens needs the {side}'s tokens, and none are known")
      if len(vocab.tokens) > rows:
        raise ValueError(
            f"the {side}'s tokenizer has {len(vocab.tokens)} tokens and the axis"
            f" `{sizes.axis}` {rows} rows there: it is not this model's tokenizer")
    index = np.full(sizes.target, -1, np.int32)
    matched = vocabulary.match(sizes.source_vocabulary, sizes.target_vocabulary)
    index[:len(matched)] = matched
    count = int((index >= 0).sum())
    return plan_lib.Binding(
        index=index, fresh=self.fresh,
        note=f"{sizes.axis}: {count} of {sizes.target} matched")


@plan_lib.axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class Grow:
  """A wider axis that keeps the function: entries are repeated, and the leaves that
  read the axis divide each by its number of copies (Net2WiderNet, Chen et al., 2016,
  section 2.2; which entry is copied is not drawn, it goes round).

  The function is kept for `mlp` at any size; for `embed`, `hidden`, `heads` and
  `kv_heads` at whole multiples, where norms and head groups see every entry alike
  often; for `kv` at whole multiples without rotary positions and with the attention
  scale kept.

  Attributes:
    noise: The copies of an entry start apart, so that they can learn apart: where
      they are read they differ by normal noise of this many times the leaf's root
      mean square, in sums of zero, so that the function is kept.
    approximate: Whether the function may change, where it cannot be kept.
  """
  noise: float = 0.0
  approximate: bool = False

  def __post_init__(self):
    if not self.noise >= 0:
      raise errors.UserError(f"Grow: noise is {self.noise}, must be >= 0.")

  def bind(self, sizes: plan_lib.AxisSizes) -> plan_lib.Binding:
    """Repeats entries.

    Raises:
      ValueError: If the function would change, or the axis would shrink.
    """
    axis, source, target = sizes.axis, sizes.source, sizes.target
    if target < source:
      raise ValueError(
          f"Grow cannot shrink {source} to {target}; Select says which entries stay")
    why = _why_not_kept(sizes)
    if why and not self.approximate:
      raise ValueError(f"{why}; or set approximate=True, and the function changes")
    index = np.arange(target, dtype=np.int32)
    if axis in ("heads", "kv_heads"):  # In place, so that groups stay together.
      index = index * source // target
    else:
      index %= source
    copies = np.bincount(index, minlength=source)
    kept = "function changes" if why else "function kept"
    return plan_lib.Binding(
        index=index, fresh="zeros", noise=self.noise,
        share=(1.0 / copies[index]).astype(np.float32),
        note=f"{axis}: grown {source} to {target}, {kept}")


@plan_lib.axis_map
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Select:
  """Keeps the entries of a list, in its order: a narrower axis, or another order.

  Attributes:
    index: i32[target], entries of the source; as a tuple or an array, see
      `strategies.importance`.
  """
  index: np.ndarray | tuple[int, ...]

  def bind(self, sizes: plan_lib.AxisSizes) -> plan_lib.Binding:
    """Takes the entries.

    Raises:
      ValueError: If their number is not the target's size, or one is not there.
    """
    index = np.asarray(self.index, np.int32)
    if index.shape != (sizes.target,):
      raise ValueError(
          f"Select names {index.size} entries, and the target has {sizes.target}")
    if index.size and not 0 <= index.min() <= index.max() < sizes.source:
      raise ValueError(
          f"Select names entries {index.min()} to {index.max()}, and the source has"
          f" 0 to {sizes.source - 1}")
    return plan_lib.Binding(
        index=index, fresh="zeros",
        note=f"{sizes.axis}: {len(set(index.tolist()))} of {sizes.source} selected")


@plan_lib.axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
  """Keeps the first entries of an axis, such as `position`."""

  def bind(self, sizes: plan_lib.AxisSizes) -> plan_lib.Binding:
    """Takes the first ones.

    Raises:
      ValueError: If the target has more.
    """
    if sizes.target > sizes.source:
      raise ValueError(
          f"Cut cannot make {sizes.target} of {sizes.source}; Extend can")
    return plan_lib.Binding(
        index=np.arange(sizes.target, dtype=np.int32), fresh="zeros",
        note=f"{sizes.axis}: first {sizes.target} of {sizes.source}")


@plan_lib.axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class Extend:
  """A longer axis, such as `position`; reading leaves are not divided.

  Attributes:
    how: "repeat" goes round the source's entries again; "interpolate" stretches
      them linearly from first to last (Chen et al., 2023, of positions); "fresh"
      keeps them and adds entries of `fresh`.
    fresh: How those are filled, see `plan.Binding`.
  """
  how: str = "fresh"
  fresh: str = "normal"

  def __post_init__(self):
    _check_fresh(self)
    if self.how not in ("fresh", "repeat", "interpolate"):
      raise errors.UserError(
          f"Extend: how is {self.how!r}, must be 'fresh', 'repeat' or 'interpolate'.")

  def bind(self, sizes: plan_lib.AxisSizes) -> plan_lib.Binding:
    """Adds entries.

    Raises:
      ValueError: If the target has fewer.
    """
    source, target = sizes.source, sizes.target
    if target < source:
      raise ValueError(f"Extend cannot make {target} of {source}; Cut can")
    index, mixture = np.arange(target, dtype=np.int32), None
    if self.how == "repeat":
      index %= source
    elif self.how == "fresh":
      index[source:] = -1
    else:
      index, mixture = _stretched(source, target)
    return plan_lib.Binding(
        index=index, fresh=self.fresh, mixture=mixture,
        note=f"{sizes.axis}: {source} extended to {target}, {self.how}")


@plan_lib.axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanGroups:
  """Fewer key-value heads: each the mean of those that its queries read before
  (grouped from multi-head attention, Ainslie et al., 2023, section 2.1)."""

  def bind(self, sizes: plan_lib.AxisSizes) -> plan_lib.Binding:
    """Averages neighbours.

    Raises:
      ValueError: If the target's size does not divide the source's.
    """
    source, target = sizes.source, sizes.target
    if source % target:
      raise ValueError(f"MeanGroups cannot make {target} equal groups of {source};"
                       f" take {_divisor(source, target)}")
    group = source // target
    return plan_lib.Binding(
        index=np.full(target, -1, np.int32), fresh="zeros",
        mixture=plan_lib.Mixture(
            rows=np.arange(target, dtype=np.int32),
            index=np.arange(source, dtype=np.int32).reshape(target, group),
            weights=np.full((target, group), 1 / group, np.float32)),
        note=f"{sizes.axis}: means of {group}")


def apply(
    value: jax.Array,
    binding: plan_lib.Binding,
    dim: int,
    reads: bool,
    key: jax.Array,
) -> jax.Array:
  """Maps one dimension of a leaf; the binding's arrays may be traced.

  Entries that start from the model's own "init" are left at zero, see `settle`.

  Args:
    value: dtype[..., S, ...], S at `dim`.
    binding: What happens to it, of size N.
    dim: The dimension that changes.
    reads: Whether the leaf contracts it.
    key: Draws fresh entries and noise.

  Returns:
    dtype[..., N, ...].
  """
  index = jnp.asarray(binding.index)
  along = functools.partial(_along, dim=dim, ndim=value.ndim)
  result = jnp.take(value, jnp.maximum(index, 0), axis=dim)
  if reads and binding.share is not None:
    result *= along(binding.share).astype(value.dtype)
    if binding.noise:
      result += binding.noise * _opposed(value, index, dim, result.shape, key)
  if binding.mixture is not None:
    result = _mix(value, binding.mixture, dim, result)
  fresh = _fresh(value, binding.fresh, dim, result.shape, key)
  return jnp.where(along(_has_source(binding)), result, fresh)


def settle(
    value: jax.Array, binding: plan_lib.Binding, dim: int, init: jax.Array
) -> jax.Array:
  """Puts a model's own values where `apply`, with fresh "init", left room.

  Args:
    value: dtype[..., N, ...], all dimensions mapped.
    binding: Of `dim`.
    dim: The dimension.
    init: The model's own initial value of the leaf, of the same shape.
  """
  has = _along(_has_source(binding), dim, value.ndim)
  return jnp.where(has, value, init.astype(value.dtype))


def _has_source(binding: plan_lib.Binding) -> jax.Array:
  has = jnp.asarray(binding.index) >= 0
  if binding.mixture is not None:
    has = has.at[jnp.asarray(binding.mixture.rows)].set(True)
  return has


def _along(vector: jax.Array, dim: int, ndim: int) -> jax.Array:
  """A vector of one dimension of an array of `ndim`."""
  return jnp.expand_dims(vector, [d for d in range(ndim) if d != dim])


def _mix(value, mixture, dim, result):
  """Puts weighted sums of entries in their rows."""
  parts = jnp.take(value, jnp.asarray(mixture.index), axis=dim)  # [..., M, K, ...]
  weights = jnp.expand_dims(
      jnp.asarray(mixture.weights).astype(value.dtype),
      [d for d in range(parts.ndim) if d not in (dim, dim + 1)])
  sums = (parts * weights).sum(dim + 1)
  at = (slice(None),) * dim + (jnp.asarray(mixture.rows),)
  return result.at[at].set(sums)


def _fresh(value, how, dim, shape, key):
  if how in ("zeros", "init"):
    return jnp.zeros((), value.dtype)
  mean = jnp.mean(value, axis=dim, keepdims=True)
  if how == "normal":
    spread = jnp.std(value, axis=dim, keepdims=True)
    return mean + spread * jax.random.normal(key, shape, value.dtype)
  if how == "covariance":
    return mean + _correlated(value - mean, dim, shape, key)
  return mean


def _correlated(centred, dim, shape, key):
  """Normal entries with the covariance that the source's have over its columns."""
  flat = jnp.moveaxis(centred, dim, 0).reshape(centred.shape[dim], -1)  # [S, F]
  covariance = flat.T @ flat / flat.shape[0]
  values, vectors = jnp.linalg.eigh(covariance)
  root = vectors * jnp.sqrt(jnp.maximum(values, 0))[None]  # [F, F]
  drawn = jax.random.normal(key, (shape[dim], flat.shape[1]), flat.dtype) @ root.T
  rest = shape[:dim] + shape[dim + 1:]
  return jnp.moveaxis(drawn.reshape(shape[dim], *rest), 0, dim)


def _opposed(value, index, dim, shape, key):
  """Noise that sums to zero over the copies of each entry."""
  drawn = jnp.moveaxis(jax.random.normal(key, shape, value.dtype), dim, 0)
  sums = jax.ops.segment_sum(drawn, index, value.shape[dim])
  copies = jax.ops.segment_sum(jnp.ones(index.shape, value.dtype), index,
                               value.shape[dim])
  mean = sums / copies.reshape(-1, *[1] * (drawn.ndim - 1))
  opposed = jnp.moveaxis(drawn - mean[index], 0, dim)
  return opposed * jnp.sqrt(jnp.mean(jnp.square(value)))


def _why_not_kept(sizes: plan_lib.AxisSizes) -> str | None:
  """Why growing an axis changes what the model computes."""
  axis, source, target = sizes.axis, sizes.source, sizes.target
  known = ("mlp", "embed", "hidden", "heads", "kv_heads", "kv")
  if axis not in known:
    return f"growing `{axis}` does not keep the function, as for {', '.join(known)}"
  if axis != "mlp" and target % source:
    near = max(round(target / source), 1) * source
    return (f"growing `{axis}` from {source} keeps the function at whole multiples,"
            f" and {target} is none; the nearest is {near}")
  if axis == "kv" and target > source and sizes.source_constants.get("rotary"):
    return ("rotary positions turn the features of `kv` by its size, so growing it"
            " changes the function; grow `heads`")
  for name in _CONSTANTS.get(axis, ()):
    old, new = (constants.get(name) for constants in
                (sizes.source_constants, sizes.target_constants))
    if sizes.source_constants and sizes.target_constants and old != new:
      return (f"{name} is {old} in the source and {new} here, and the function keeps"
              f" only with the same. Set model.{name}={old}, as strategies.grow does")
  return None


def _stretched(source: int, target: int) -> tuple[np.ndarray, plan_lib.Mixture]:
  """Linear interpolation from `source` entries to `target`, ends on ends."""
  at = np.linspace(0, source - 1, target)
  low = np.floor(at).astype(np.int32)
  high = np.minimum(low + 1, source - 1)
  weight = (at - low).astype(np.float32)
  return np.full(target, -1, np.int32), plan_lib.Mixture(
      rows=np.arange(target, dtype=np.int32), index=np.stack((low, high), 1),
      weights=np.stack((1 - weight, weight), 1))


def _divisor(size: int, near: int) -> int:
  return min((d for d in range(1, size + 1) if size % d == 0),
             key=lambda d: abs(d - near))


def _check_fresh(axis_map: "MatchTokens | Extend") -> None:
  if axis_map.fresh not in plan_lib.FRESH:
    raise errors.UserError(
        f"{type(axis_map).__name__}: fresh is {axis_map.fresh!r}, must be one of"
        f" {plan_lib.FRESH}.")
