"""Parts of plans that follow from sizes, layer maps and the source's values."""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any, Protocol

import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.config import adapters as config_adapters
from transfer_gen.transfer import axes as axes_lib
from transfer_gen.transfer import plan as plan_lib

_LEARNS = (plan_lib.Group(name="all", params=".*"),)
_BRANCH_ENDS = r"(attn|cross_attn)/out|mlp/down"  # What writes to the residual stream.
# Axis that each size of a config is.
_DECODER = {"width": "embed", "mlp_width": "mlp", "num_heads": "heads",
            "num_kv_heads": "kv_heads", "head_dim": "kv"}
_SIZES = {
    config_lib.Decoder: _DECODER, config_lib.EncoderDecoder: _DECODER,
    config_lib.Recurrent: {
        "embed_width": "embed", "hidden_width": "hidden", "dense_width": "mlp"},
}
Layers = Mapping[int, int | tuple[int, ...] | None]


class _Source(Protocol):
  specs: Mapping[str, tree.Spec]

  def read(self, names: Sequence[str], shardings=None):
    """Yields (name, array)."""


def grow(
    model: config_lib.Decoder | config_lib.Recurrent,
    *,
    num_layers: int | None = None,
    encoder_layers: int | None = None,
    noise: float = 0.0,
    axes: tuple[plan_lib.On, ...] = (),
    groups: tuple[plan_lib.Group, ...] = _LEARNS,
    **sizes: int,
) -> tuple[Any, plan_lib.TransferPlan]:
  """A bigger model that computes what `model` computes, and the plan to it.

  The new config names every size and every constant that would follow from one (the
  attention scale, the width of sinusoids), so that nothing else changes.

  Args:
    model: Config of the source.
    num_layers: A Decoder's, if more: new layers stand behind the one that they copy
      and start as the identity, for what they add to the residual stream is zero
      (needs norms first).
    encoder_layers: The same of an EncoderDecoder's encoder.
    noise: See `axes.Grow`.
    axes: Further axis maps, e.g. of `vocab`.
    groups: What learns.
    **sizes: Fields of the config by their new value: `width`, `mlp_width`,
      `num_heads`, `num_kv_heads` (by habit, as `num_heads`) and `head_dim` of a
      Decoder; `embed_width`, `hidden_width` and `dense_width` of a Recurrent.

  Returns:
    The new config and the plan. Whether sizes fit is for `resolve` to say.

  Raises:
    errors.UserError: If a size is none of the model's, or layers cannot be added.
  """
  known = _SIZES[type(model)]
  if wrong := sorted(sizes.keys() - known.keys()):
    raise errors.UserError(
        f"grow: {wrong[0]!r} is no size of a {type(model).__name__}; there are"
        f" {', '.join(known)} and num_layers.")
  old = _explicit(model)
  if "num_heads" in sizes and isinstance(model, config_lib.Decoder):
    per_group = old.num_heads // old.num_kv_heads
    sizes.setdefault("num_kv_heads", sizes["num_heads"] // per_group)
  new = dataclasses.replace(old, **sizes)
  grown = tuple(
      plan_lib.On(axis=axis, map=axes_lib.Grow(noise=noise))
      for field, axis in known.items() if getattr(new, field) != getattr(old, field))
  rules: tuple[plan_lib.Rule, ...] = ()
  for field, count in (("num_layers", num_layers), ("encoder_layers", encoder_layers)):
    if count is not None and count != getattr(old, field, None):
      new, deeper = _deeper(new, field, count)
      rules += deeper
  return new, plan_lib.TransferPlan(
      rules=(*rules, plan_lib.Rule(target="(.*)", source=r"\1")),
      axes=(*axes, *grown), groups=groups)


def layer_map(source: int, target: int, how: str) -> dict[int, int | tuple[int, ...]]:
  """Which source layer each target layer comes from.

  Args:
    source: Number of layers of the source.
    target: Number of layers of the target.
    how: "first" or "last" of them; "spread": evenly, with both ends, so every k-th
      where the target has fewer; "repeat": each several times in a row; "stack": the
      whole stack again and again (Du et al., 2024); "interpolate": the mean of the
      two nearest, where a layer falls between.

  Raises:
    errors.UserError: If `how` is unknown, or the source has too few layers for it.
  """
  if source < 1 or target < 1:
    raise errors.UserError(f"layer_map: {source} and {target} layers; both must be > 0.")
  if how in ("first", "last") and target > source:
    raise errors.UserError(
        f"layer_map: the {how} {target} of {source} layers; take 'spread', 'repeat',"
        " 'stack' or 'interpolate' to get more.")
  at = np.linspace(0, source - 1, target) if target > 1 else np.zeros(1)
  maps = {
      "first": lambda i: i, "last": lambda i: source - target + i,
      "spread": lambda i: int(np.floor(at[i] + 0.5)),
      "repeat": lambda i: i * source // target, "stack": lambda i: i % source,
      "interpolate": lambda i: _between(at[i]),
  }
  if how not in maps:
    raise errors.UserError(
        f"layer_map: how is {how!r}, must be one of {', '.join(maps)}.")
  return {i: maps[how](i) for i in range(target)}


def depth(
    layers: Layers, identity: Sequence[int] = (), prefix: str = ""
) -> tuple[plan_lib.Rule, ...]:
  r"""Rules that make each layer of the target from layers of the source.

  Args:
    layers: Source layer by target layer; several: their mean; None: fresh.
    identity: Target layers that start as the identity: what they add to the
      residual stream is zero at first (needs norms first).
    prefix: Before `layer_`, as a regex without groups, e.g. `decoder/`; the same on
      both sides.

  Returns:
    Rules for `layer_0` and so on; those for other leaves come after them.
  """
  rules = []
  for target, source in layers.items():
    name = f"{prefix}layer_{target}/"
    if target in identity:
      rules.append(plan_lib.Rule(
          target=f"{name}({_BRANCH_ENDS})/.*", source=None, fresh="zeros",
          why=f"layer {target} starts as the identity"))
    if source is None:
      rules.append(plan_lib.Rule(target=f"{name}.*", source=None))
      continue
    several = (source,) if isinstance(source, int) else tuple(source)
    names = tuple(rf"{prefix}layer_{layer}/\1" for layer in several)
    rules.append(plan_lib.Rule(
        target=f"{name}(.*)", source=names if names[1:] else names[0]))
  return tuple(rules)


def unused_layers(layers: Layers, source: int, prefix: str = "") -> tuple[str, ...]:
  """Patterns for `unused_source`: the source's layers that `layers` does not name."""
  read = {layer for several in layers.values() if several is not None
          for layer in np.atleast_1d(several).tolist()}
  return tuple(f"{prefix}layer_{i}/.*" for i in range(source) if i not in read)


def encoder_decoder(
    cross: str = "self", encoder: bool = True, decoder: bool = True
) -> tuple[plan_lib.Rule, ...]:
  r"""Rules from a stack of layers to a target of an encoder and a decoder.

  The source is a decoder or an encoder, with leaves `layer_0/attn/...`; the target
  has `encoder/...` and `decoder/...` of the same names inside, and in the decoder's
  layers `cross_attn/...` and `cross_norm/...` (Rothe et al., 2020).

  Args:
    cross: Cross-attention from the source's "self" attention, with its norm, or
      "fresh".
    encoder: Whether the encoder comes from the source, or starts fresh.
    decoder: The same of the decoder.

  Raises:
    errors.UserError: If `cross` is neither.
  """
  if cross not in ("self", "fresh"):
    raise errors.UserError(
        f"encoder_decoder: cross is {cross!r}, must be 'self' or 'fresh'.")
  crosses = (plan_lib.Rule(target=r"decoder/layer_\d+/cross_(attn|norm)/.*", source=None),)
  if cross == "self":
    crosses = tuple(
        plan_lib.Rule(target=rf"decoder/(layer_\d+)/cross_{part}/(.*)",
                      source=rf"\1/{own}/\2")
        for part, own in (("attn", "attn"), ("norm", "attn_norm")))
  sides = tuple(
      plan_lib.Rule(target=f"{side}/(.*)", source=r"\1" if read else None)
      for side, read in (("encoder", encoder), ("decoder", decoder)))
  return (*crosses, *sides, plan_lib.Rule(target="(.*)", source=r"\1"))


def fresh_adapters(
    adapters: Sequence[config_adapters.Adapter]) -> plan_lib.Rule:
  """The rule under which adapters start as those that change nothing."""
  return plan_lib.Rule(
      target=config_adapters.leaves(adapters), source=None,
      why="adapters start as the identity")


def stored_adapter(
    adapter: config_adapters.Adapter, checkpoint: str, name: str = ""
) -> tuple[plan_lib.Rule, str]:
  """An adapter from a checkpoint of its own: a run's, or a folder of PEFT's.

  Args:
    adapter: One of the run's.
    checkpoint: Name of the checkpoint in `Run.sources`.
    name: What the adapter is called there; in PEFT's, `lora`. "": as here.

  Returns:
    Its rule; and, for the plan's `unused_source`, a pattern for what else a run's
    checkpoint holds. A folder of PEFT's holds nothing else, and needs none.
  """
  stored = dataclasses.replace(adapter, name=name or adapter.name)
  parts = "|".join(adapter.PARTS)
  return (plan_lib.Rule(
      target=rf"(.*/)?(input_|recurrent_)?{adapter.name}_({parts})(_\w+)?",
      source=rf"\1\2{stored.name}_\3\4", checkpoint=checkpoint),
          rf"{re.escape(checkpoint)}:(?!(?:{stored.leaves})$).*")


def importance(
    source: _Source, axis: str, size: int, params: str = ".*"
) -> axes_lib.Select:
  """The entries of an axis with the largest weights, for a narrower target.

  An entry's importance is the sum of squares of all that belongs to it, in the
  leaves that write the axis and in those that read it, each leaf divided by its own
  sum, so that none outweighs the others (magnitude pruning, Li et al., 2017).

  Args:
    source: Read once, leaf by leaf.
    axis: E.g. `mlp`, `heads`, `embed`.
    size: How many entries stay.
    params: Regex for the leaves that count; the `On` that gets the map has the same.
      Layers have no reason to agree on their hidden units: take one a layer.

  Raises:
    errors.UserError: If no leaf has the axis, their sizes differ, or `size` is more.
  """
  names = [name for name, spec in source.specs.items()
           if axis in spec.axes and tree.match([params], name)]
  sizes = {source.specs[name].shape[source.specs[name].axes.index(axis)]
           for name in names}
  if len(sizes) != 1:
    raise errors.UserError(
        f"importance: leaves {params!r} of the source carry axis `{axis}` at"
        f" {sorted(sizes) or 'no'} sizes; it takes one.")
  scores = np.zeros(sizes.pop())
  for name, value in source.read(names):
    squares = np.square(np.asarray(value, np.float64))
    for dim, other in enumerate(source.specs[name].axes):
      if other == axis:
        score = squares.sum(tuple(d for d in range(squares.ndim) if d != dim))
        scores += score / max(score.sum(), np.finfo(np.float64).tiny)
  return select(scores, size)


def select(scores: np.ndarray, size: int) -> axes_lib.Select:
  """Keeps the entries with the highest scores, in their old order.

  Args:
    scores: f[S], e.g. mean squares of activations, see `models.statistics`.
    size: How many.

  Raises:
    errors.UserError: If there are not as many.
  """
  if not 0 < size <= len(scores):
    raise errors.UserError(f"select: {size} of {len(scores)} entries.")
  best = np.argsort(-np.asarray(scores), kind="stable")[:size]
  return axes_lib.Select(index=np.sort(best).astype(np.int32))


def _explicit(model):
  """The config with every size and constant that follows from others spelt out."""
  if isinstance(model, config_lib.Recurrent):
    return model
  if isinstance(model, config_lib.EncoderDecoder):
    model = dataclasses.replace(
        model, encoder_layers=model.encoder_depth)
  return dataclasses.replace(
      model, head_dim=model.head_size, num_kv_heads=model.kv_heads,
      mlp_width=model.mlp_size, attention_scale=model.score_scale,
      sinusoid_width=model.sinusoid_size if model.position == "sinusoidal" else 0)


def _deeper(model, field: str, count: int):
  """The config with more layers, and rules under which they change nothing."""
  if not isinstance(model, config_lib.Decoder) or model.norm_order != "pre":
    raise errors.UserError(
        "grow: layers can be added without a change of the function only to a"
        " Decoder with norm_order='pre', which adds its layers to a stream.")
  prefix = ""
  if isinstance(model, config_lib.EncoderDecoder):
    prefix = "encoder/" if field == "encoder_layers" else "decoder/"
  elif field == "encoder_layers":
    raise errors.UserError("grow: encoder_layers is given, and there is no encoder.")
  own = getattr(model, field)
  if count < own:
    raise errors.UserError(
        f"grow: {field} is {count} and the source has {own}; use"
        " depth(layer_map(...)) for fewer.")
  layers = layer_map(own, count, "repeat")
  added = [i for i in layers if i and layers[i] == layers[i - 1]]
  windows = tuple(model.windows[layers[i] % len(model.windows)]
                  for i in layers) if model.windows else ()
  return (dataclasses.replace(model, **{field: count}, windows=windows),
          depth(layers, identity=added, prefix=prefix))


def _between(at: float) -> int | tuple[int, int]:
  low, high = int(np.floor(at)), int(np.ceil(at))
  return low if low == high else (low, high)
