"""Helpers that build models with random params and apply them.

Every param gets noise, also norms and biases, because a mistake with a param that is 0
or 1 would not show.
"""

from collections.abc import Mapping
import functools
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import tree
from transfer_gen.models import registry

Config = config_lib.Decoder | config_lib.Recurrent | config_lib.EncoderDecoder


def build(
    config: Config, noise: float = 0.4, seed: int = 0,
) -> tuple[nn.Module, dict[str, np.ndarray]]:
  """Returns a module and its params by name: initial values and normal noise.

  Args:
    config: The model.
    noise: Standard deviation of the noise that is added to the initial values.
    seed: Seed of both the initial values and the noise.
  """
  module = registry.build(config)
  params = registry.fresh(module, jax.random.key(seed))(registry.specs(module))
  rng = np.random.default_rng(seed)
  return module, {
      name: np.float32(value) + np.float32(noise * rng.normal(size=value.shape))
      for name, value in params.items()}


# All tests share this jitted function, so that each program is compiled only once.
@functools.partial(jax.jit, static_argnames=("module", "method", "train", "length"))
def apply(
    module: nn.Module, params: Mapping[str, Any], *args: Any, **kwargs: Any,
) -> Any:
  """Applies a module to params by name; an implicit change of dtype is an error."""
  with jax.numpy_dtype_promotion("strict"):
    return module.apply({"params": tree.unflatten(params)}, *args, **kwargs)
