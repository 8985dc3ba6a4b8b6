"""The attention of a recurrent decoder over what its encoder read.

Axes: B rows, R texts (rows times the branches of each), T position, S place in what
the encoder read, D embedding width, U hidden width, M width of the memory, A width of
keys. Outside the loop arrays are time-major.
"""

from collections.abc import Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen.models import attention_step
from transfer_gen.models import cells
from transfer_gen.models import deferred
from transfer_gen.models import layers
from transfer_gen.models import recurrent_layers

Input = recurrent_layers.Input
Parts = recurrent_layers.Parts
# Entries of a cache: what the encoder read, and what the next step needs beside states.
MEMORY, FEED, SEEN = "memory", "feed", "seen"
_CONTEXT = "context"


def fed(config: config_lib.Recurrent) -> tuple[Input, ...]:
  """Returns what the first layer reads beside the token."""
  found = ()
  if config.encoder_attention == "additive":
    found += (Input(_CONTEXT, "memory", config.memory_width),)
  if config.input_feeding:
    found += (Input(FEED, "hidden", config.widths[-1]),)
  return found


def outputs(config: config_lib.Recurrent) -> tuple[Input, ...]:
  """Returns what the output reads."""
  found = (Input("", "hidden", config.widths[-1]),)
  if config.attention_output in ("context", "embed"):
    found += (Input(_CONTEXT, "memory", config.memory_width),)
  if config.attention_output == "embed":
    found += (Input("embed", "embed", config.embed_width),)
  return found


