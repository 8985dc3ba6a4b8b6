"""Reads hidden states between the layers of a model, or puts them there.

Axes: B batch, T position, D width of a layer's output, H heads, K head width.
"""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
from typing import Any

from flax import linen as nn
import jax

from transfer_gen import config as config_lib
from transfer_gen.config import names
from transfer_gen.models import blocks
from transfer_gen.models import extended
from transfer_gen.models import layers
from transfer_gen.models import recurrent_layers

_SIDES = ((), ("decoder",))  # Scopes of the layers that read generated tokens.
# What MiniLMv2 compares (Wang et al., 2021), see `config.Distill.attention`.
_RELATED = ("query", "key", "value")


@dataclasses.dataclass(frozen=True)
class Seen:
  """Intermediate values of a forward pass; XLA drops those that are not used.

  Attributes:
    hidden: Output of each layer, dtype[B, T, D], by layer.
    related: Projected queries, keys and values, dtype[B, T, H, K], by layer.
  """
  hidden: dict[int, jax.Array]
  related: dict[int, dict[str, jax.Array]]


# Interception leaves the models alone: they return logits only, and who trains on more
# listens. Projections are distinguished by the name `attn` of their attention, because
# those of cross-attention have the same names below it.
@contextlib.contextmanager
def listening(
    hidden: Iterable[int] = (), related: Iterable[int] = ()) -> Iterator[Seen]:
  """Records intermediate values of a module that is applied inside the context.

  Args:
    hidden: Layers whose outputs are recorded, counted from 0. In a model with an
      encoder these are layers of the decoder; of one of drawings see `Sketch.widths`.
    related: Layers of a Transformer whose queries, keys and values are recorded.

  Yields:
    A `Seen` that is filled when `apply` returns.
  """
  hidden, related = frozenset(hidden), frozenset(related)
  seen = Seen(hidden={}, related={layer: {} for layer in related})
  before = 0  # Positions of a latent, which stand before those of tokens.

  def listen(call, args, kwargs, context):
    nonlocal before
    if isinstance(context.module, blocks.Block):
      before = context.module.config.prefix
      # What is recorded inside of a block would be lost where the block is computed
      # again, see `remat.again`.
      if context.method_name == "__call__" and _layer(context.module) in seen.related:
        call = context.module.compute
    if isinstance(context.module, layers.Tap):
      if context.method_name == "is_heard":
        return context.module.layer in hidden
      if context.method_name == "__call__" and context.module.layer in hidden:
        seen.hidden[context.module.layer] = args[0]
    result, path = call(*args, **kwargs), context.module.path
    if context.method_name != "__call__":
      return result
    if (layer := _layer(context.module)) in hidden:
      seen.hidden[layer] = _output(result)[:, before:]
    elif (isinstance(context.module, layers.Dense) and path[-2:-1] == ("attn",)
          and path[-1] in _RELATED and (layer := _number(path[:-2])) in seen.related):
      seen.related[layer][path[-1]] = result[:, before:]
    return result

  with nn.intercept_methods(listen):
    yield seen


# Layers below `first` hand on what they are given, and the last of them returns
# `hidden` instead. Nothing then depends on the look-up of tokens, which XLA drops.
def resume(
    module: extended.Model, variables: Any, hidden: jax.Array, first: int, *args: Any,
    **kwargs: Any
) -> Any:
  """Applies a module from a layer on.

  Args:
    module: A Decoder, or a Recurrent whose layers are one chain.
    variables: Variables for `apply`.
    hidden: dtype[B, T, D], the output of layer `first - 1`.
    first: The first layer that runs, and reads `hidden`.
    *args: Arguments for `apply`.
    **kwargs: Arguments for `apply`.

  Returns:
    What `apply` returns.
  """
  def skip(call, args, kwargs, context):
    layer = _layer(context.module)
    if layer is None or layer >= first or context.method_name != "__call__":
      return call(*args, **kwargs)
    if isinstance(context.module, blocks.Block):
      x = args[0] if layer < first - 1 else hidden.astype(args[0].dtype)
      return x, None
    dtype = layers.computation_dtype(context.module.config.dtype)
    return {"": hidden.astype(dtype).swapaxes(0, 1)}

  with nn.intercept_methods(skip):
    return module.apply(variables, *args, **kwargs)


def width(config: Any, layer: int) -> int:
  """Returns the number of features of a layer's output, D."""
  if isinstance(config, (config_lib.Recurrent, config_lib.Sketch)):
    return config.widths[layer]
  return config.width


def why_unheard(config: Any) -> str:
  """Returns why the layers of a model have no output for each position of a row.

  Args:
    config: Config of the model.

  Returns:
    A part of a sentence; "" if they have one, and `listening` records it.
  """
  if not isinstance(config, config_lib.Recurrent):
    return ""
  if config.window:  # Each position is computed from the tokens of its window alone.
    return "a model with a window has no hidden states of a whole row"
  return ""


def axis(config: Any) -> str:
  """Returns the logical axis of the features of layers' outputs."""
  return "hidden" if isinstance(
      config, (config_lib.Recurrent, config_lib.Sketch)) else "embed"


def _layer(module: nn.Module) -> int | None:
  """Returns the number of the layer that a module is, or None."""
  if not isinstance(module, (blocks.Block, recurrent_layers.Layer)):
    return None
  return _number(module.path)


def _number(path: tuple[str, ...]) -> int | None:
  if path[:-1] not in _SIDES or not path:
    return None
  return names.layer_number(path[-1])


def _output(result: Any) -> jax.Array:
  """Returns dtype[B, T, D] out of what a layer returns."""
  if isinstance(result, tuple):
    return result[0]
  return result[""].swapaxes(0, 1)
