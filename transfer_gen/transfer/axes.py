"""Axis maps: how an axis of the source becomes an axis of another size in the target.

An axis map is put in a plan with `plan.On(axis=..., map=...)`. `bind` is called by
`resolve`, at the sizes of the two models:

>>> plan_lib.AxisSizes(axis="mlp", source=2, target=5).target
5
>>> Grow().bind(plan_lib.AxisSizes(axis="mlp", source=2, target=5)).index.tolist()
[0, 1, 0, 1, 0]
"""

import dataclasses
from typing import Annotated

import numpy as np

from transfer_gen.config import declare, validate
from transfer_gen.transfer import mixtures
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import vocabulary

# Constants of the model that must stay the same for a grown axis to keep the function.
_CONSTANTS = {
    "kv": ("attention_scale",), "embed": ("embed_scale", "sinusoid_width"),
}


@plan_lib.axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchTokens:
  """Maps a vocabulary by token: matching tokens are copied, others start fresh.

  Rows beyond the target's tokens are padding. They are never drawn: where other rows
  are drawn around the mean, padding gets the mean itself.

  >>> old = vocabulary.Vocabulary(tokens=(b"a", b"b", b"c"))
  >>> new = vocabulary.Vocabulary(tokens=(b"c", b"d"))
  >>> binding = MatchTokens(fresh="mean").bind(plan_lib.AxisSizes(
  ...     axis="vocab", source=3, target=2, source_vocabulary=old,
  ...     target_vocabulary=new))
  >>> binding.index.tolist(), binding.note
  ([2, -1], 'vocab: 1 of 2 matched')

  Attributes:
    fresh: How tokens without a match start. "normal" draws around the mean row of the
      source, with the standard deviation of each column; "covariance" draws around it
      with the covariance of the columns; "mean" is that mean; "pieces" is the mean of
      the source tokens that spell the new one, or the mean of all if none do; "zeros"
      is zeros; "init" is the model's own initial value.
    mixture: Target tokens that are weighted sums of source tokens, matched or not, from
      `mixtures.focus` or `mixtures.wechsel`. Other tokens are copied or start fresh as
      without it.
  """
  fresh: Annotated[str, declare.OneOf(*plan_lib.FRESH, "pieces")] = "normal"
  mixture: plan_lib.Mixture | None = None

  def __post_init__(self) -> None:
    validate.check(self, "MatchTokens")
    if self.mixture is not None:
      mixtures.check(self.mixture)

  def bind(self, sizes: plan_lib.AxisSizes) -> plan_lib.Binding:
    """Matches the two vocabularies.

    Raises:
      ValueError: If a vocabulary is unknown or has more tokens than the axis has rows,
        or if the mixture was made for other vocabularies.
    """
    # `bind` raises plain ValueErrors without a full stop: `resolve` puts the axis and
    # the leaves before them and collects them.
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
    # The rest stays PADDED: models often round their vocabulary up for the hardware.
    index[:len(target.tokens)] = vocabulary.match(source, target)
    mixture, fresh = self.mixture, self.fresh
    if mixture is not None:
      mixtures.check_fits(mixture, source, target)
      # A given mixture wins over a match: one string may be two words.
      index[mixture.rows] = -1
    if fresh == "pieces":
      # Tokens that no pieces spell are left, and get the mean of all rows.
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
  """Widens an axis and keeps the function.

  Entries are repeated, and the leaves that read the axis divide each entry by its
  number of copies (Net2WiderNet, Chen et al., 2016, section 2.2). The paper draws which
  entries are copied; here they are taken in turns.

  The function is kept for `mlp` at any size, and for `latent` where the latent is its
  mean (where it is drawn, `Extend` keeps what is drawn, too); for `embed`, `hidden`,
  `memory`, `heads` and `kv_heads` at whole multiples, where norms and groups of heads
  see every entry equally often; and for `kv` at whole multiples, if positions are not
  rotary and the attention scale stays.

  >>> binding = Grow().bind(plan_lib.AxisSizes(axis="mlp", source=2, target=3))
  >>> binding.index.tolist(), binding.share.tolist(), binding.note
  ([0, 1, 0], [0.5, 1.0, 0.5], 'mlp: grown 2 to 3, function kept')

  Attributes:
    noise: Standard deviation of the noise by which copies differ in the leaves that
      read them, as a multiple of the leaf's root mean square. Copies that are equal get
      equal gradients and would never differ. The noise of an entry's copies sums to
      zero, so that the function is kept.
    approximate: Whether the function may change where it cannot be kept.
  """
  noise: declare.Weight = 0.0
  approximate: bool = False

  def __post_init__(self) -> None:
    validate.check(self, "Grow")

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
    index = _repeated(axis, source, target)
    copies = np.bincount(index, minlength=source)
    kept = "function changes" if why else "function kept"
    # Every entry has a source, so `fresh` is not used here; "zeros" costs nothing.
    return plan_lib.Binding(
        index=index, fresh="zeros", noise=self.noise,
        share=(1.0 / copies[index]).astype(np.float32),
        note=f"{axis}: grown {source} to {target}, {kept}")


