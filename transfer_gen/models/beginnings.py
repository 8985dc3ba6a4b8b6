"""The beginning of a model: computed apart from the rest, and put in its place later.

A beginning is the first layers of a chain, or the encoder of a model that has one. What
the rest of the model reads of it are entries of a batch, whose names begin with
`hidden`: made once, they can be stored with the rows of the data.

Axes: B batch, T position, S position in what an encoder reads, D width of an output.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

from flax import linen as nn
import jax

from transfer_gen import tree
from transfer_gen.config import names
from transfer_gen.models import extended
from transfer_gen.models import layers
from transfer_gen.models import registry
from transfer_gen.models import taps

HIDDEN = "hidden"
_ENCODED = "encoded"  # The method of models that have an encoder.
Arrays = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Layers:
  """The first layers of a chain, and the embedding before them.

  It gives `hidden` dtype[B, T, D], the output of the last of these layers.

  Attributes:
    count: How many layers, at least 1.
    reads: Entries of a batch that it reads, if the batch has them.
  """
  count: int
  reads: ClassVar[tuple[str, ...]] = ("inputs", "positions")

  def __str__(self) -> str:
    return f"the embedding and {self.count} layers"

  def holds(self, name: str) -> bool:
    """Whether a leaf has a part in what the beginning gives."""
    number = names.layer_number(name)
    return name.split("/")[0] not in names.AFTER_LAYERS and (
        number is None or number < self.count)

  def outputs(
      self, module: extended.Model, params: Arrays, batch: Mapping[str, Any]
  ) -> dict[str, jax.Array]:
    """Computes what the rest of the model reads of a batch, without dropout.

    Args:
      module: A model with at least as many layers. Of one that has an encoder too, the
        layers are the decoder's.
      params: Flat params, by name.
      batch: What the model reads.
    """
    with taps.listening(hidden=(self.count - 1,)) as seen:
      module.apply({"params": tree.unflatten(params)}, batch["inputs"],
                   **registry.reads(batch))
    return {HIDDEN: seen.hidden[self.count - 1]}

  def resume(
      self, module: extended.Model, variables: Any, given: Arrays, *args: Any,
      **kwargs: Any) -> Any:
    """Applies a model without its beginning.

    Args:
      module: A Decoder, or a Recurrent whose layers are one chain.
      variables: Variables for `apply`.
      given: What `outputs` returned, in any dtype.
      *args: Arguments for `apply`.
      **kwargs: Arguments for `apply`.

    Returns:
      What `apply` returns.
    """
    return taps.resume(
        module, variables, given[HIDDEN], self.count, *args, **kwargs)


@dataclasses.dataclass(frozen=True)
class Encoder:
  """The encoder of a model, and the token table that it reads.

  It gives what the model's `encoded` returns, each name behind `hidden_`, such as
  `hidden_top` dtype[B, S, D]. All that leads from there to the decoder belongs to the
  decoder: a bridge, and the keys and values of cross-attention. Of a model of drawings
  it gives the mean and the width of the latent.

  Attributes:
    leaves: Regexes for whole names of the leaves that have a part in it, see
      `names.encoder_leaves`.
    reads: As of `Layers`, in the order in which `encoded` takes them.
  """
  leaves: tuple[str, ...]
  reads: tuple[str, ...] = ("encoder_inputs", "encoder_counts")

  def __str__(self) -> str:
    return "the encoder"

  def holds(self, name: str) -> bool:
    """As of `Layers`."""
    return tree.match(self.leaves, name) is not None

  def outputs(
      self, module: extended.Model, params: Arrays, batch: Mapping[str, Any]
  ) -> dict[str, jax.Array]:
    """As of `Layers`; the decoder does not run."""
    found: Any = module.apply(
        {"params": tree.unflatten(params)}, *(batch[name] for name in self.reads),
        method=_ENCODED)
    return {f"{HIDDEN}_{name}": value for name, value in found.items()}

  def resume(
      self, module: extended.Model, variables: Any, given: Arrays, *args: Any,
      **kwargs: Any) -> Any:
    """As of `Layers`; `module` is a model that has an encoder."""
    dtype = layers.computation_dtype(module.config.dtype)
    found = {name.removeprefix(f"{HIDDEN}_"): value.astype(dtype)
             for name, value in given.items()}

    def skip(call, args, kwargs, context):
      # Only the model itself, whose path is empty: parts of it may have such a method.
      own = context.method_name == _ENCODED and not context.module.path
      return found if own else call(*args, **kwargs)

    with nn.intercept_methods(skip):
      return module.apply(variables, *args, **kwargs)


Beginning = Layers | Encoder


def encoder(config: registry.Config) -> Encoder | None:
  """Returns the beginning that is the encoder of a model; None if it has none."""
  leaves = names.encoder_leaves(config)
  if registry.is_drawn(config):
    # The states of the pen behind each point are the targets.
    has = getattr(config, "latent_width", 0)
    return Encoder(leaves, ("values", "targets")) if has else None
  return Encoder(leaves) if config.encodes else None


def stored(batch: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the entries of a batch that are outputs of a beginning."""
  return {name: value for name, value in batch.items() if name.startswith(HIDDEN)}
