"""Models by their config."""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.models import decoder_config
from transfer_gen.models import recurrent
from transfer_gen.models import transformer

_MODULES = {
    config_lib.Decoder: transformer.Decoder,
    config_lib.Recurrent: recurrent.Recurrent,
}
_CONSTANTS = {
    config_lib.Decoder: decoder_config.constants,
    config_lib.Recurrent: recurrent.constants,
}


def build(config: config_lib.Decoder | config_lib.Recurrent) -> nn.Module:
  """The module of a config, which is copied: later changes do not reach it.

  What no model can have is found when the module is first used, by `specs`.

  Raises:
    errors.UserError: If the kind of config is unknown.
  """
  if type(config) not in _MODULES:
    raise errors.UserError(
        f"The model is a {type(config).__name__}, must be one of"
        f" {', '.join(kind.__name__ for kind in _MODULES)} of transfer_gen.config.")
  return _MODULES[type(config)](dataclasses.replace(config))


def constants(config: config_lib.Decoder | config_lib.Recurrent) -> dict[str, Any]:
  """What a model computes beside its params and their sizes, by name.

  A transfer that keeps the function needs these to stay, see `transfer.axes`.
  """
  return {"family": type(config).__name__, **_CONSTANTS[type(config)](config)}


def specs(module: nn.Module) -> dict[str, tree.Spec]:
  """Specs of a model's params, by name. Computes nothing and touches no device.

  Raises:
    errors.UserError: If the model's config does not make sense.
  """
  config = module.config
  if not isinstance(config, config_lib.Decoder) or config.num_layers <= 2:
    return tree.specs(jax.eval_shape(lambda: _init(module, jax.random.key(0))))
  # Layers before the last are alike: two are traced, however deep the model is.
  last, found = config.num_layers - 1, {}
  for name, spec in specs(build(dataclasses.replace(config, num_layers=2))).items():
    layer, _, rest = name.partition("/")
    if layer in ("layer_0", "layer_1"):
      numbers = range(last) if layer == "layer_0" else (last,)
      found |= {f"layer_{i}/{rest}": spec for i in numbers}
    else:
      found[name] = spec
  return dict(sorted(found.items(), key=lambda item: item[0].split("/")))


def fresh(
    module: nn.Module,
    key: jax.Array,
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> Callable[[Iterable[str]], dict[str, jax.Array]]:
  """The model's own initial values, of the leaves that are asked for.

  Args:
    module: Of `build`.
    key: Decides all values; a leaf's do not depend on which others are made.
    shardings: By name: where each leaf is made. None: the default device.

  Returns:
    A function from names to arrays by name, one compiled program a call.
  """
  def init(names: Iterable[str]) -> dict[str, jax.Array]:
    names = sorted(names)
    if not names:
      return {}

    def some(key):
      leaves = tree.unbox(_init(module, key))
      return {name: leaves[name] for name in names}  # XLA drops the others.

    where = {name: shardings[name] for name in names} if shardings else None
    return jax.jit(some, out_shardings=where)(key)
  return init


def longest(module: nn.Module) -> int | None:
  """The longest text that a model can read, in tokens. None: any."""
  config = module.config
  learned = isinstance(config, config_lib.Decoder) and config.position == "learned"
  return config.max_length if learned else None


def _init(module, key):
  tokens = jnp.zeros((1, 1), jnp.int32)
  encodes = getattr(module.config, "encoder", False)
  return module.init(key, tokens, **({"sources": tokens} if encodes else {}))["params"]
