"""Axis maps: how one axis of the source becomes the target's."""

import dataclasses

import numpy as np

from transfer_gen import errors
from transfer_gen.transfer import mixtures
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import vocabulary

_CONSTANTS = {  # What must stay for a grown axis to keep the function, and where.
    "kv": ("attention_scale",), "embed": ("embed_scale", "sinusoid_width"),
}


@plan_lib.axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchTokens:
  """Rows of a vocabulary by token: matched ones are copied, others start fresh.

  Padded rows, beyond the tokenizer, are never drawn: they get the mean, or what
  else `fresh` says.

  Attributes:
    fresh: "normal": drawn around the source's mean row with its spread (one
      standard deviation an entry, over the source's rows); "covariance": likewise,
      with the covariance of the entries; "mean": that mean; "pieces": the mean of
      the source's tokens that spell the new one, and the mean of all where none do;
      "zeros"; "init": as the model starts.
    mixture: Target tokens that are weighted sums of source tokens, matched or not,
      from `mixtures.focus` or `mixtures.wechsel`; the others as said above.
  """
  fresh: str = "normal"
  mixture: plan_lib.Mixture | None = None

  def __post_init__(self):
    if self.fresh != "pieces":
      _check_fresh(self)
    if self.mixture is not None:
      mixtures.check(self.mixture)

  def bind(self, sizes: plan_lib.AxisSizes) -> plan_lib.Binding:
    """Matches the two vocabularies.

    Raises:
      ValueError: If one is not known or has more tokens than the axis has rows, or
        if the mixture was made for others.
    """
    source, target = sizes.source_vocabulary, sizes.target_vocabulary
    for side, vocab, rows in (
        ("source", source, sizes.source), ("target", target, sizes.target)):
      if vocab is None:
        raise ValueError(f"MatchTokens needs the {side}'s tokens, and none are known")
      if len(vocab.tokens) > rows:
        raise ValueError(
            f"the {side}'s tokenizer has {len(vocab.tokens)} tokens and the axis"
            f" `{sizes.axis}` {rows} rows there: it is not this model's tokenizer")
    index = np.full(sizes.target, plan_lib.PADDED, np.int32)
    index[:len(target.tokens)] = vocabulary.match(source, target)
    mixture, fresh = self.mixture, self.fresh
    if mixture is not None:
      mixtures.check_fits(mixture, source, target)
      index[mixture.rows] = -1
    if fresh == "pieces":
      mixture = mixtures.join(mixture, mixtures.pieces(source, target))
      fresh = "mean"
    return plan_lib.Binding(
        index=index, fresh=fresh, mixture=mixture,
        origins=mixtures.Origins(source=source, target=target, index=index,
                                 fresh=fresh, mixture=mixture),
        note=f"{sizes.axis}: {mixtures.note(target, index, mixture)}")


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
      `importance.by_weights`.
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
  if axis in sizes.source_constants.get("undivided", ()):
    return (f"a product contracts `{axis}` after a norm that cannot be divided: its"
            " scale has an offset (norm_offset), or there is none (final_norm)")
  for name in _CONSTANTS.get(axis, ()):
    old, new = (constants.get(name) for constants in
                (sizes.source_constants, sizes.target_constants))
    if sizes.source_constants and sizes.target_constants and old != new:
      return (f"{name} is {old} in the source and {new} here, and the function keeps"
              f" only with the same. Set model.{name}={old}, as structure.grow does")
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
