"""Models by their config."""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.models import encoder_decoder
from transfer_gen.models import extended
from transfer_gen.models import recurrent
from transfer_gen.models import sketch
from transfer_gen.models import transformer

# By the exact class, since an `EncoderDecoder` is a `Decoder` and would be built as
# one.
_MODULES: dict[type, Callable[[Any], nn.Module]] = {
    config_lib.Decoder: transformer.Decoder,
    config_lib.Encoder: encoder_decoder.Encoder,
    config_lib.EncoderDecoder: encoder_decoder.EncoderDecoder,
    config_lib.Recurrent: recurrent.Recurrent,
    config_lib.Sketch: sketch.Sketch,
}
_CONSTANTS: dict[type, Callable[[Any], dict[str, Any]]] = {
    config_lib.Decoder: transformer.decoder_config.constants,
    config_lib.Encoder: transformer.decoder_config.constants,
    config_lib.EncoderDecoder: transformer.decoder_config.constants,
    config_lib.Recurrent: recurrent.constants,
    config_lib.Sketch: sketch.constants,
}

# More than any machine holds. It is a slip, and would only show when memory is full.
_MOST_PARAMS = 10**13
# What a call of a model may take from a batch beside `inputs`.
_READ = ("positions", "encoder_inputs", "encoder_counts", "counts", "values",
         "pen_states", "draws")

Config = config_lib.Decoder | config_lib.Recurrent | config_lib.Sketch
Model = extended.Model
pair_of = transformer.decoder_config.pair_of
sharing = transformer.decoder_config.sharing


def build(config: Config) -> nn.Module:
  """Returns the module of a config. The config is copied, so later changes are ignored.

  Lists become tuples, and NumPy or JAX scalars become Python numbers, so that modules
  can be keys of compiled programs. Values that no model can have are found when the
  module is first used, by `specs`.

  Raises:
    errors.UserError: If the kind of config is unknown, or a field has a value that it
      does not declare.
  """
  if type(config) not in _MODULES:
    raise errors.UserError(
        f"The model is a {type(config).__name__}, must be one of"
        f" {', '.join(kind.__name__ for kind in _MODULES)} of transfer_gen.config.")
  plain = dataclasses.replace(config, **{
      field.name: _plain(getattr(config, field.name))
      for field in dataclasses.fields(config)})
  config_lib.check(plain, "model")
  return _MODULES[type(config)](plain)


def constants(config: Config) -> dict[str, Any]:
  """Returns what a model computes beside its params and their sizes, by name.

  A transfer that keeps the function needs these unchanged, see `transfer.axes`.
  """
  return {"family": type(config).__name__, **_CONSTANTS[type(config)](config)}


def with_vocabulary(config: Config, size: int, encoder_size: int = 0) -> Config:
  """Returns a config with the vocabulary size filled in.

  Args:
    config: Config of a model.
    size: Number of tokens that the tokenizer has.
    encoder_size: Number of tokens of the encoder's own tokenizer; 0 if it has none.

  Raises:
    errors.UserError: If the model has fewer rows than the tokenizer has tokens, or
      the token that its answers begin with is none of them.
  """
  sizes = {"vocab_size": size, "encoder_vocab_size": encoder_size or size}
  for field, tokens in [*sizes.items()][:1 + encodes(config)]:
    if 0 < getattr(config, field) < tokens:
      raise errors.UserError(
          f"model.{field} is {getattr(config, field)} and the tokenizer has"
          f" {tokens} tokens. Leave it at 0 to take the tokenizer's.")
  if not config.vocab_size:
    config = dataclasses.replace(config, vocab_size=size)
  # Without a tokenizer of its own, 0 stays: an encoder then has the tokens of answers.
  if encoder_size and not getattr(config, "encoder_vocab_size", encoder_size):
    own: Any = {"encoder_vocab_size": encoder_size}
    config = dataclasses.replace(config, **own)
  start_token = getattr(config, "start_token", -1)  # Of a model with an encoder.
  if encodes(config) and start_token >= config.vocab_size:
    raise errors.UserError(
        f"model.start_token is {start_token}, and there are {config.vocab_size}"
        " tokens. Leave it at -1 to take the tokenizer's bos.")
  return config


def specs(module: extended.Model) -> dict[str, tree.Spec]:
  """Returns the specs of a model's params, by name, without touching a device.

  Args:
    module: What `build` returned, or a module with adapters, whose params are included.

  Raises:
    errors.UserError: If the config of the model or of an adapter is not valid, or the
      model has more than 10**13 params.
  """
  # A copy: callers may change it, and `_specs` keeps its own for the next one.
  found = dict(_specs(module))
  if (count := sum(math.prod(spec.shape) for spec in found.values())) > _MOST_PARAMS:
    largest = max(found, key=lambda name: math.prod(found[name].shape))
    raise errors.UserError(
        f"The model would have {count:.1e} params, more than {_MOST_PARAMS:.0e}; the"
        f" largest leaf is {largest} {found[largest].shape}. Make num_layers, the"
        " widths or vocab_size smaller.")
  return found