@plan_lib.axis_map
# eq=False, because comparing arrays gives an array and no truth value.
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Select:
  """Keeps the listed entries, in their order: a narrower axis, or another order.

  >>> Select(index=(0, 3)).bind(
  ...     plan_lib.AxisSizes(axis="mlp", source=4, target=2)).note
  'mlp: 2 of 4 selected'

  Attributes:
    index: i32[target], entries of the source, as a tuple or an array.
      `importance.by_weights` chooses them by value.
  """
  index: Annotated[np.ndarray, plan_lib.ENTRIES] | tuple[declare.Count, ...]

  def __post_init__(self) -> None:
    validate.check(self, "Select")

  def bind(self, sizes: plan_lib.AxisSizes) -> plan_lib.Binding:
    """Takes the entries.

    Raises:
      ValueError: If their number is not the target's size, or the source lacks one.
    """
    index = np.asarray(self.index, np.int32)
    if index.shape != (sizes.target,):
      raise ValueError(
          f"Select names {index.size} entries, and the target has {sizes.target}")
    if index.size and not 0 <= index.min() <= index.max() < sizes.source:
      raise ValueError(
          f"Select names entries {index.min()} to {index.max()}, and the source has"
          f" 0 to {sizes.source - 1}")
    # A set for the count, because an entry may be listed twice.
    return plan_lib.Binding(
        index=index, fresh="zeros",
        note=f"{sizes.axis}: {len(set(index.tolist()))} of {sizes.source} selected")


@plan_lib.axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
  """Keeps the first entries of an axis such as `position`.

  >>> sizes = plan_lib.AxisSizes(axis="position", source=4, target=2)
  >>> Cut().bind(sizes).index.tolist()
  [0, 1]
  """

  def bind(self, sizes: plan_lib.AxisSizes) -> plan_lib.Binding:
    """Takes the first entries.

    Raises:
      ValueError: If the target has more entries than the source.
    """
    if sizes.target > sizes.source:
      raise ValueError(
          f"Cut cannot make {sizes.target} entries of {sizes.source}; Extend can")
    return plan_lib.Binding(
        index=np.arange(sizes.target, dtype=np.int32), fresh="zeros",
        note=f"{sizes.axis}: first {sizes.target} of {sizes.source}")