class Attention(nn.Module):
  """The scores of an attention, and what becomes of its context.

  What the encoder's two directions return at a place is one array, in which their units
  alternate, as in the states that it hands on.

  Attributes:
    config: The model's config.

  Params: for `additive` and `concat` key/kernel f32[M, A], query/kernel f32[U, A],
  score/kernel f32[A], and with coverage coverage/kernel f32[A]; for `sum` score/kernel
  f32[U]; for `general` key/kernel f32[M, U]; biases of the first two where
  `attention_bias` says so; factor f32[], if the config has it; for the output `hidden`
  combine/kernel f32[U, U], combine/kernel_context f32[M, U] and combine/bias.
  """
  config: config_lib.Recurrent

  # In `general`, too, the kernel stands at the keys: there it acts once for each text
  # that is read, and not in each step.
  def setup(self) -> None:
    """Creates the submodules and params."""
    config, memory = self.config, Input("", "memory", self.config.memory_width)
    self.taps = [layers.Tap(i) for i in range(config.num_layers)]
    state, width = Input("", "hidden", config.widths[-1]), config.score_width
    if self._adds:
      self.key = recurrent_layers.Affine(
          (memory,), width, "mlp", config, config.attention_bias != "none")
      self.query = recurrent_layers.Affine(
          (state,), width, "mlp", config, config.attention_bias == "both")
      self.score = recurrent_layers.Vector(width, "mlp")
      if config.coverage:
        self.coverage = recurrent_layers.Vector(width, "mlp", reads=False)
    elif config.encoder_attention == "general":
      self.key = recurrent_layers.Affine(
          (memory,), state.size, "hidden", config, False, contracted=True)
    elif config.encoder_attention == "sum":
      self.score = recurrent_layers.Vector(state.size, "hidden")
    if config.attention_factor:
      self.factor = self.param("factor", layers.boxed(nn.initializers.ones), ())
    if config.attention_output == "hidden":
      self.combine = recurrent_layers.Affine(
          (state, memory._replace(part=_CONTEXT)), state.size, "hidden", config)

  def read(self, value: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
    """Returns the memory, see `attention_step.attend`.

    Args:
      value: dtype[B, S, M], what the encoder's last layer returned.
      valid: bool[B, S], False at places that are padding.
    """
    memory = {"value": value, "valid": valid}
    if self.config.encoder_attention not in ("dot", "sum"):
      memory["key"] = self.key({"": memory["value"]})
    # The product of a key and a query is as large as the factor makes the key.
    if self.config.attention_factor:
      key = memory.get("key", memory["value"])
      memory["key"] = key * self.factor.astype(key.dtype)
    return memory

  def start(self, memory: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns what a cache holds at the beginning beside states: zeros[B, ...]."""
    rows, places, _ = memory["value"].shape
    found = {}
    if self.config.input_feeding:
      found[FEED] = jnp.zeros((rows, self.config.widths[-1]), memory["value"].dtype)
    if self.config.coverage:
      found[SEEN] = jnp.zeros((rows, places))
    return found

  def __call__(self, top: jax.Array, memory: dict[str, jax.Array]) -> Parts:
    """Attends from all steps at once: dtype[T, B, U] to dtype[T, B, ...] by part."""
    query = self.query({"": top}) if self._adds else top
    _, context = attention_step.attend(self._vectors(), memory, query.swapaxes(0, 1))
    parts = {"": top, _CONTEXT: context.swapaxes(0, 1)}
    if self.config.attention_output == "hidden":
      return {"": jnp.tanh(self.combine(parts))}
    return parts

  def run(
      self, blocks: Sequence[recurrent_layers.Layer], x: Parts, cache: dict[str, Any],
      memory: dict[str, jax.Array], valid: jax.Array | None = None,
      train: bool = False,
  ) -> tuple[dict[str, Any], Parts]:
    """Reads tokens one after the other.

    Args:
      blocks: The decoder's layers.
      x: What the first one reads of all tokens, [T, R, ...].
      cache: `states`, a layer, its carry dtype[R, U] each; and what `start` returned,
        or the last call.
      memory: What `read` returned, of B rows; R is a multiple of B.
      valid: bool[T, R]; where it is False, the cache does not change. None: everywhere.
      train: Whether dropout acts.

    Returns:
      The cache that follows, and what the output reads, dtype[T, R, ...] by part.
    """
    config, rows = self.config, memory["value"].shape[0]
    kind = cells.kind(config.cell, config.gate, config.reset_after)
    kernels, shared, inputs, kept = self._prepared(blocks, x, kind, train)
    carry = {"states": jax.tree.map(jnp.transpose, tuple(cache["states"]))}
    if config.input_feeding:
      carry[FEED] = cache[FEED].T
    if config.coverage:
      carry[SEEN] = cache[SEEN].reshape(rows, -1, cache[SEEN].shape[-1])
    form = attention_step.Form(
        cell=kind, before=config.encoder_attention == "additive", projects=self._adds,
        combines=config.attention_output == "hidden", feeds=config.input_feeding,
        heard=tuple(tap.layer for tap in self.taps if tap.is_heard()))
    after, y = deferred.scan(
        functools.partial(attention_step.step, form), kernels,
        {**shared, MEMORY: memory}, carry,
        {"inputs": inputs, "kept": kept, "valid": valid})
    found = {"states": jax.tree.map(jnp.transpose, after["states"])}
    if config.input_feeding:
      found[FEED] = after[FEED].T
    if config.coverage:
      found[SEEN] = after[SEEN].reshape(cache[SEEN].shape)
    y = jax.tree.map(lambda part: part.swapaxes(1, 2), y)
    for layer, states in zip(form.heard, y.pop("states"), strict=True):
      self.taps[layer](states.swapaxes(0, 1))
    return found, y

  def _prepared(self, blocks, x, kind, train):
    """Returns what the loop multiplies with, what it shares, and what differs by step.

    The latter are the first inputs, and the factors of dropout by name of the kernel.
    """
    config, dtype = self.config, layers.computation_dtype(self.config.dtype)
    flat = lambda kernel: kernel.reshape(kernel.shape[0], -1).T
    kernels, biases, known, kept = {}, [], [], {}
    for i, block in enumerate(blocks):
      a, later, recurrent, bias = block.looped({} if i else x, train)
      known.append(jnp.moveaxis(a, 1, -1))  # [T, G, U, R]
      biases.append(None if bias is None else bias[..., None])
      kernels |= {f"{i}/{part}": flat(kernel) for part, kernel in later.items()}
      if train:
        factors = {f"{i}/{part}": block.factors(part, *known[0].shape[::3])
                   for part in later}
        kept |= {name: one for name, one in factors.items() if one is not None}
      whole = cells.whole(recurrent)
      gates = {"": slice(None)} if kind.whole else {"_0": slice(2), "_2": slice(2, 3)}
      kernels |= {f"{i}/recurrent{name}": flat(whole[:, part])
                  for name, part in gates.items()}
    shared = {"inputs": [one[0] for one in known[1:]], "biases": biases,
              "vectors": self._vectors(), "query": None, "combine": None}
    if self._adds:
      parts, shared["query"] = _turned(self.query.weights(dtype))
      kernels["query"] = parts[""]
    if config.attention_output == "hidden":
      parts, shared["combine"] = _turned(self.combine.weights(dtype))
      kernels |= {f"combine/{part}": kernel for part, kernel in parts.items()}
    return kernels, shared, known[0], kept

  def _vectors(self):
    """Returns what scores are made with beside products, see `attention_step`."""
    found = {}
    if self._adds or self.config.encoder_attention == "sum":
      found["score"] = self.score()
    if self.config.coverage:
      found["coverage"] = self.coverage()
    return found

  @property
  def _adds(self):
    return self.config.encoder_attention in ("additive", "concat")


def _turned(weights):
  """Returns kernels dtype[F, D] by part, and the bias dtype[F, 1] or None."""
  parts, bias = weights
  return ({name: kernel.T for name, kernel in parts.items()},
          None if bias is None else bias[:, None])
