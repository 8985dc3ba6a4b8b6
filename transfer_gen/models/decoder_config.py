"""Checks of a Decoder's fields, and what the fields mean together.

Axes: D width, H heads, K head width, F hidden width.
"""

import dataclasses
import functools
from typing import Any, TypeVar

from flax import linen as nn

from transfer_gen import config as config_lib
from transfer_gen import errors

_Decoder = TypeVar("_Decoder", bound=config_lib.Decoder)

# GELU (Hendrycks and Gimpel, 2016); `gelu` is the tanh approximation, as in GPT-2.
_EXACT = functools.partial(nn.gelu, approximate=False)
ACTIVATIONS = {
    "gelu": nn.gelu, "gelu_exact": _EXACT, "relu": nn.relu, "silu": nn.silu}
GATES = {"swiglu": nn.silu, "geglu": nn.gelu, "geglu_exact": _EXACT}  # Shazeer, 2020.
# What `unbiased` may name: kernels by their own names, and `norm` for all norms.
PARTS = ("query", "key", "value", "out", "up", "gate", "down", "norm")
_RAMPS = ("llama3", "yarn")  # Scalings that have one.

ENCODER_SIDE = "encoder_side"  # A constant: those of an encoder with its own fields.
CAUSAL = "causal"  # Another: whether no place sees those behind it.
# An encoder that has no output, so these fields have no effect.
_WITHOUT_HEAD: dict[str, Any] = {
    "head": False, "tied": True, "transform": False, "logit_bias": False}

# What an encoder with fields of its own takes from the pair: how it is trained and
# computed.
_SHARED = ("dropout", "dtype", "init", "remat", "attention_implementation")

Config, EncoderConfig = config_lib.Decoder, config_lib.Encoder
PairConfig = config_lib.EncoderDecoder


# Each field by itself was checked by `registry.build`. The first misfit raises, because
# later checks rely on those before them. Modules call this in `setup`, before any shape
# is computed.
def check(config: config_lib.Decoder) -> None:
  """Refuses configs whose fields do not go together.

  Raises:
    errors.UserError: One message: which field, its value, what it must be.
  """
  _require(config.vocab_size > 0, config, "vocab_size", "positive")
  _require(
      config.head_dim or config.width % config.num_heads == 0, config, "num_heads",
      f"a divisor of width, {config.width}; or set model.head_dim")
  _require(
      config.num_heads % config.kv_heads == 0, config, "num_kv_heads",
      f"a divisor of num_heads, {config.num_heads}")
  _require(
      config.sinusoid_width == 0 or config.width % config.sinusoid_width == 0, config,
      "sinusoid_width", f"a divisor of width, {config.width}, or 0")
  _require(
      not config.transform or config.activation in ACTIVATIONS, config, "activation",
      f"one of {', '.join(ACTIVATIONS)} where model.transform is True")
  _require(
      not config.attention_softcap or config.attention_implementation == "einsum",
      config, "attention_implementation", "'einsum' with an attention_softcap")
  _require(
      config.block == "serial" or config.norm_order == "pre", config, "block",
      f"'serial' where norm_order is {config.norm_order!r}")
  if config.position == "rotary":
    _check_rotary(config)
  if config.position == "relative":
    _require(config.relative_buckets % 2 == 0, config, "relative_buckets", "even")
    _require(config.relative_distance > config.relative_buckets // 2, config,
             "relative_distance", "above half of relative_buckets")
  if isinstance(config, config_lib.EncoderDecoder):
    _check_sides(config)
    if config.encoder is not None:
      check(side_of(config, "encoder"))


def side_of(config: PairConfig, side: str) -> config_lib.Decoder:
  """Returns the config of a side's blocks and embeddings, `encoder` or `decoder`."""
  if side != "encoder" or config.encoder is None:
    return config
  return dataclasses.replace(
      config.encoder, vocab_size=config.encoder_tokens,
      **{name: getattr(config, name) for name in _SHARED}, **_WITHOUT_HEAD)


def pair_of(encoder: Any, decoder: Any) -> PairConfig:
  """Returns the pair whose sides are two models, each with the fields that it has.

  Args:
    encoder: Config of a model with one side. Its output is left out.
    decoder: Config of a model with one side. Where it is an encoder without a head,
      its table of tokens is the output.

  Raises:
    errors.UserError: If a model has two sides.
  """
  for side, model in (("encoder", encoder), ("decoder", decoder)):
    if type(model) not in (Config, EncoderConfig):
      raise errors.UserError(
          f"The {side} of a pair cannot be made of a model of type"
          f" {type(model).__name__}: give a Transformer that reads one text, such as"
          " BERT or GPT-2.")
  of = lambda model: {field.name: getattr(model, field.name)
                      for field in dataclasses.fields(Config)}
  headless = isinstance(decoder, EncoderConfig) and not decoder.head
  own = {name: value for name, value in _WITHOUT_HEAD.items() if name != "head"}
  return PairConfig(
      **{**of(decoder), **(own if headless else {})}, encoder=EncoderConfig(
          **{**of(encoder), **_WITHOUT_HEAD}),
      encoder_vocab_size=encoder.vocab_size,
      # As encoders are trained: [CLS] text [SEP].
      encoder_marks="both" if isinstance(encoder, EncoderConfig) else "eos")


