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
    config: Config, noise: float = 0.35, seed: int = 0,
) -> tuple[nn.Module, dict[str, np.ndarray]]:
  """Returns a module and its params by name: normal noise, and around 1 for scales.

  Initial values of the module would have to be compiled.

  Args:
    config: The model.
    noise: Standard deviation of the noise.
    seed: Seed of the noise.
  """
  module = registry.build(config)
  rng = np.random.default_rng(seed)
  return module, {
      name: np.float32(name.endswith("scale") + noise * rng.normal(size=spec.shape))
      for name, spec in registry.specs(module).items()}


# All tests share this jitted function, so that each program is compiled only once.
@functools.partial(jax.jit, static_argnames=("module", "method", "train", "length"))
def apply(
    module: nn.Module, params: Mapping[str, Any], *args: Any, **kwargs: Any,
) -> Any:
  """Applies a module to params by name; an implicit change of dtype is an error."""
  with jax.numpy_dtype_promotion("strict"):
    return module.apply({"params": tree.unflatten(params)}, *args, **kwargs)
