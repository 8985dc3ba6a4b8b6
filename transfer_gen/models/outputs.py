"""What models give beside logits, by name, such as the mean of a latent."""

from typing import Any

from flax import linen as nn
import jax

from transfer_gen import tree

COLLECTION = "outputs"  # Of Flax variables.


def give(module: nn.Module, name: str, value: jax.Array) -> None:
  """Hands out a value of a forward pass beside the logits.

  A module calls it inside of `__call__`. It costs nothing unless somebody asks:
  `train.combined.TERMS` lists the names that terms of the loss read.

  Args:
    module: The module that has the value, at any depth of a model.
    name: The name by which it is found, such as `latent_mean`; one of its own within a
      model.
    value: The value.
  """
  # Without the two functions Flax would collect a tuple of all calls.
  latest: Any = lambda _, new: new
  module.sow(COLLECTION, name, value, init_fn=lambda: None, reduce_fn=latest)


def given(state: Any) -> dict[str, jax.Array]:
  """Returns what modules have given, by name.

  Args:
    state: The changed collections that `apply` returns with `mutable=[COLLECTION]`.
  """
  return {name.rpartition("/")[2]: value
          for name, value in tree.flatten(state.get(COLLECTION, {})).items()}
