"""Plans that change the structure: more width, other depth, an encoder-decoder."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.config import names
from transfer_gen.transfer import axes as axes_lib
from transfer_gen.transfer import plan as plan_lib

_Model = config_lib.Decoder | config_lib.Recurrent | config_lib.Sketch
_LEARNS = (plan_lib.Group(name="all", params=".*"),)
# The axis that each size of a config belongs to. `axes.Grow` can keep the function on
# these axes only; a vocabulary or a context needs another map.
_DECODER = {"width": "embed", "mlp_width": "mlp", "num_heads": "heads",
            "num_kv_heads": "kv_heads", "head_dim": "kv"}
_SIZES = {
    config_lib.Decoder: _DECODER, config_lib.Encoder: _DECODER,
    config_lib.EncoderDecoder: _DECODER | {"latent_width": "latent"},
    config_lib.Recurrent: {
        "embed_width": "embed", "hidden_width": "hidden", "dense_width": "mlp",
        "encoder_width": "memory", "attention_width": "mlp",
        "latent_width": "latent"},
    config_lib.Sketch: {"hidden_width": "hidden", "encoder_width": "hidden"},
}
# Where an axis has several sizes in one model, the leaves that each field is about.
_ENCODER, _ATTENTION = f"{names.ENCODER}.*", "attention/.*"
_WHERE = {"hidden_width": f"(?!{_ENCODER}).*", "dense_width": f"(?!{_ATTENTION}).*",
          "attention_width": _ATTENTION}
_OF_SKETCH = {"hidden_width": f"(?!{_ENCODER}).*", "encoder_width": _ENCODER}
# The leaves of each side of a pair, the output among them, and its table of tokens with
# that of the other side.
_SIDES = {"encoder": _ENCODER, "decoder": f"({names.DECODER}|transform/|head/).*"}
_TABLES = {"encoder": (f"{names.ENCODER}{names.TOKEN_TABLE}", names.TOKEN_TABLE),
           "decoder": (names.TOKEN_TABLE, f"{names.ENCODER}{names.TOKEN_TABLE}")}
Layers = Mapping[int, int | tuple[int, ...] | None]


def grow(
    model: _Model,
    *,
    num_layers: int | None = None,
    encoder_layers: int | None = None,
    noise: float = 0.0,
    axes: tuple[plan_lib.On, ...] = (),
    groups: tuple[plan_lib.Group, ...] = _LEARNS,
    **sizes: int,
) -> tuple[Any, plan_lib.TransferPlan]:
  """Returns a bigger model that computes the same function, and the plan for it.

  The new config states every size, and every constant that would otherwise follow from
  a size (the attention scale, the width of sinusoids), so that nothing else changes.

  >>> from transfer_gen import config
  >>> old = config.Decoder(num_layers=2, width=8, num_heads=2, vocab_size=16)
  >>> new, plan = grow(old, width=16, num_heads=4)
  >>> new.width, new.num_heads, new.head_dim
  (16, 4, 4)
  >>> [on.axis for on in plan.axes]
  ['embed', 'heads', 'kv_heads']

  Args:
    model: Config of the source.
    num_layers: Number of layers of a Decoder, at least as many as it has. A new layer
      follows the layer that it copies and starts as the identity: it adds zero to the
      residual stream. This needs `norm_order="pre"`. If None, depth stays.
    encoder_layers: The same for the encoder of an EncoderDecoder.
    noise: Noise on the copies, see `axes.Grow`.
    axes: Further axis maps, e.g. for `vocab`.
    groups: What learns; by default, everything.
    **sizes: New values of fields of the config: `width`, `mlp_width`, `num_heads`,
      `num_kv_heads` (grows with `num_heads` by default) and `head_dim` of a Decoder;
      `embed_width`, `hidden_width`, `dense_width`, `encoder_width` (behind a bridge)
      and `attention_width` of a Recurrent; `hidden_width` and `encoder_width` of a
      Sketch.

  Returns:
    The new config and the plan. `resolve` reports sizes that do not fit.

  Raises:
    errors.UserError: If a size is not a field of the model, or if layers cannot be
      added.
  """
  known = _SIZES[type(model)]
  if wrong := sorted(sizes.keys() - known.keys()):
    raise errors.UserError(
        f"grow: {wrong[0]!r} is no size of a {type(model).__name__}; its sizes are"
        f" {', '.join(known)} and num_layers.")
  old = _explicit(model)
  if "num_heads" in sizes and isinstance(old, config_lib.Decoder):
    # Each key-value head keeps as many queries, or query heads would be torn from it.
    per_group = old.num_heads // old.num_kv_heads
    sizes.setdefault("num_kv_heads", sizes["num_heads"] // per_group)
  changes: dict[str, Any] = dict(sizes)  # Field names are checked above.
  new = dataclasses.replace(old, **changes)
  grown = tuple(
      plan_lib.On(axis=axis, map=_map_of(axis, old, noise), params=params)
      for axis, params in _grown(old, new))
  rules: tuple[plan_lib.Rule, ...] = ()
  for field, count in (("num_layers", num_layers), ("encoder_layers", encoder_layers)):
    if count is not None and count != getattr(old, field, None):
      new, deeper = _deeper(new, field, count)
      rules += deeper
  return new, plan_lib.TransferPlan(
      rules=(*rules, plan_lib.Rule(target="(.*)", source=r"\1")),
      # The first map that matches wins, so the caller's come first.
      axes=(*axes, *grown), groups=groups)


def layer_map(source: int, target: int, how: str) -> dict[int, int | tuple[int, ...]]:
  """Returns the source layer that each target layer comes from.

  >>> layer_map(6, 3, "spread")
  {0: 0, 1: 3, 2: 5}
  >>> layer_map(2, 4, "repeat"), layer_map(2, 4, "stack")
  ({0: 0, 1: 0, 2: 1, 3: 1}, {0: 0, 1: 1, 2: 0, 3: 1})

  Args:
    source: Number of layers of the source.
    target: Number of layers of the target.
    how: "first" or "last" takes the first or last layers. "spread" takes layers at
      even distances, including both ends. "repeat" repeats each layer several times
      in a row. "stack" repeats the whole stack (Du et al., 2024). "interpolate"
      takes the mean of the two nearest layers where a layer falls between them.

  Raises:
    errors.UserError: If `how` is unknown, or the source has too few layers for it.
  """
  if source < 1 or target < 1:
    raise errors.UserError(
        f"layer_map: {source} and {target} layers; both must be > 0.")
  if how in ("first", "last") and target > source:
    raise errors.UserError(
        f"layer_map: there are no {how} {target} of {source} layers; take 'spread',"
        " 'repeat', 'stack' or 'interpolate' to get more.")
  at = np.linspace(0, source - 1, target) if target > 1 else np.zeros(1)
  maps = {
      "first": lambda i: i, "last": lambda i: source - target + i,
      # Not `round`, which takes halves to even numbers and so at uneven distances.
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
  r"""Returns rules that make each layer of the target from layers of the source.

  >>> for rule in depth({0: 0, 1: (0, 1), 2: None}):
  ...   print(rule.target, rule.source)
  layer_0/(.*) layer_0/\1
  layer_1/(.*) ('layer_0/\\1', 'layer_1/\\1')
  layer_2/.* None

  Args:
    layers: Source layer by target layer, see `layer_map`. Several source layers mean
      their mean; None means that the layer starts fresh.
    identity: Target layers that start as the identity: they add zero to the residual
      stream at first. This needs a model with `norm_order="pre"`.
    prefix: Regex without groups for what precedes `layer_` in names, e.g. `decoder/`;
      the same in source and target.

  Returns:
    Rules for the layers. Put the rules for other leaves after them.
  """
  rules = []
  for target, source in layers.items():
    name = f"{prefix}{names.layer(target)}/"
    # Before the layer's other rules, which match these leaves, too.
    if target in identity:
      rules.append(plan_lib.Rule(
          target=f"{name}({names.BRANCH_ENDS})/.*", source=None, fresh="zeros",
          why=f"layer {target} starts as the identity"))
    if source is None:
      rules.append(plan_lib.Rule(target=f"{name}.*", source=None))
      continue
    several = (source,) if isinstance(source, int) else tuple(source)
    read = tuple(rf"{prefix}{names.layer(layer)}/\1" for layer in several)
    rules.append(plan_lib.Rule(
        target=f"{name}(.*)", source=read if read[1:] else read[0]))
  return tuple(rules)


def unused_layers(layers: Layers, source: int, prefix: str = "") -> tuple[str, ...]:
  """Returns patterns for `unused_source`: the source layers that `layers` omits.

  >>> unused_layers({0: 0, 1: 2}, source=4)
  ('layer_1/.*', 'layer_3/.*')

  Args:
    layers: Source layer by target layer, as for `depth`.
    source: Number of layers of the source.
    prefix: What precedes `layer_` in names, as for `depth`.
  """
  read = {layer for several in layers.values() if several is not None
          for layer in np.atleast_1d(several).tolist()}
  return tuple(f"{prefix}{names.layer(i)}/.*" for i in range(source) if i not in read)


def encoder_decoder(
    cross: str = "self", encoder: bool = True, decoder: bool = True
) -> tuple[plan_lib.Rule, ...]:
  r"""Returns rules from one stack of layers to an encoder and a decoder.

  The source is a decoder or an encoder with leaves `layer_0/attn/...`. The target has
  the same names under `encoder/` and `decoder/`, and `cross_attn/...` and
  `cross_norm/...` in the decoder's layers (Rothe et al., 2020). A target with a latent
  has no such layers: its plan is `autoencoder.from_stacks`.

  >>> for rule in encoder_decoder(cross="fresh"):
  ...   print(rule.target, rule.source)
  decoder/layer_\d+/cross_(attn|norm)/.* None
  encoder/(.*) \1
  decoder/(.*) \1
  (.*) \1

  Args:
    cross: "self" copies cross-attention and its norm from the source's self-attention;
      "fresh" starts it fresh.
    encoder: Whether the encoder comes from the source; otherwise it starts fresh.
    decoder: Whether the decoder comes from the source; otherwise it starts fresh.

  Raises:
    errors.UserError: If `cross` is neither.
  """
  if cross not in ("self", "fresh"):
    raise errors.UserError(
        f"encoder_decoder: cross is {cross!r}, must be 'self' or 'fresh'.")
  crosses = (plan_lib.Rule(target=names.CROSS, source=None),)
  if cross == "self":
    crosses = tuple(plan_lib.Rule(target=part, source=own)
                    for part, own in names.CROSS_PARTS.items())
  sides = tuple(
      plan_lib.Rule(target=f"{side}(.*)", source=r"\1" if read else None)
      for side, read in ((names.ENCODER, encoder), (names.DECODER, decoder)))
  return (*crosses, *sides, plan_lib.Rule(target="(.*)", source=r"\1"))


def warm_start(
    model: config_lib.EncoderDecoder, cross: str = "fresh",
    source: config_lib.EncoderDecoder | None = None, drawn: str = "",
) -> tuple[plan_lib.Rule, ...]:
  r"""Returns rules for a pair from its two sides, see `sources.Pair`.

  Each leaf comes from the leaf of its name. The cross-attention is new, as in Rothe et
  al. (2020), and so is the layer between sides of different widths.

  >>> pair = config_lib.EncoderDecoder(encoder=config_lib.Encoder(width=64))
  >>> for rule in warm_start(pair):
  ...   print(rule.target, rule.source)
  decoder/layer_\d+/cross_(attn|norm)/.* None
  bridge/.* None
  (.*) \1

  Args:
    model: Config of the pair.
    cross: "fresh" draws the cross-attention; "self" copies it and its norm from the
      decoder's self-attention.
    source: Config of the source, if the model has parts of an output that it lacks;
      these are drawn.
    drawn: "encoder" or "decoder", if the source lacks that side, which then is drawn
      but for its tokens: as in the paper, both sides begin with one table. By default
      the source has both.

  Raises:
    errors.UserError: If `cross` or `drawn` is another.
  """
  if drawn not in ("", *_SIDES):
    raise errors.UserError(
        f"warm_start: drawn is {drawn!r}, must be '' or one of {', '.join(_SIDES)}.")
  if cross not in ("self", "fresh"):
    raise errors.UserError(
        f"warm_start: cross is {cross!r}, must be 'self' or 'fresh'.")
  found = [plan_lib.Rule(target=names.CROSS, source=None, why="new between two models")]
  if cross == "self":
    found = [plan_lib.Rule(target=part, source=rf"{names.DECODER}{own}")
             for part, own in names.CROSS_PARTS.items()]
  if model.encoder is not None and model.encoder.width != model.width:
    found.append(plan_lib.Rule(
        target=names.BRIDGE, source=None, why="from one width to the other"))
  if drawn:
    own, there = _TABLES[drawn]
    found += [
        plan_lib.Rule(target=own, source=there, why="one table for both sides"),
        plan_lib.Rule(target=_SIDES[drawn], source=None,
                      why=f"the source has no {drawn}")]
  source = source or model
  found += [
      plan_lib.Rule(target=part, source=None, why="the source has none")
      for part, is_new in (
          (names.TRANSFORM, model.transform and not source.transform),
          (names.LOGIT_BIAS, model.logit_bias and not source.logit_bias),
          (names.OUTPUT, source.tied and not model.tied)) if is_new]
  return (*found, plan_lib.Rule(
      target="(.*)", source=r"\1", why="the leaf of its name"))


def _grown(old: Any, new: Any) -> list[tuple[str, str]]:
  """Returns each axis that grows, with a pattern for the leaves where it does."""
  two_sided = isinstance(new, config_lib.Recurrent) and new.encoder
  where = _OF_SKETCH if isinstance(new, config_lib.Sketch) else (
      _WHERE if two_sided else {})
  found = [(axis, where.get(field, ".*")) for field, axis in _SIZES[type(new)].items()
           if axis != "memory" and getattr(new, field) != getattr(old, field)]
  if two_sided and new.encoder_widths != old.encoder_widths:
    found.append(("hidden", _ENCODER))
    # The decoder reads what the encoder returns in a bridge and in its attention.
    if new.attends or new.bridge != "none":
      found.append(("memory", ".*"))
  return found


def _map_of(axis: str, old: Any, noise: float) -> plan_lib.AxisMap:
  # Copies of what is drawn would draw apart. New features of a latent that nothing
  # gives and nothing reads are draws of the prior, whose KL is 0.
  if axis == "latent" and old.draws:
    return axes_lib.Extend(how="fresh", fresh="zeros")
  return axes_lib.Grow(noise=noise)


def _explicit(
    model: _Model
) -> _Model:
  """Returns the config with every size and constant that it derives spelled out."""
  if isinstance(model, config_lib.Recurrent):
    adds = model.encoder_attention in ("additive", "concat")
    led = model.bridge != "none" and not model.hidden_widths
    return dataclasses.replace(
        model, attention_width=model.score_width if adds else 0,
        encoder_width=model.encoder_widths[0] if led else model.encoder_width)
  if not isinstance(model, config_lib.Decoder):
    return model
  if isinstance(model, config_lib.EncoderDecoder):
    model = dataclasses.replace(
        model, encoder_layers=model.encoder_depth)
  return dataclasses.replace(
      model, head_dim=model.head_size, num_kv_heads=model.kv_heads,
      mlp_width=model.mlp_size, attention_scale=model.score_scale,
      sinusoid_width=model.sinusoid_size if model.position == "sinusoidal" else 0)


def _deeper(
    model: _Model, field: str, count: int
) -> tuple[config_lib.Decoder, tuple[plan_lib.Rule, ...]]:
  """Returns a config with more layers, and rules under which they change nothing."""
  # With a norm after the sum, a layer that adds zero would still normalize the stream.
  if not isinstance(model, config_lib.Decoder) or model.norm_order != "pre":
    raise errors.UserError(
        "grow: layers can be added without a change of the function only to a"
        " Decoder with norm_order='pre', which adds its layers to a stream.")
  prefix = ""
  if isinstance(model, config_lib.EncoderDecoder):
    prefix = names.ENCODER if field == "encoder_layers" else names.DECODER
  elif field == "encoder_layers":
    raise errors.UserError(
        "grow: encoder_layers is given, and the model has no encoder. Remove it.")
  own = getattr(model, field)
  if count < own:
    raise errors.UserError(
        f"grow: {field} is {count} and the source has {own}; use"
        " depth(layer_map(...)) for fewer.")
  layers = {i: i * own // count for i in range(count)}  # As layer_map's "repeat".
  # The first copy of a layer keeps its output; the ones after it add zero.
  added = [i for i in layers if i and layers[i] == layers[i - 1]]
  # Windows are given by layer, in turns, so a copied layer takes its window along.
  windows = tuple(model.windows[layers[i] % len(model.windows)]
                  for i in layers) if model.windows else ()
  changes: dict[str, Any] = {field: count, "windows": windows}
  return (dataclasses.replace(model, **changes),
          depth(layers, identity=added, prefix=prefix))


def _between(at: float) -> int | tuple[int, int]:
  low, high = int(np.floor(at)), int(np.ceil(at))
  return low if low == high else (low, high)