def sharing(config: PairConfig) -> PairConfig:
  """Returns a pair whose encoder runs the decoder's blocks, out of one with its own.

  Raises:
    errors.UserError: If the two sides are not alike.
  """
  if config.encoder is None:
    return dataclasses.replace(config, shared=True, encoder_layers=0)
  own, decoder = explicit(side_of(config, "encoder")), explicit(config)
  skipped = {*_WITHOUT_HEAD, *_SHARED}
  differ = [field.name for field in dataclasses.fields(Config)
            if field.name not in skipped
            and getattr(own, field.name) != getattr(decoder, field.name)]
  if differ:
    raise errors.UserError(
        "model.shared is True, and the encoder is not as the decoder is: they differ in"
        f" {', '.join(differ)}. Take both from one checkpoint, or leave shared out.")
  return dataclasses.replace(config, shared=True, encoder=None, encoder_vocab_size=0)


# Sizes that the shapes of params show are absent. So are `init`, `dropout` and `dtype`,
# in which a transfer may differ.
#
# An axis is undivided where an offset is added to a norm's scale when it is used: half
# of the scale is then not half of the factor. A tied output without a norm before it
# has no scale that could be divided.
def constants(config: config_lib.Decoder) -> dict[str, Any]:
  """Returns what a decoder computes beside its params and their sizes, by name.

  `undivided` lists axes that a product contracts although no leaf can be divided to
  compensate for their growth.
  """
  normed = config.transform or config.final_norm or config.norm_order == "post"
  undivided = ["embed"] if config.tied and (config.norm_offset or not normed) else []
  found: dict[str, Any] = {
      "attention_scale": config.score_scale,
      CAUSAL: not isinstance(config, EncoderConfig),
      "rotary": config.position == "rotary",
      "windows": [config.window(i) for i in range(config.num_layers)],
      "undivided": undivided + ["kv"] * bool(config.query_norm and config.norm_offset)}
  if config.position == "sinusoidal":
    found["sinusoid_width"] = config.sinusoid_size
    found["sinusoid_halves"] = config.sinusoid_halves
  if config.position == "relative":
    found["relative_distance"] = config.relative_distance
  if config.position == "rotary":
    found |= {
        "rotary_dim": config.rotary_size,
        "rotary_ramp": list(config.rotary_ramp),
        "rotary_base_window": config.window_rotary_base,
        **{name: getattr(config, name) for name in (
            "rotary_scaling", "rotary_factor", "rotary_length", "rotary_magnitude")}}
  if isinstance(config, PairConfig):
    found["shared"] = config.shared
    if config.encoder is not None:
      found[ENCODER_SIDE] = constants(side_of(config, "encoder"))
  return found | {name: getattr(config, name) for name in (
      "position", "position_offset", "norm", "norm_order", "norm_epsilon",
      "norm_offset", "final_norm", "query_norm", "embed_norm", "block", "activation",
      "embed_scale", "logit_scale", "logit_softcap", "attention_softcap",
      "rotary_base")}


# Configs are compared field by field where a model is written for another library, and
# a field without effect must not count as a difference there. An RMSNorm has no bias
# and an MLP without a gate no gate, whatever `bias` says.
def explicit(config: _Decoder) -> _Decoder:
  """Returns the same model with all derived sizes written out.

  Fields without effect get their default, so that two configs of one model are equal.
  """
  biased = {part for part in PARTS if config.bias and part not in config.unbiased}
  biased -= {"gate"} if config.activation not in GATES else set()
  biased -= {"norm"} if config.norm == "rms" else set()
  windows = tuple(config.window(i) for i in range(config.num_layers))
  sides: dict[str, Any] = {}
  if isinstance(config, PairConfig):
    usual: Any = config_lib.Encoder()  # Of the fields that are the pair's.
    own = config.encoder and explicit(dataclasses.replace(
        config.encoder, vocab_size=config.encoder_tokens,
        **{name: getattr(usual, name) for name in _SHARED}, **_WITHOUT_HEAD))
    sides = {"encoder": own, "encoder_layers": 0 if own else config.encoder_depth,
             **_explicit_latent(config)}
  if isinstance(config, config_lib.Encoder) and not config.head:
    sides = _WITHOUT_HEAD
  return dataclasses.replace(
      config, head_dim=config.head_size, num_kv_heads=config.kv_heads,
      mlp_width=config.mlp_size, attention_scale=config.score_scale,
      windows=windows if any(windows) else (), bias=bool(biased),
      unbiased=tuple(p for p in PARTS if p not in biased) if biased else (),
      final_norm=config.final_norm or config.norm_order == "post",
      position_offset=config.position_offset if config.position == "learned" else 0,
      sinusoid_width=config.sinusoid_size if config.position == "sinusoidal" else 0,
      **sides, **_idle(config), **_explicit_rotary(config))