@plan_lib.axis_map
@dataclasses.dataclass(frozen=True, kw_only=True)
class Extend:
  """Lengthens an axis such as `position`.

  Unlike `Grow` it does not divide copies, because each position is read by itself.

  >>> sizes = plan_lib.AxisSizes(axis="position", source=2, target=4)
  >>> Extend(how="repeat").bind(sizes).index.tolist()
  [0, 1, 0, 1]

  Attributes:
    how: "repeat" repeats the source's entries from the start; "interpolate" stretches
      them linearly from first to last (Chen et al., 2023, for positions); "fresh" keeps
      them and adds fresh entries.
    fresh: How fresh entries are filled, one of `plan.FRESH`, see `plan.Binding`.
  """
  how: Annotated[str, declare.OneOf("fresh", "repeat", "interpolate")] = "fresh"
  fresh: Annotated[str, declare.OneOf(*plan_lib.FRESH)] = "normal"

  def __post_init__(self) -> None:
    validate.check(self, "Extend")

  def bind(self, sizes: plan_lib.AxisSizes) -> plan_lib.Binding:
    """Adds entries.

    Raises:
      ValueError: If the target has fewer entries than the source.
    """
    source, target = sizes.source, sizes.target
    if target < source:
      raise ValueError(f"Extend cannot make {target} entries of {source}; Cut can")
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
  """Makes fewer key-value heads: each is the mean of the heads that its queries read.

  This turns multi-head attention into grouped-query attention (Ainslie et al., 2023,
  section 2.1).

  >>> binding = MeanGroups().bind(
  ...     plan_lib.AxisSizes(axis="kv_heads", source=4, target=2))
  >>> binding.mixture.index.tolist(), binding.mixture.weights[0].tolist()
  ([[0, 1], [2, 3]], [0.5, 0.5])
  """

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
  """Returns why growing an axis changes the function; None if it does not."""
  axis, source, target = sizes.axis, sizes.source, sizes.target
  known = ("mlp", "latent", "embed", "hidden", "memory", "heads", "kv_heads", "kv")
  if axis not in known:
    return f"growing `{axis}` does not keep the function, as for {', '.join(known)}"
  # A norm averages over an axis, so each entry needs equally many copies to keep the
  # statistics. No norm sees the first two: there, dividing by the number of copies is
  # enough.
  if axis not in known[:2] and target % source:
    near = max(round(target / source), 1) * source
    return (f"growing `{axis}` from {source} keeps the function at whole multiples,"
            f" and {target} is none; the nearest is {near}")
  # Heads may grow with rotary positions: the angles depend on the size of a head alone.
  if axis == "kv" and target > source and sizes.source_constants.get("rotary"):
    return ("rotary positions rotate the features of `kv` by angles that depend on its"
            " size, so growing it changes the function; grow `heads` instead")
  if axis in sizes.source_constants.get("undivided", ()):
    if axis in ("hidden", "memory"):
      return (f"encoder_attention='dot' or 'sum' contracts `{axis}` with no kernel of"
              " its own, so no leaf can be divided for it")
    return (f"a product contracts `{axis}` after a norm that cannot be divided: its"
            " scale has an offset (norm_offset), or there is none (final_norm, or a"
            " recurrent model with a tied table)")
  # Constants of a source that states none are unknown and cannot be compared.
  for name in _CONSTANTS.get(axis, ()):
    old, new = (constants.get(name) for constants in
                (sizes.source_constants, sizes.target_constants))
    if sizes.source_constants and sizes.target_constants and old != new:
      return (f"{name} is {old} in the source and {new} here, and the function is kept"
              f" only if they are equal. Set model.{name}={old}, as structure.grow"
              " does")
  return None


def _repeated(axis: str, source: int, target: int) -> np.ndarray:
  """Returns i32[target], the entry of the source that each entry copies."""
  index = np.arange(target, dtype=np.int32)
  # Copies of a head stand beside it, because query heads in a row share a key-value
  # head; a whole round of heads would meet the wrong ones.
  if axis in ("heads", "kv_heads"):
    return index * source // target
  # In turns, so that the numbers of copies differ by one at most.
  return index % source


def _stretched(source: int, target: int) -> tuple[np.ndarray, plan_lib.Mixture]:
  """Interpolates linearly from `source` to `target` entries; the ends stay ends."""
  at = np.linspace(0, source - 1, target)
  low = np.floor(at).astype(np.int32)
  # The last entry has weight 0 on its upper neighbour, which does not exist.
  high = np.minimum(low + 1, source - 1)
  weight = (at - low).astype(np.float32)
  return np.full(target, -1, np.int32), plan_lib.Mixture(
      rows=np.arange(target, dtype=np.int32), index=np.stack((low, high), 1),
      weights=np.stack((1 - weight, weight), 1))


def _divisor(size: int, near: int) -> int:
  return min((d for d in range(1, size + 1) if size % d == 0),
             key=lambda d: abs(d - near))