@functools.lru_cache(maxsize=32)  # A run asks several times, a search for each try.
def _specs(module):
  if isinstance(module, extended.Extended):
    found = specs(module.module)
    return _in_order(found | module.added(found))
  config = module.config
  depth = _depth(config)
  if all(count <= 2 for count in depth.values()):
    return tree.specs(jax.eval_shape(lambda: _init(module, jax.random.key(0))))
  # All layers but the last are alike, so two are traced, however deep the model is.
  found = {}
  for name, spec in specs(build(_shallow(config))).items():
    names = [name]
    for prefix, count in depth.items():
      first, last = f"{prefix}layer_0/", f"{prefix}layer_1/"
      if name.startswith(first) and count > 2:
        rest = name.removeprefix(first)
        names = [f"{prefix}layer_{i}/{rest}" for i in range(count - 1)]
      elif name.startswith(last):
        names = [f"{prefix}layer_{count - 1}/{name.removeprefix(last)}"]
    found |= dict.fromkeys(names, spec)
  return _in_order(found)


# Leaves are made by running the model's own `init`, so a fresh leaf has the value that
# it would have in a model that is initialized as a whole.
def fresh(
    module: extended.Model,
    key: jax.Array,
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> Callable[[Iterable[str]], dict[str, jax.Array]]:
  """Returns a function that initializes some leaves of a model.

  Args:
    module: What `build` returned.
    key: Random key. A leaf's values do not depend on which other leaves are made.
    shardings: Sharding of each leaf, by name. If None, the default device.

  Returns:
    A function from names to arrays by name. Each call compiles one program.
  """
  def init(names: Iterable[str]) -> dict[str, jax.Array]:
    names = tuple(sorted(names))
    where = tuple(shardings[name] for name in names) if shardings else None
    return dict(zip(names, _maker(module, names, where)(key))) if names else {}
  return init


def longest(module: extended.Model) -> int | None:
  """Returns the length in tokens of the longest text a model can read; None if any."""
  return module.config.longest


def longest_input(module: extended.Model) -> int | None:
  """Returns the same for what its encoder reads; None without an encoder, too."""
  return getattr(module.config, "encoder_longest", None)


def encodes(config: Config) -> bool:
  """Whether a model has an encoder, which reads a text first.

  Then it is called with `encoder_inputs`, and has `encode` in place of `init_cache`.
  """
  return config.encodes


def require_next_token(config: Config) -> None:
  """Refuses a model that cannot be asked for the next token.

  Raises:
    errors.UserError: If it sees the tokens that it would have to predict.
  """
  if isinstance(config, config_lib.Encoder):
    raise errors.UserError(
        "The model is an Encoder, such as BERT: it sees the tokens after each one too,"
        " so it can neither learn, score nor write the next token. Warm-start a pair"
        " from it: --config=recipe:warm_start --config.source.path='ENCODER|DECODER'.")


def is_drawn(config: Config) -> bool:
  """Whether a model is one of drawings, which has values beside its tokens."""
  return isinstance(config, config_lib.Sketch)


def reads(batch: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what models read of a batch beside its inputs, as arguments of a call."""
  # Models do not accept the keys of other kinds of models, so absent ones are left out.
  return {name: batch[name] for name in _READ if name in batch}


# Layers of a recurrent model may differ in width, so they are not taken for alike, and
# the model is traced as it is.
def _depth(config):
  """Returns the number of layers of each side, by the prefix of their names."""
  if isinstance(config, config_lib.EncoderDecoder):
    return {"decoder/": config.num_layers, "encoder/": config.encoder_depth}
  return {"": config.num_layers} if isinstance(config, config_lib.Decoder) else {}


def _shallow(config):
  """Returns a Transformer's config with at most two layers on each side."""
  own: dict[str, Any] = {"num_layers": min(config.num_layers, 2)}
  if isinstance(config, config_lib.EncoderDecoder) and config.encoder is not None:
    own["encoder"] = _shallow(config.encoder)
  elif isinstance(config, config_lib.EncoderDecoder) and not config.shared:
    own["encoder_layers"] = min(config.encoder_depth, 2)
  return dataclasses.replace(config, **own)


# JAX sorts each dict by its keys, so names are sorted part by part and not as whole
# texts.
def _in_order(specs):
  """In the order of a pytree."""
  return dict(sorted(specs.items(), key=lambda item: item[0].split("/")))


def _plain(value: Any) -> Any:
  """Returns a field's value converted to a plain Python value."""
  if isinstance(value, (np.generic, np.ndarray, jax.Array)):
    value = value.tolist()
  return tuple(map(_plain, value)) if isinstance(value, list) else value


@functools.lru_cache(maxsize=32)
def _maker(module, names, where):
  """A program that makes some leaves; XLA drops the others."""
  # jit caches by function, and `make` is a new one in each call: without the cache
  # around it, every call would compile again.
  def make(key):
    leaves = tree.unbox(_init(module, key))
    return tuple(leaves[name] for name in names)
  return jax.jit(make, out_shardings=where)


def _init(module, key):
  # One token is enough, as no param's shape depends on batch or length.
  tokens = jnp.zeros((1, 1), jnp.int32)
  read = {"encoder_inputs": tokens} if encodes(module.config) else {}
  return module.init(key, tokens, **read)["params"]