def num_layers(config: config_lib.Decoder, side: str) -> int:
  """Returns the number of blocks of a side, see `transformer.Stack`."""
  if side == "encoder" and isinstance(config, PairConfig):
    return config.encoder_depth
  return config.num_layers


def latent_width(config: config_lib.Decoder) -> int:
  """Returns the number of features of a latent between two sides; 0 without one."""
  return config.latent_width if isinstance(config, PairConfig) else 0


def _check_sides(config):
  _require(config.block == "serial", config, "block", "'serial' with an encoder")
  # A window bounds how far back a position sees, and an encoder would still see all
  # that comes later.
  _require(not any(config.windows), config, "windows", "() with an encoder")
  if config.shared:
    for name in ("encoder", "encoder_layers", "encoder_vocab_size"):
      _require(not getattr(config, name), config, name,
               "left out where model.shared is True: both sides have the same blocks")
    # One table for distances to both sides cannot be that of the past alone.
    _require(config.position != "relative", config, "position",
             "another than 'relative' where model.shared is True")
  if config.encoder is None:
    return
  _require(not config.encoder_layers, config, "encoder_layers",
           "0 where model.encoder has num_layers of its own")
  _require(config.encoder.block == "serial" and not any(config.encoder.windows),
           config, "encoder", "without windows, and its block 'serial'")
  _require(config.encoder.width == config.width or config.encoder_vocab_size, config,
           "encoder_vocab_size", f"above 0: a table of width {config.width} does not"
           f" serve an encoder of width {config.encoder.width}")


def _idle(config: config_lib.Decoder) -> dict[str, Any]:
  """Defaults of the fields that have no effect with these positions."""
  names = {"sinusoid_halves": "sinusoidal", "relative_buckets": "relative",
           "relative_distance": "relative"}
  return {field.name: field.default for field in dataclasses.fields(config)
          if names.get(field.name, config.position) != config.position}


def _check_rotary(config):
  if config.rotary_size % 2:
    raise errors.UserError(
        f"model.position is 'rotary', which turns pairs of features, and heads have"
        f" {config.rotary_size}, an odd number. Set model.head_dim or"
        " model.rotary_dim to an even one.")
  _require(config.rotary_dim <= config.head_size, config, "rotary_dim",
           f"at most the heads' {config.head_size}")
  if config.rotary_scaling in _RAMPS:
    _require(config.rotary_length > 0, config, "rotary_length",
             f"positive for rotary_scaling={config.rotary_scaling!r}")
    _require(config.rotary_ramp[0] < config.rotary_ramp[1], config, "rotary_ramp",
             "two rising positive numbers")


def _explicit_latent(config: PairConfig) -> dict[str, Any]:
  """Defaults of the fields that have no effect with this latent, or without one."""
  idle = {"variational", "latent"} if not config.latent_width else set()
  idle |= {"latent_prefix"} if not config.prefix else set()
  return {field.name: field.default for field in dataclasses.fields(config)
          if field.name in idle}


# A window's base that equals the plain one still matters where a scaling or a magnitude
# acts, because layers with a window skip both, see `positions.turning`.
def _explicit_rotary(config: config_lib.Decoder) -> dict[str, Any]:
  habit = {field.name: field.default for field in dataclasses.fields(config)
           if field.name.startswith("rotary_")}
  if config.position != "rotary":
    return habit
  idle = set()
  if config.rotary_scaling == "none":
    idle.add("rotary_factor")
  if config.rotary_scaling not in _RAMPS:
    idle |= {"rotary_ramp", "rotary_length"}
  unscaled = config.rotary_scaling == "none" and config.rotary_magnitude == 1
  if not any(config.windows) or (
      unscaled and config.rotary_base_window == config.rotary_base):
    idle.add("rotary_base_window")
  own = {name: value if name in idle else getattr(config, name)
         for name, value in habit.items()}
  return own | {"rotary_dim": config.rotary_size}


def _require(holds, config, field, what):
  if not holds:
    raise errors.UserError(
        f"model.{field} is {getattr(config, field)!r}, must be {what}.")
