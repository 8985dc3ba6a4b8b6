"""What a layer computes again in the backward pass instead of keeping it in memory."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax

# By the values of `remat` in configs: what waits for the backward pass all the same.
# `full` is that of Chen et al. (2016).
_POLICIES: dict[str, Callable[..., Any]] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_with_no_batch_dims":
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


# Calls of modules inside are intercepted as ever, and find their params: Flax lifts
# them. But what an interceptor keeps of them must not be used outside, where it means
# nothing, see `taps.listening`.
def again(
    policy: str, module: nn.Module, compute: Callable[..., Any], *args: Any) -> Any:
  """Returns `compute(module, *args)`, parts of which the backward pass computes again.

  Args:
    policy: As `Decoder.remat`; with `none` it is a plain call.
    module: The module whose params are used; bound.
    compute: Function of the module and arrays. It keeps no array of its own.
    *args: The arrays, in any pytree.
  """
  if policy == "none" or module.is_initializing():
    return compute(module, *args)
  return nn.remat(compute, policy=_POLICIES[policy])(module, *args)
